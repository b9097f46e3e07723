"""``nextscale serve`` under load: what becomes of 1,000 requests, the worker's memory, throughput, and waiting times.

    python benchmarks/serve.py [--model emoji-m-var] [--requests 1000] [--clients 32] [--batch 16]

Half of the requests are plain, a fifth is streamed, a tenth are edits, a tenth ask for four pictures, one in twenty is
malformed and one in twenty names another model that is served; a tenth of all go away at a random scale. The client
numbers its requests: answered + refused + cancelled must be all of them, and the server's counters must agree (a client
that goes away when its answer is already on the way has cancelled, and the server has answered: how many is printed).
Throughput is a ratio to the pipeline at the same batch size in the same run, with PNG and base64 in both.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

import nextscale

IMAGES = "/v1/images"
KINDS = ["plain"] * 50 + ["streamed"] * 20 + ["edit"] * 10 + ["four"] * 10 + ["malformed"] * 5 + ["other"] * 5


class Served:
    """A server in a process of its own."""

    def __init__(self, models: list[str], batch: int) -> None:
        command = [sys.executable, "-m", "nextscale", "serve", *models, "--port", "0", "--batch", str(batch)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().split()[-1]

    def resident(self) -> int:
        """Bytes of the worker."""
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        workers = [int(number) for task in tasks for number in task.read_text().split()]
        (size,) = [
            int(Path(f"/proc/{one}/statm").read_text().split()[1]) * 4096
            for one in workers
            if "spawn_main" in Path(f"/proc/{one}/cmdline").read_text()
        ]
        return size

    def counted(self) -> Counter[str]:
        """Outcomes of requests for pictures."""
        found: Counter[str] = Counter()
        line = r'nextscale_requests_total\{endpoint="/v1/images/(?:generations|edits)",outcome="(\w+)"\} (\S+)'
        for outcome, number in re.findall(line, httpx.get(f"{self.url}/metrics", timeout=60).text):
            found[outcome] += int(float(number))
        return found

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()


def a_picture() -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize((64, 64)).convert("RGB").save(file, "PNG")
    return file.getvalue()


async def one(client: httpx.AsyncClient, number: int, kind: str, leaves: bool, other: str, scales: int) -> str:
    """What becomes of a request, as its client sees it."""
    chance = random.Random(number)
    body: dict[str, Any] = {"class_labels": chance.randrange(50), "seed": number, "user": str(number)}
    more: dict[str, dict[str, Any]] = {"four": {"n": 4}, "malformed": {"n": 0}, "other": {"model": other}}
    body |= more.get(kind, {})
    request: dict[str, Any] = {"url": f"{IMAGES}/generations", "json": body}
    if leaves or kind == "streamed":
        body |= {"stream": True, "partial_images": "all"}
    if kind == "edit":
        fields = {name: value if isinstance(value, str) else json.dumps(value) for name, value in body.items()}
        fields |= {"box": "[0, 0, 32, 64]"}
        request = {"url": f"{IMAGES}/edits", "files": {"image": a_picture()}, "data": fields}
    async with client.stream("POST", **request) as answer:
        if answer.status_code != 200:
            await answer.aread()
            return "refused"
        events, last = 0, chance.randrange(scales - 1)
        async for line in answer.aiter_lines():
            events += line.startswith("event:")
            if leaves and events > last:
                return "cancelled"
            if line.startswith("event: error"):
                return "failed"
    return "answered"


async def crowd(
    served: Served, numbers: range, clients: int, other: str, scales: int
) -> tuple[Counter[str], list[float]]:
    """Outcomes and seconds of the numbered requests, of so many clients that each wait for an answer."""
    waiting, outcomes, seconds = iter(numbers), Counter[str](), list[float]()

    async def client() -> None:
        async with httpx.AsyncClient(base_url=served.url, timeout=600) as connection:
            for number in waiting:
                chance = random.Random(f"kind {number}")
                kind, leaves, start = chance.choice(KINDS), chance.random() < 0.1, time.perf_counter()
                outcome = await one(connection, number, kind, leaves, other, scales)
                outcomes[outcome] += 1
                if outcome == "answered":
                    seconds.append(time.perf_counter() - start)

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes, seconds


async def same_plan(served: Served, pictures: int, clients: int) -> float:
    """Seconds for so many requests of one plan."""
    waiting = iter(range(pictures))

    async def client() -> None:
        async with httpx.AsyncClient(base_url=served.url, timeout=600) as connection:
            for number in waiting:
                answer = await connection.post(f"{IMAGES}/generations", json={"class_labels": 0, "seed": number})
                base64.b64decode(answer.json()["data"][0]["b64_json"])

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start


def alone(pipe: nextscale.Pipeline, pictures: int, batch: int) -> float:
    """Seconds for the same by the pipeline, in this process."""
    start = time.perf_counter()
    for first in range(0, pictures, batch):
        for image in pipe(0, num_images=min(batch, pictures - first), seed=first):
            file = io.BytesIO()
            image.save(file, "PNG")
            base64.b64encode(file.getvalue()).decode()
    return time.perf_counter() - start


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-m-var")
    parser.add_argument("--other", default="emoji")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    pipe = nextscale.load(asked.model)
    pipe.set_progress_bar_config(disable=True)
    scales = len(pipe.plan().rows)
    growths = []
    for turn in range(asked.turns):
        served = Served([asked.model, asked.other], asked.batch)
        early = asked.requests // 5
        first, fast = asyncio.run(crowd(served, range(early), asked.clients, asked.other, scales))
        before = served.resident()
        second, slow = asyncio.run(crowd(served, range(early, asked.requests), asked.clients, asked.other, scales))
        growths.append(served.resident() / before)
        found, seconds = first + second, sorted(fast + slow)
        time.sleep(1)
        there = served.counted()
        served.end()
        print(f"turn {turn}: client {dict(found)}, together {found.total()}")
        print(f"  server {dict(there)}, together {there.total()}")
        print(f"  answered by the server though the client had left: {there['answered'] - found['answered']}")
        print(f"  p50 {statistics.median(seconds):.2f} s, p95 {seconds[int(0.95 * len(seconds))]:.2f} s")
        assert found["answered"] + found["refused"] + found["cancelled"] == there.total() == asked.requests
        assert found["refused"] == there["refused"]
    print(f"resident set of the worker, last over a fifth of the way: {statistics.median(growths):.3f} (median)")
    served = Served([asked.model], asked.batch)
    ratios = []
    for _ in range(asked.turns):
        by_pipe = alone(pipe, asked.pictures, asked.batch)
        ratios.append(by_pipe / asyncio.run(same_plan(served, asked.pictures, asked.clients)))
    served.end()
    print(f"throughput over the pipeline's at batches of {asked.batch}: {statistics.median(ratios):.2f} (median)")


if __name__ == "__main__":
    main()
