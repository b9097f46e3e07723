// A picture of a running `nextscale serve`, growing, by plain JavaScript: node draw.mjs [http://127.0.0.1:8000]
import { writeFile } from "node:fs/promises";

const url = process.argv[2] ?? "http://127.0.0.1:8000";
const answer = await fetch(`${url}/v1/images/generations`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ prompt: "cat", seed: 1, stream: true, partial_images: 3 }),
});
if (!answer.ok) throw new Error((await answer.json()).error.message);

let text = "";
for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
  text += part;
  const events = text.split("\n\n");
  text = events.pop();
  for (const event of events) {
    const data = event.split("\n").find((line) => line.startsWith("data: "));
    if (!data) continue; // a comment that keeps the connection open
    const { type, error, scale, b64_json } = JSON.parse(data.slice(6));
    if (error) throw new Error(error.message);
    console.log(type, scale);
    await writeFile(`scale-${scale}.png`, Buffer.from(b64_json, "base64"));
  }
}
