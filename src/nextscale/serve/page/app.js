// Ties the parts of the page together.
import * as api from "./api.js";
import * as brush from "./brush.js";
import * as controls from "./controls.js";
import * as drop from "./drop.js";
import * as gallery from "./gallery.js";
import * as plan from "./plan.js";
import * as sheet from "./sheet.js";
import { free, put } from "./urls.js";
import * as view from "./view.js";

const at = (id) => document.getElementById(id);
const SLOW = 5000, OFTEN = 2000, LOOK = 2000; // milliseconds: until a server is slow, between words, between looks
let chosen, running, planning, looking, spoken = 0;

function say(text) {
  spoken = Date.now();
  at("status").textContent = text;
}

function trouble(error) {
  if (error.name === "AbortError") return;
  at("trouble").textContent = error.message;
  if (error.status === 0) looking ??= setInterval(look, LOOK);
  if (error.status === 401) {
    at("keyform").hidden = false;
    at("key").focus();
  }
}

/** Looks whether a server that was lost is back. */
async function look() {
  if (!await api.alive()) return;
  clearInterval(looking);
  looking = undefined;
  at("trouble").textContent = "";
  say("The server is back: draw again.");
  if (!controls.model()) start();
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
    if (error.name !== "AbortError") plan.refuse(error.message);
  }
});

async function suggestions(text, limit) {
  const query = new URLSearchParams({ model: controls.model().id, text, limit });
  return (await api.get(`/v1/suggestions?${query}`).catch(() => ({ data: [] }))).data;
}

const suggest = calm(async () => {
  const found = await suggestions(at("prompt").value, 20);
  at("words").replaceChildren(...found.map((one) => new Option(one.class === one.text ? "" : one.class, one.text)));
});

const SENTENCES = ["a strawberry", "a rocket", "a birthday cake", "a sad face with a tear", "a waving hand"];

/** Buttons that draw something at once: the model's example, and its shortest words with these letters, or sentences. */
async function offer() {
  const found = await Promise.all([..."bcfhst"].map((letter) => suggestions(letter, 1)));
  const known = found.flat().map((one) => one.text), { example, reads } = controls.model();
  const words = [...new Set([example, ...(reads.includes("class_labels") ? known : SENTENCES)])].filter(Boolean);
  at("starters").replaceChildren(...words.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", () => {
      at("prompt").value = text;
      at("controls").dispatchEvent(new Event("input"));
      at("controls").requestSubmit();
    });
    return button;
  }));
}

function show(picture) {
  chosen = picture;
  view.choose(picture);
  open();
  for (const button of document.querySelectorAll(".picture")) button.setAttribute("aria-current", button.picture === picture);
}

/** After a click: a finished picture brings its settings back, too. */
function choose(picture) {
  if (running) running.followed = true;
  show(picture);
  if (!picture.whole) return;
  at("trouble").textContent = "";
  if (controls.fill(picture.request)) price();
  else trouble(new Error(`${picture.request.model} drew this picture, and is not served here now: the settings stay as they are.`));
  at("chosen").focus();
}

function hang(picture) {
  const item = document.createElement("li");
  picture.whole = picture.hung = true;
  item.append(sheet.button(picture, choose));
  item.id = `kept-${picture.id ?? "here"}`;
  at("gallery").prepend(item);
  at("clear").hidden = false;
}

/** Takes a picture out of the gallery, and shows the next one there. */
async function remove(picture) {
  if (!confirm("Remove this picture from this browser?")) return;
  picture.gone = true;
  await gallery.remove(picture.id);
  const item = at(`kept-${picture.id}`), next = (item.nextElementSibling ?? item.previousElementSibling)?.firstChild;
  for (const button of document.querySelectorAll(".picture")) {
    if (button.picture !== picture) continue;
    free(button);
    (button.parentElement === item ? item : button).remove();
  }
  at("clear").hidden = !next;
  say("The picture is removed.");
  if (next) {
    show(next.picture);
    next.focus();
  } else {
    view.nothing();
    at("prompt").focus();
  }
}

