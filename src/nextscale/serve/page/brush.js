// A brush over the large picture, by pointer or keys. What it painted is the mask of an edit.
const canvas = document.getElementById("brush");
const width = document.getElementById("width");
const painted = document.createElement("canvas");
let at = { x: 0, y: 0 }, down = false;

function show() {
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.globalAlpha = 0.6;
  pen.drawImage(painted, 0, 0);
  pen.globalAlpha = 1;
  for (const [colour, grown] of [["#000", 0.5], ["#fff", 0]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = canvas.width / 200;
    pen.beginPath();
    pen.arc(at.x, at.y, width.value / 2 + grown, 0, 7);
    pen.stroke();
  }
}

function dab(erase) {
  const pen = painted.getContext("2d");
  pen.globalCompositeOperation = erase ? "destination-out" : "source-over";
  pen.fillStyle = "#e0218a";
  pen.beginPath();
  pen.arc(at.x, at.y, width.value / 2, 0, 7);
  pen.fill();
}

function pointer(event) {
  const box = canvas.getBoundingClientRect();
  at = { x: (event.clientX - box.x) / box.width * canvas.width, y: (event.clientY - box.y) / box.height * canvas.height };
  if (down) dab(false);
  show();
}
canvas.addEventListener("pointerdown", (event) => { down = true; canvas.setPointerCapture(event.pointerId); pointer(event); });
canvas.addEventListener("pointermove", pointer);
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { down = false; });

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  const move = MOVES[event.key], step = Math.max(1, canvas.width / 32);
  if (move) {
    at.x = Math.min(canvas.width, Math.max(0, at.x + move[0] * step));
    at.y = Math.min(canvas.height, Math.max(0, at.y + move[1] * step));
  } else if (event.key === "+" || event.key === "-") width.value = Number(width.value) + (event.key === "+" ? 2 : -2);
  else if (event.key === " ") dab(false);
  else if (event.key === "Backspace") dab(true);
  else return;
  event.preventDefault();
  show();
});
width.addEventListener("input", show);

/** Starts anew on a picture of this many pixels. */
export function start(wide, high) {
  [canvas.width, canvas.height, painted.width, painted.height] = [wide, high, wide, high];
  at = { x: wide / 2, y: high / 2 };
  show();
}

/** PNG whose alpha is 0 where the brush was; null where nothing was painted. */
export async function mask() {
  const here = painted.getContext("2d").getImageData(0, 0, painted.width, painted.height);
  let any = false;
  for (let i = 3; i < here.data.length; i += 4) {
    const hit = here.data[i] > 127;
    any ||= hit;
    here.data[i] = hit ? 0 : 255;
  }
  if (!any) return null;
  const out = new OffscreenCanvas(painted.width, painted.height);
  out.getContext("2d").putImageData(here, 0, 0);
  return out.convertToBlob({ type: "image/png" });
}
