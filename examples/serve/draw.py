"""Pictures of a running ``nextscale serve``, by OpenAI's client: python draw.py [http://127.0.0.1:8000]."""

from __future__ import annotations

import base64
import sys
from pathlib import Path

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
client = OpenAI(base_url=f"{url}/v1", api_key="none is needed")

answer = client.images.generate(prompt="cat", n=2, extra_body={"seed": 1})
for i, image in enumerate(answer.data or []):
    Path(f"cat-{i}.png").write_bytes(base64.b64decode(image.b64_json or ""))

for event in client.images.generate(prompt="cat", stream=True, partial_images=3, extra_body={"seed": 1}):
    print(event.type, event.size)

wider = {"outpaint": '{"left": 8, "right": 8}'}  # in a form, tables are JSON
edited = client.images.edit(image=Path("cat-0.png"), prompt="cat", extra_body=wider)
Path("edited.png").write_bytes(base64.b64decode((edited.data or [])[0].b64_json or ""))