async function keep(picture) {
  if (picture.gone) return;
  const gone = await gallery.keep(picture).catch(() => {
    trouble(new Error("This browser keeps no gallery: download what you want to keep."));
    return [];
  });
  if (!picture.hung) hang(picture);
  for (const id of gone) {
    const item = at(`kept-${id}`);
    if (!item) continue;
    free(item);
    item.remove();
  }
}

/** Draws each of {request, files, title} beside one another, one after the other. */
async function draw(wanted) {
  running?.abort();
  const mine = running = new AbortController(), drawn = [], before = chosen;
  let slow, first;
  const wait = () => {
    clearTimeout(slow);
    slow = setTimeout(() => say("Still drawing: the server is slow or has others to draw for."), SLOW);
  };
  const listen = {
    choose,
    began(picture) {
      if (first && !mine.followed) show(picture);
      first = false;
    },
    grown(picture, step, steps) {
      wait();
      view.changed(picture);
      if (Date.now() - spoken > OFTEN) say(`Drawing: step ${step} of ${steps}.`);
    },
    async finished(picture, warnings) {
      at("note").textContent = warnings.filter((one) => !at("reading").textContent.includes(one)).join(" ");
      await keep(picture);
      view.changed(picture);
    },
  };
  at("trouble").textContent = at("note").textContent = "";
  free(at("sheets"));
  at("sheets").replaceChildren();
  chosen = undefined;
  view.choose({ about: "", frames: [], beside: wanted[0].beside?.(0) });
  open();
  at("stop").hidden = false;
  at("draw").hidden = true;
  say("Drawing.");
  wait();
  try {
    for (const one of wanted) {
      const other = drawn.at(-1), beside = other && ((i) => other[i] && { blob: other[i].blob, about: wanted[0].title });
      first = true;
      drawn.push(await sheet.draw({ beside, ...one }, listen, mine.signal));
    }
    if (drawn.length > 1) await pair(drawn, wanted[1].title);
    say(drawn.flat().length === 1 ? "The picture is done." : `All ${drawn.flat().length} pictures are done.`);
  } catch (error) {
    if (running === mine) {
      say(error.name === "AbortError" ? "Stopped. What is unfinished is not kept." : "");
      trouble(error);
    }
  } finally {
    clearTimeout(slow);
    if (running === mine) {
      if (!chosen) before ? show(before) : view.nothing();
      at("stop").hidden = true;
      at("draw").hidden = false;
      running = undefined;
    }
  }
}

/** The first pictures of a comparison get the second ones beside them. */
async function pair([first, second], about) {
  for (const [i, picture] of first.entries()) {
    picture.beside = { blob: second[i].blob, about, after: true };
    view.changed(picture);
    await keep(picture);
  }
}

function drawControls() {
  const wanted = controls.wanted(), { prompt, class_labels: label, plan } = wanted[0].request;
  if (!prompt && label == null && !plan && controls.model().reads.includes("class_labels")) {
    at("prompt").focus();
    return trouble(new Error(`Nothing is typed yet: type what to draw, for example ${controls.model().example}.`));
  }
  return draw(wanted);
}

/** Opens the form that says where a picture is edited, "painting" or "extending", or none. */
async function open(form) {
  for (const [button, one] of [["paint", "painting"], ["extend", "extending"]]) {
    at(one).hidden = one !== form;
    at(button).setAttribute("aria-expanded", one === form);
  }
  at("brush").hidden = form !== "painting";
  view.alone(Boolean(form));
  if (!form) return;
  const { width, height } = await createImageBitmap(chosen.blob), margins = at("extending").elements;
  if (form === "painting") {
    brush.start(width, height);
    at("brush").focus();
  } else {
    for (const [side, whole] of [["left", width], ["right", width], ["top", height], ["bottom", height]]) {
      margins[side].value = Math.round(whole / 4);
    }
    margins.left.focus();
  }
}

/** What the words and settings say of an edit; its size is the picture's. */
function edited() {
  const { size, ...request } = controls.read();
  return { ...request, n: 1 };
}

