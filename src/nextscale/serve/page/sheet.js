// One drawing under way: its pictures sharpen in place, step by step.
import * as api from "./api.js";
import { put } from "./urls.js";

/** A button with a picture; `choose` is called with it. */
export function button(picture, choose) {
  const here = document.createElement("button"), image = document.createElement("img");
  here.type = "button";
  here.className = "picture";
  here.picture = picture;
  image.alt = picture.about;
  if (picture.blob) put(image, picture.blob);
  here.append(image);
  here.addEventListener("click", () => choose(picture));
  return here;
}

/** The request of one picture among those of a request. */
function single(request, index, seed) {
  const one = { ...request, n: 1, seed };
  if (Array.isArray(request.class_labels)) one.class_labels = request.class_labels[Math.floor(index / (request.n ?? 1))];
  return one;
}

function begin(title) {
  const sheet = document.createElement("div"), head = document.createElement("h2"), room = document.createElement("div");
  sheet.className = "sheet";
  room.className = "pictures";
  head.textContent = title;
  head.hidden = !title;
  sheet.append(head, room);
  document.getElementById("sheets").append(sheet);
  return room;
}

/**
 * Draws {request, files, title, beside(index), recipe}; a recipe says what the request does, and is sent in its place.
 * `listen` has what is called with a picture: began, grown, finished
 * (with the server's warnings), and choose after a click. Returns the pictures in their order.
 */
export async function draw({ request, files, title, beside, recipe }, listen, signal) {
  const room = begin(title), entries = [];
  for await (const event of api.draw(recipe ? { recipe } : request, files, signal)) {
    let entry = entries[event.index];
    if (!entry) {
      const picture = { about: "", frames: [], files, scales: event.scales, beside: beside?.(event.index) };
      entry = entries[event.index] = { picture, button: button(picture, listen.choose) };
      room.append(entry.button);
    }
    const { picture, button: here } = entry, image = here.firstChild;
    picture.blob = api.blob(event.b64_json, event.output_format);
    picture.frames.push(picture.blob);
    picture.request = single(request, event.index, event.seed);
    picture.whole = event.type.endsWith(".completed");
    picture.about = picture.whole ? `${event.revised_prompt || "a picture"}, seed ${event.seed}, ${event.model}`
      : `a picture under way, seed ${event.seed}`;
    put(image, picture.blob);
    image.alt = picture.about;
    if (picture.frames.length === 1) listen.began(picture);
    listen.grown(picture, event.scale + 1, event.scales);
    if (picture.whole) await listen.finished(picture, event.warnings ?? []);
  }
  const pictures = entries.map((entry) => entry.picture);
  if (!pictures.length || !pictures.every((picture) => picture.whole)) {
    throw new api.Refused("The server stopped before every picture was whole: draw again.", 0);
  }
  return pictures;
}
