// The slider that goes back through the scales of a picture.
const slider = document.getElementById("scales");
let frames = [], show;

function move() {
  document.getElementById("scale").textContent = `${slider.value} of ${frames.length}`;
  show(frames[slider.value - 1]);
}
slider.addEventListener("input", move);

/** `pictures` are blobs, coarse to fine; `shown` gets the one that the slider stands at. */
export function set(pictures, shown) {
  [frames, show] = [pictures, shown];
  slider.max = frames.length;
  slider.value = frames.length;
  document.getElementById("scaleslabel").hidden = frames.length < 2;
  move();
}