function drawMargins() {
  const outpaint = {};
  for (const { name, value } of at("extending").querySelectorAll("input")) if (Number(value)) outpaint[name] = Number(value);
  if (!Object.keys(outpaint).length) return trouble(new Error("No margin is given yet: type how many pixels to add on a side."));
  return edit({ ...edited(), outpaint }, { image: chosen.blob });
}

async function drawPainted() {
  const request = edited(), files = { image: chosen.blob }, typed = at("box").value.trim();
  if (typed) {
    request.box = typed.split(/[\s,]+/).map(Number);
    if (request.box.length !== 4 || request.box.some(Number.isNaN)) {
      return trouble(new Error(`A box is four numbers, x, y, width and height; got ${typed}.`));
    }
  } else {
    files.mask = await brush.mask();
    if (!files.mask) return trouble(new Error("Nothing is painted yet: paint over the picture, or type a box."));
  }
  return edit(request, files);
}

function edit(request, files, recipe) {
  return draw([{ request, files, recipe, title: "", beside: () => ({ blob: files.image, about: "Before" }) }]);
}

/** Repeats an edit whose file was opened, with the picture that was edited. */
function drawGiven() {
  const { request, recipe, lacking } = chosen, { image, mask_image: masked, ...where } = lacking;
  const files = { image: at("given").files[0], ...(masked && { mask: at("givenmask").files[0] }) };
  return edit({ ...request, ...where }, files, recipe);
}

/** A file that was dropped or opened: its recipe is data, and is shown as text. */
async function taken(file) {
  at("trouble").textContent = at("note").textContent = "";
  try {
    const told = await api.recipe(file), { recipe, edit: lacking } = told;
    const about = `${file.name}: drawn by ${told.model}, seed ${told.seeds.join(", ")}`;
    running?.abort();
    free(at("sheets"));
    at("sheets").replaceChildren();
    at("giving").reset();
    choose({ blob: file, frames: [file], request: told.request, whole: true, recipe, lacking, about });
    const filled = "The settings of the picture are filled in.";
    say(lacking ? `${filled} It was painted into another one, which its file does not hold: give that one to repeat it.` : filled);
  } catch (error) {
    trouble(error);
  }
}

function again(request) {
  return chosen.files ? edit(request, chosen.files) : draw([{ request, title: "" }]);
}

async function start() {
  try {
    controls.start((await api.get("/v1/models")).data);
    suggest();
    price();
    await offer();
  } catch (error) {
    trouble(error);
  }
}

function submitted(id, work) {
  at(id).addEventListener("submit", (event) => { event.preventDefault(); work(); });
}

function clicked(id, work) {
  at(id).addEventListener("click", () => work());
}

submitted("controls", drawControls);
submitted("painting", drawPainted);
submitted("extending", drawMargins);
submitted("giving", drawGiven);
submitted("keyform", () => {
  sessionStorage.setItem("key", at("key").value);
  at("trouble").textContent = "";
  at("keyform").hidden = true;
  start();
});
at("controls").addEventListener("invalid", (event) => {
  for (let one = event.target; one; one = one.parentElement.closest("details")) one.open = true;
}, true);
for (const kind of ["input", "change"]) at("controls").addEventListener(kind, price);
at("prompt").addEventListener("input", suggest);
at("model").addEventListener("change", () => { suggest(); offer(); });
clicked("stop", () => running?.abort());
clicked("repeat", () => again(chosen.request));
clicked("vary", () => { const { seed, ...request } = chosen.request; return again(request); });
clicked("paint", () => open(at("painting").hidden && "painting").catch(trouble));
clicked("extend", () => open(at("extending").hidden && "extending").catch(trouble));
clicked("wipe", () => open("painting").catch(trouble));
clicked("remove", () => remove(chosen).catch(trouble));
clicked("clear", async () => {
  if (!confirm("Remove all pictures of the gallery from this browser?")) return;
  await gallery.clear().catch(trouble);
  free(at("gallery"));
  at("gallery").replaceChildren();
  at("clear").hidden = at("remove").hidden = true;
});
drop.listen(taken);
at("settings").open = matchMedia("(min-width: 58rem)").matches;
gallery.all().then((pictures) => pictures.forEach(hang)).catch(() => {});
start();
