// Talks to the server: JSON, forms and streams; every failure is an Error with one sentence.
export class Refused extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

const LOST = "The server does not answer. Your pictures and settings are still here: try again when it is back.";

async function send(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused(LOST, 0);
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(told.error?.message ?? `The server answered ${answer.status}.`, answer.status);
}

const json = (body) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** FormData of a request and its files; lists and tables go as JSON text. */
export function form(request, files = {}) {
  const data = new FormData();
  for (const [name, value] of Object.entries(request)) {
    data.append(name, typeof value === "object" ? JSON.stringify(value) : value);
  }
  for (const [name, blob] of Object.entries(files)) data.append(name, blob, `${name}.png`);
  return data;
}

/** Whether the server answers. */
export const alive = () => fetch("/health").then((answer) => answer.ok, () => false);
export const get = async (path) => (await send(path)).json();
export const plan = async (request, signal) => (await send("/v1/plan", { ...json(request), signal })).json();
export const recipe = async (image) => (await send("/v1/recipe", { method: "POST", body: form({}, { image }) })).json();

/** Draws; `files` makes it an edit. Yields the events of the stream as they arrive. */
export async function* draw(request, files, signal) {
  const body = { ...request, stream: true, partial_images: "all" };
  const answer = files
    ? await send("/v1/images/edits", { method: "POST", body: form(body, files), signal })
    : await send("/v1/images/generations", { ...json(body), signal });
  let text = "", ended = false;
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  while (!ended) {
    const read = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Refused(LOST, 0);
    });
    ended = read.done;
    const events = (text + (read.value ?? "")).split(/\r?\n\r?\n/);
    text = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (!data) continue;
      const told = JSON.parse(data);
      if (told.type === "error") throw new Refused(told.error.message, 500);
      yield told;
    }
  }
}

export const blob = (b64, format = "png") =>
  new Blob([Uint8Array.from(atob(b64), (letter) => letter.charCodeAt(0))], { type: `image/${format}` });
