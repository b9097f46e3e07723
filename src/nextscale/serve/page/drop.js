// A picture that is dropped or opened is handed on.
const here = document.getElementById("drophere");

export function listen(take) {
  addEventListener("dragover", (event) => {
    event.preventDefault();
    here.hidden = !event.dataTransfer.types.includes("Files");
  });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) here.hidden = true; });
  addEventListener("drop", (event) => {
    event.preventDefault();
    here.hidden = true;
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  document.getElementById("file").addEventListener("change", (event) => {
    if (event.target.files[0]) take(event.target.files[0]);
    event.target.value = "";
  });
}
