// A brush over the large picture, by pointer or keys. What it painted is the mask of an edit.
const canvas = document.getElementById("brush");
const width = document.getElementById("width"), erase = document.getElementById("erase");
const FINE = 640; // pixels of the canvas along its longer side, however small the picture is
const painted = document.createElement("canvas"); // has the picture's pixels
let at = { x: 0, y: 0 }, down = false, times = 1;

function show() {
  const pen = canvas.getContext("2d");
  pen.setTransform(times, 0, 0, times, 0, 0);
  pen.clearRect(0, 0, painted.width, painted.height);
  pen.imageSmoothingEnabled = false;
  pen.globalAlpha = 0.65;
  pen.drawImage(painted, 0, 0);
  pen.globalAlpha = 1;
  for (const [colour, line] of [["#000", 4], ["#fff", 2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = line / times;
    pen.beginPath();
    pen.arc(at.x, at.y, width.value / 2, 0, 7);
    pen.stroke();
  }
}

function dab(away) {
  const pen = painted.getContext("2d", { willReadFrequently: true });
  pen.globalCompositeOperation = away ? "destination-out" : "source-over";
  pen.fillStyle = "#e0218a";
  pen.beginPath();
  pen.arc(at.x, at.y, width.value / 2, 0, 7);
  pen.fill();
}

function pointer(event) {
  const box = canvas.getBoundingClientRect();
  at = { x: (event.clientX - box.x) / box.width * painted.width, y: (event.clientY - box.y) / box.height * painted.height };
  if (down) dab(erase.checked);
  show();
}
canvas.addEventListener("pointerdown", (event) => { down = true; canvas.setPointerCapture(event.pointerId); pointer(event); });
canvas.addEventListener("pointermove", pointer);
for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { down = false; });

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
canvas.addEventListener("keydown", (event) => {
  const move = MOVES[event.key], step = Math.max(1, painted.width / 32);
  if (move) {
    at.x = Math.min(painted.width, Math.max(0, at.x + move[0] * step));
    at.y = Math.min(painted.height, Math.max(0, at.y + move[1] * step));
  } else if (event.key === "+" || event.key === "-") width.value = Number(width.value) + (event.key === "+" ? 2 : -2);
  else if (event.key === " ") dab(erase.checked);
  else if (event.key === "Backspace") dab(true);
  else return;
  event.preventDefault();
  show();
});
width.addEventListener("input", show);

/** Starts anew on a picture of this many pixels. */
export function start(wide, high) {
  [painted.width, painted.height] = [wide, high];
  times = FINE / Math.max(wide, high);
  [canvas.width, canvas.height] = [wide * times, high * times];
  width.max = Math.max(wide, high);
  width.value = Math.max(1, Math.round(Math.max(wide, high) / 5));
  erase.checked = false;
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
