// The controls: filled from a model, read into a request, filled from a request.
const form = document.getElementById("controls");
const NUMBERS = ["n", "seed", "guidance_scale", "temperature", "top_k", "top_p"];
let models = [];

export const model = () => models.find((one) => one.id === form.elements.model.value);

function options(select, values, first = []) {
  select.replaceChildren(...[...first, ...values.map((value) => [value, value])].map(([value, text]) => new Option(text, value)));
}

function fit() {
  const now = model();
  options(form.elements.style, now.styles, [["", "any"]]);
  form.elements.style.parentElement.hidden = !now.styles.length;
  document.getElementById("negative").hidden = !now.reads.includes("negative_prompt");
  options(form.elements.size, [...new Set(now.sizes.flatMap((one) => one.sizes))], [["", `${now.size} (its own)`]]);
  for (const [name, value] of Object.entries(now.defaults)) {
    if (form.elements[name]) form.elements[name].placeholder = value ?? "none";
  }
  form.elements.prompt.placeholder = now.example ?? "";
  document.getElementById("about").textContent = now.about;
}

export function start(served) {
  models = served;
  options(form.elements.model, models.map((one) => one.id));
  const others = models.map((one) => [`model ${one.id}`, `model ${one.id}`]);
  options(document.getElementById("other"), [], [["", "nothing"], ...others, ["method first_scales", "method first_scales"]]);
  form.elements.model.addEventListener("change", fit);
  fit();
}

/** The body of a request; what is empty is left to the server. */
export function read() {
  const request = {};
  for (const name of ["model", "prompt", "style", "size", "negative_prompt", ...NUMBERS]) {
    const field = form.elements[name], text = field.value.trim();
    if (text && !field.closest("[hidden]")) request[name] = NUMBERS.includes(name) ? Number(text) : text;
  }
  return request;
}

export function fill(request) {
  form.elements.model.value = request.model ?? models[0].id;
  fit();
  const label = [request.class_labels].flat()[0];
  const values = { ...request, prompt: request.prompt ?? (label == null ? "" : String(label)), seed: [request.seed].flat()[0] };
  for (const name of ["prompt", "style", "size", "negative_prompt", ...NUMBERS]) {
    form.elements[name].value = values[name] ?? (name === "n" ? 1 : "");
  }
}
