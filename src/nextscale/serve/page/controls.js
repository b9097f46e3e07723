// The controls: filled from a model, read into a request, filled from a request.
const at = (id) => document.getElementById(id);
const form = at("controls"), fields = form.elements;
const NUMBERS = ["n", "seed", "guidance_scale", "temperature", "top_k", "top_p"];
const NAMES = ["model", "prompt", "style", "size", "negative_prompt", ...NUMBERS];
const PLANNED = ["size", "guidance_scale", "temperature", "top_k", "top_p"]; // what a plan says
let models = [];
let held = {}; // what a chosen picture says that no field shows: it holds until the field beside it changes

export const model = () => models.find((one) => one.id === fields.model.value);

function options(select, values) {
  select.replaceChildren(...values.map(([value, text]) => new Option(text ?? value, value)));
}

function comparisons(now) {
  const groups = [
    ["Another model", models.filter((one) => one !== now).map((one) => [`model ${one.id}`, one.id])],
    ["Another style", now.styles.map((style) => [`style ${style}`, style])],
    ["Another way", [["prefix", "the first steps only"], ["guidance", "no guidance"]]],
  ];
  at("other").replaceChildren(new Option("nothing", ""), ...groups.filter(([, ways]) => ways.length).map(([label, ways]) => {
    const group = document.createElement("optgroup");
    group.label = label;
    group.append(...ways.map(([value, text]) => new Option(text, value)));
    return group;
  }));
  at("countlabel").hidden = true;
  at("count").max = now.scales.length;
  at("count").value = Math.ceil(now.scales.length / 2);
}

function fit() {
  const now = model(), sizes = [...new Set(now.sizes.flatMap((one) => one.sizes))];
  options(fields.style, [["", "automatic"], ...now.styles.map((style) => [style])]);
  fields.style.parentElement.hidden = !now.styles.length;
  at("negative").hidden = !now.reads.includes("negative_prompt");
  options(at("sizes"), sizes.map((size) => [size]));
  fields.size.placeholder = now.size;
  fields.size.parentElement.hidden = sizes.length < 2 && !now.free_size;
  for (const [name, value] of Object.entries(now.defaults)) {
    if (fields[name]) fields[name].placeholder = value ?? "none";
  }
  fields.prompt.placeholder = now.example ? `for example ${now.example}` : "";
  comparisons(now);
  held = {};
  tellHeld();
}

function tellHeld() {
  const { plan, methods } = held;
  at("held").hidden = !plan && !methods;
  at("heldtext").textContent = plan ? "Size and sampling are those of the chosen picture."
    : "The chosen picture has its first steps alone, and so will these.";
  for (const name of PLANNED) fields[name].disabled = Boolean(plan);
}

export function start(served) {
  models = served;
  options(fields.model, models.map((one) => [one.id]));
  at("draw").disabled = false;
  fit();
  const before = JSON.parse(sessionStorage.getItem("settings") ?? "null");
  if (before) fill(before);
}

/** The body of a request; what is empty is left to the server. */
export function read() {
  const request = {};
  for (const name of NAMES) {
    const field = fields[name], text = field.value.trim();
    if (text && !field.disabled && !field.closest("label[hidden]")) request[name] = NUMBERS.includes(name) ? Number(text) : text;
  }
  sessionStorage.setItem("settings", JSON.stringify(request));
  if (held.class_labels != null) delete request.prompt;
  return { ...request, ...held };
}

/** Fills the controls; what they cannot show is held. False where the model of the request is not served. */
export function fill(request) {
  if (!models.some((one) => one.id === (request.model ?? models[0]?.id))) return false;
  const { class_labels: label, seed, plan, methods } = request, only = [label].flat(), first = [seed].flat()[0];
  fields.model.value = request.model ?? models[0].id;
  fit();
  const values = { n: 1, ...request, prompt: request.prompt ?? (only[0] == null ? "" : String(only[0])), seed: first };
  for (const name of NAMES) if (name !== "model") fields[name].value = values[name] ?? "";
  const all = { plan, methods, class_labels: label, seed: Array.isArray(seed) && seed.length > 1 ? seed : undefined };
  held = Object.fromEntries(Object.entries(all).filter(([, value]) => value != null));
  tellHeld();
  return true;
}

form.addEventListener("input", (event) => {
  if (event.target === fields.model) fit();
  if (event.target === fields.prompt) delete held.class_labels;
  if (event.target === fields.seed || event.target === fields.n) delete held.seed;
  read();
});
at("release").addEventListener("click", () => {
  delete held.plan;
  delete held.methods;
  tellHeld();
  form.dispatchEvent(new Event("change"));
});
at("other").addEventListener("change", () => { at("countlabel").hidden = at("other").value !== "prefix"; });

/** What to draw: [{request, title}], two where something is compared. */
export function wanted() {
  const request = read(), [kind, ...rest] = at("other").value.split(" "), name = rest.join(" ");
  if (!kind) return [{ request, title: "" }];
  request.seed ??= Math.floor(Math.random() * 2 ** 31);
  const count = Number(at("count").value), ways = {
    model: [{ model: name }, request.model, name],
    style: [{ style: name }, request.style ?? "automatic style", name],
    prefix: [{ methods: [{ name: "prefix", count }] }, "all steps", `the first ${count}`],
    guidance: [{ guidance_scale: 1 }, "with guidance", "without guidance"],
  };
  const [change, title, other] = ways[kind];
  return [{ request, title }, { request: { ...request, ...change }, title: other }];
}
