// The chosen picture, large: it grows as its steps arrive, and a slider goes back through them.
import { free, put } from "./urls.js";

const at = (id) => document.getElementById(id);
const PACE = 140; // milliseconds between steps, however fast they arrive, so that one sees them
const LEAST = 256, MOST = 576, GAP = 16; // pixels of the page
const still = matchMedia("(prefers-reduced-motion: reduce)");
const slider = at("scales"), large = at("large"), under = at("under");
let picture, beside, step = -1, timer, growing = false;

/** Small pictures are enlarged by whole numbers of the screen's pixels, so that each of theirs stays a sharp square. */
function fit() {
  const wide = large.naturalWidth, high = large.naturalHeight, stage = at("stage").clientWidth;
  if (!wide) return;
  const side = Math.min(MOST, Math.max(LEAST, innerHeight / 2)); // so that the gallery is in sight, too
  const room = Math.min(side, at("before").hidden ? stage : (stage - GAP) / 2), times = room / Math.max(wide, high);
  const coarse = times >= 2, screen = devicePixelRatio;
  at("pair").style.setProperty("--side", `${wide * (coarse ? Math.floor(times * screen) / screen : times)}px`);
  at("pair").style.setProperty("--shape", wide / high);
  for (const image of [large, under, at("original")]) image.classList.toggle("coarse", coarse);
}
large.addEventListener("load", fit);
addEventListener("resize", fit);

function show() {
  free(under);
  if (large.src) {
    under.src = large.src;
    large.removeAttribute("src");
  }
  under.hidden = !under.src;
  put(large, picture.frames[step]);
  if (!still.matches) large.animate([{ opacity: 0 }, { opacity: 1 }], PACE * 1.5);
  const count = picture.scales ?? picture.frames.length;
  slider.value = step + 1;
  at("scale").textContent = `step ${step + 1} of ${count}`;
  slider.setAttribute("aria-valuetext", at("scale").textContent);
}

function grow() {
  timer = undefined;
  if (!growing || step + 1 >= picture.frames.length) return;
  step += 1;
  show();
  timer = setTimeout(grow, PACE);
}

/** Tells what is known of the picture by now. */
function tell() {
  at("frame").classList.toggle("waiting", !picture.frames.length);
  large.alt = at("caption").textContent = picture.about;
  for (const id of ["repeat", "vary"]) at(id).disabled = !picture.whole || Boolean(picture.lacking);
  for (const id of ["paint", "extend"]) at(id).disabled = !picture.whole;
  at("giving").hidden = !picture.lacking;
  at("givenmasklabel").hidden = !picture.lacking?.mask_image;
  at("givenmask").required = Boolean(picture.lacking?.mask_image);
  at("remove").hidden = !at(`kept-${picture.id}`);
  at("growth").hidden = (picture.scales ?? picture.frames.length) < 2;
  slider.max = picture.scales ?? picture.frames.length;
  at("download").hidden = !picture.whole;
  if (picture.whole) {
    put(at("download"), picture.blob);
    at("download").download = `nextscale-${picture.request.seed ?? "picture"}.png`;
  }
  at("downloadmask").hidden = !picture.whole || !picture.files?.mask;
  if (!at("downloadmask").hidden) {
    put(at("downloadmask"), picture.files.mask);
    at("downloadmask").download = `nextscale-${picture.request.seed ?? "picture"}-mask.png`;
  } else free(at("downloadmask"));
  at("before").hidden = !picture.beside;
  if (!picture.beside || picture.beside === beside) return;
  beside = picture.beside;
  put(at("original"), picture.beside.blob);
  at("original").alt = at("originalcaption").textContent = picture.beside.about;
  at("pair").classList.toggle("after", Boolean(picture.beside.after));
}

/** Shows a picture as it is now; one under way grows on from its first step. */
export function choose(chosen) {
  picture = chosen;
  clearTimeout(timer);
  timer = undefined;
  at("empty").hidden = true;
  at("chosen").hidden = false;
  growing = !picture.whole;
  step = growing ? -1 : picture.frames.length - 1;
  free(large);
  free(under);
  tell();
  if (growing) grow();
  else show();
}

/** Nothing was drawn yet. */
export function nothing() {
  at("empty").hidden = false;
  at("chosen").hidden = at("remove").hidden = true;
}

/** A picture has another step, is finished, or has something beside it now. */
export function changed(one) {
  if (one !== picture) return;
  tell();
  fit();
  if (timer === undefined) grow();
}

/** The last step, still and alone, while it is painted over; or what is beside it again. */
export function alone(on) {
  at("before").hidden = on || !picture.beside;
  fit();
  if (!on) return;
  growing = false;
  step = picture.frames.length - 1;
  show();
}

slider.addEventListener("input", () => {
  growing = false;
  step = Math.min(Number(slider.value), picture.frames.length) - 1;
  show();
});
at("replay").addEventListener("click", () => {
  clearTimeout(timer);
  growing = true;
  step = -1;
  grow();
});
