// Ties the parts of the page together.
import * as api from "./api.js";
import * as brush from "./brush.js";
import * as controls from "./controls.js";
import * as drop from "./drop.js";
import * as gallery from "./gallery.js";
import * as plan from "./plan.js";
import * as scales from "./scales.js";
import * as sheet from "./sheet.js";

const at = (id) => document.getElementById(id);
const say = (text) => { at("status").textContent = text; };
const SLOW = 5000; // milliseconds without an event, after which the page says that it waits
let chosen, running, planning;

function trouble(error) {
  if (error.name === "AbortError") return;
  at("trouble").textContent = error.message;
  if (error.status === 401) at("keyform").hidden = false;
}

/** Calls `work` at most every 300 ms, after the last call. */
function calm(work) {
  let timer;
  return () => { clearTimeout(timer); timer = setTimeout(work, 300); };
}

const price = calm(async () => {
  planning?.abort();
  planning = new AbortController();
  try {
    plan.show(await api.plan(controls.read(), planning.signal));
  } catch (error) {
    if (error.name !== "AbortError") at("cost").textContent = error.message;
  }
});

const suggest = calm(async () => {
  const query = new URLSearchParams({ model: controls.model().id, text: at("prompt").value, limit: 20 });
  const found = await api.get(`/v1/suggestions?${query}`).catch(() => ({ data: [] }));
  at("words").replaceChildren(...found.data.map((one) => new Option(one.class === one.text ? "" : one.class, one.text)));
});

function choose(picture, focus = true) {
  chosen = picture;
  at("chosen").hidden = false;
  at("large").alt = picture.about;
  at("caption").textContent = picture.about;
  scales.set(picture.frames, (blob) => sheet.put(at("large"), blob));
  at("download").href = URL.createObjectURL(picture.blob);
  at("download").download = `nextscale-${picture.request.seed ?? 0}.png`;
  at("before").hidden = !picture.files;
  if (picture.files) sheet.put(at("original"), picture.files.image);
  paint(false);
  if (focus) {
    controls.fill(picture.request);
    price();
    at("chosen").focus();
  }
}

function hang(picture) {
  const item = document.createElement("li");
  item.append(sheet.button(picture, choose));
  at("gallery").prepend(item);
  at("none").hidden = true;
}

async function finished(picture, warnings) {
  hang(picture);
  at("note").textContent = warnings.join(" ");
  if (!chosen || running.first) choose(picture, false);
  running.first = false;
  await gallery.keep(picture).catch(() => trouble(new Error("This browser keeps no gallery: download what you want to keep.")));
}

/** Draws each of [request, title] below one another, one after the other. */
async function draw(wanted, files) {
  running?.abort();
  const mine = running = new AbortController();
  mine.first = true;
  at("trouble").textContent = at("note").textContent = "";
  at("sheets").replaceChildren();
  at("stop").hidden = false;
  say("Drawing.");
  const slow = setTimeout(() => say("Still drawing: the server is slow or has others to draw for."), SLOW);
  try {
    for (const [request, title] of wanted) await sheet.draw(request, files, title, choose, finished, mine.signal);
    say("Done.");
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped." : "");
    trouble(error);
  } finally {
    clearTimeout(slow);
    if (running === mine) at("stop").hidden = true;
  }
}

function drawControls() {
  const request = controls.read(), [kind, name] = at("other").value.split(" ");
  if (!kind) return draw([[request, request.prompt ?? ""]]);
  request.seed ??= Math.floor(Math.random() * 2 ** 31);
  const other = { ...request };
  if (kind === "model") other.model = name;
  else other.methods = [{ name, count: Number(at("count").value) }];
  return draw([[request, request.model], [other, kind === "model" ? name : `${request.model}, ${name}`]]);
}

async function paint(on) {
  for (const id of ["painting", "brush"]) at(id).hidden = !on;
  at("paint").setAttribute("aria-expanded", on);
  if (!on) return;
  const picture = await createImageBitmap(chosen.blob);
  sheet.put(at("large"), chosen.blob);
  brush.start(picture.width, picture.height);
  at("brush").focus();
}

async function drawPainted() {
  const request = { ...controls.read(), n: 1 }, files = { image: chosen.blob }, typed = at("box").value.trim();
  delete request.size;
  if (typed) {
    request.box = typed.split(/[\s,]+/).map(Number);
    if (request.box.length !== 4 || request.box.some(Number.isNaN)) {
      return trouble(new Error(`A box is four numbers, x, y, width and height; got ${typed}.`));
    }
  } else {
    files.mask = await brush.mask();
    if (!files.mask) return trouble(new Error("Nothing is painted yet: paint over the picture, or type a box."));
  }
  return draw([[request, "Painted anew"]], files);
}

async function taken(file) {
  at("trouble").textContent = "";
  try {
    const told = await api.recipe(file), request = told.request;
    choose({ blob: file, frames: [file], request, about: `${file.name}, drawn by ${told.model}, seed ${told.seeds.join(", ")}` });
    plan.show(told);
    say(told.edit ? "The picture is an edit: its settings are filled in, and its original is not in the file."
      : "The recipe is read: its settings are filled in.");
  } catch (error) {
    trouble(error);
  }
}

function again(request) {
  return draw([[request, "Again"]], chosen.files);
}

async function start() {
  try {
    controls.start((await api.get("/v1/models")).data);
    suggest();
    price();
  } catch (error) {
    trouble(error);
  }
}

function submitted(id, work) {
  at(id).addEventListener("submit", (event) => { event.preventDefault(); work(); });
}

submitted("controls", drawControls);
submitted("painting", drawPainted);
submitted("keyform", () => {
  sessionStorage.setItem("key", at("key").value);
  at("trouble").textContent = "";
  at("keyform").hidden = true;
  start();
});
at("controls").addEventListener("input", price);
at("controls").addEventListener("change", price);
at("prompt").addEventListener("input", suggest);
at("model").addEventListener("change", suggest);
at("other").addEventListener("change", () => { at("countlabel").hidden = !at("other").value.startsWith("method"); });
at("stop").addEventListener("click", () => running.abort());
at("repeat").addEventListener("click", () => again(chosen.request));
at("vary").addEventListener("click", () => { const { seed, ...request } = chosen.request; again(request); });
at("paint").addEventListener("click", () => paint(at("painting").hidden).catch(trouble));
at("wipe").addEventListener("click", () => paint(true).catch(trouble));
at("clear").addEventListener("click", async () => {
  if (!confirm("Remove all pictures of the gallery from this browser?")) return;
  await gallery.clear().catch(trouble);
  at("gallery").replaceChildren();
  at("none").hidden = false;
});
drop.listen(taken);
gallery.all().then((pictures) => pictures.forEach(hang)).catch(() => {});
start();
