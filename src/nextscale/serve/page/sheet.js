// One drawing under way: its pictures sharpen in place, scale by scale.
import * as api from "./api.js";

export function put(image, blob) {
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
}

/** A button with a picture; `choose` is called with it. */
export function button(picture, choose) {
  const here = document.createElement("button"), image = document.createElement("img");
  here.type = "button";
  here.className = "picture";
  image.alt = picture.about;
  if (picture.blob) put(image, picture.blob);
  here.append(image);
  here.addEventListener("click", () => picture.blob && choose(picture));
  return here;
}

/** The request of one picture among those of a request. */
function single(request, index, seed) {
  const one = { ...request, n: 1, seed };
  if (Array.isArray(request.class_labels)) one.class_labels = request.class_labels[Math.floor(index / (request.n ?? 1))];
  return one;
}

/** Draws `request` under a title; `choose` follows a click, `finished` gets every whole picture. */
export async function draw(request, files, title, choose, finished, signal) {
  const sheet = document.createElement("div"), head = document.createElement("h2"), room = document.createElement("div");
  sheet.className = "sheet";
  room.className = "pictures";
  head.textContent = title;
  sheet.append(head, room);
  document.getElementById("sheets").append(sheet);
  const pictures = new Map();
  for await (const event of api.draw(request, files, signal)) {
    let entry = pictures.get(event.index);
    if (!entry) {
      const picture = { about: "a picture under way", frames: [], files };
      entry = { picture, button: button(picture, choose) };
      pictures.set(event.index, entry);
      room.append(entry.button);
    }
    const { picture, button: here } = entry, image = here.querySelector("img");
    picture.blob = api.blob(event.b64_json, event.output_format);
    picture.frames.push(picture.blob);
    picture.request = single(request, event.index, event.seed);
    put(image, picture.blob);
    if (!event.type.endsWith(".completed")) continue;
    entry.whole = true;
    picture.about = `${event.revised_prompt || "a picture"}, seed ${event.seed}, ${event.model}`;
    image.alt = picture.about;
    await finished(picture, event.warnings ?? []);
  }
  if (![...pictures.values()].every((entry) => entry.whole)) {
    throw new api.Refused("The server stopped before every picture was whole: draw again.", 0);
  }
}
