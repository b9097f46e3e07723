"""What is drawn together and what does not depend on that; and when clients or workers go away."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from nextscale.pipeline import Pipeline
from nextscale.serve.batching import Job, Waiting, scales_shown
from nextscale.serve.errors import Refused, failed
from nextscale.serve.front import Asked
from tests.serve.conftest import BATCH, QUEUE, Process
from tests.serve.test_clients import holed, picture, png

SLOW = {"model": "free", "class_labels": 0, "size": "160x160", "n": 2, "seed": 1}


def metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=60).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def events_of(client: httpx.AsyncClient, body: dict[str, Any], most: int = 10_000) -> list[dict[str, Any]]:
    """The events of a stream, of which only so many are waited for before the client goes away."""
    found = []
    async with client.stream("POST", "/v1/images/generations", json={**body, "stream": True}) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line.removeprefix("data: ")))
            if len(found) == most:
                break
    return found


def test_a_picture_does_not_depend_on_its_company(server: Process, pipes: dict[str, Pipeline]) -> None:
    """Float32 on a CPU: generations and edits, in whatever batches they are drawn, are those of a call alone. What
    waits behind a slow drawing is drawn together.
    """
    pipe, image = pipes["tiny"], holed()
    labels = [(i % 5, 100 + i) for i in range(12)]
    before = metric(server.url, "nextscale_batch_pictures_count")

    async def crowd() -> list[Any]:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            slow = asyncio.ensure_future(client.post("/v1/images/generations", json=SLOW))
            await asyncio.sleep(0.1)
            drawn = [
                client.post("/v1/images/generations", json={"class_labels": label, "seed": seed})
                for label, seed in labels
            ]
            edited = [
                client.post("/v1/images/edits", files={"image": png(image)}, data={"class_labels": label, "seed": seed})
                for label, seed in labels[:3]
            ]
            answers = await asyncio.gather(*drawn, *edited)
            await slow
        return [picture(answer.json()["data"][0]["b64_json"]) for answer in answers]

    found = asyncio.run(crowd())
    wanted = [pipe(label, seed=seed)[0] for label, seed in labels]
    hole = np.asarray(image)[..., 3] == 0
    wanted += [pipe.edit(image.convert("RGB"), label, mask_image=hole, seed=seed)[0] for label, seed in labels[:3]]
    assert [one.tobytes() for one in found] == [one.tobytes() for one in wanted]
    assert metric(server.url, "nextscale_batch_pictures_count") - before <= 1 + 12 / BATCH + 2 + 3


def test_a_client_that_goes_away_is_dropped_and_others_go_on(server: Process, pipes: dict[str, Pipeline]) -> None:
    counted = 'nextscale_requests_total{endpoint="/v1/images/generations",outcome="%s"}'
    cancelled, pictures = metric(server.url, counted % "cancelled"), metric(server.url, "nextscale_pictures_total")

    async def two() -> list[dict[str, Any]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            first = {**SLOW, "partial_images": "all"}
            leaving, staying = await asyncio.gather(
                events_of(client, first, 1), events_of(client, {**first, "seed": 9})
            )
        assert len(leaving) == 1
        return staying

    staying = asyncio.run(two())
    ends = [event for event in staying if event["type"].endswith(".completed")]
    wanted = pipes["free"](0, size=(160, 160), num_images=2, seed=9)
    assert [picture(one["b64_json"]).tobytes() for one in sorted(ends, key=lambda e: e["index"])] == [
        one.tobytes() for one in wanted
    ]
    deadline = time.monotonic() + 30
    while metric(server.url, counted % "cancelled") == cancelled and time.monotonic() < deadline:
        time.sleep(0.05)
    assert metric(server.url, counted % "cancelled") == cancelled + 1
    assert httpx.get(f"{server.url}/health").json()["waiting"] == 0
    assert metric(server.url, "nextscale_pictures_total") <= pictures + 2  # nobody drew those of the client that left


def test_a_worker_that_is_killed_loses_no_request(server: Process, pipes: dict[str, Pipeline]) -> None:
    """Its pictures are drawn again by the next one, and clients see only that it takes longer."""
    restarts = metric(server.url, "nextscale_worker_restarts_total")

    async def killed() -> list[dict[str, Any]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            stream = asyncio.ensure_future(events_of(client, {**SLOW, "partial_images": "all", "n": 4}))
            plain = asyncio.ensure_future(client.post("/v1/images/generations", json={"class_labels": 2, "seed": 4}))
            while not (await client.get("/health")).json()["running"]:
                await asyncio.sleep(0.01)
            for worker in server.workers:
                os.kill(worker, signal.SIGKILL)
            assert (await plain).status_code == 200
            return await stream

    events = asyncio.run(killed())
    assert metric(server.url, "nextscale_worker_restarts_total") == restarts + 1
    wanted = pipes["free"](0, size=(160, 160), num_images=4, seed=1)
    ends = sorted((one for one in events if one["type"].endswith("completed")), key=lambda one: one["index"])
    assert [picture(one["b64_json"]).tobytes() for one in ends] == [one.tobytes() for one in wanted]
    partial = [(one["index"], one["scale"]) for one in events if one["type"].endswith("partial_image")]
    assert len(partial) == len(set(partial)) == 4 * (ends[0]["scales"] - 1)  # none twice


def test_on_sigterm_what_runs_is_finished_and_what_is_new_refused(folders: list[str], tmp_path: Path) -> None:
    running = Process(tmp_path / "log", [folders[2]])

    async def ended() -> httpx.Response:
        async with httpx.AsyncClient(base_url=running.url, timeout=300) as client:
            slow = asyncio.ensure_future(client.post("/v1/images/generations", json=SLOW))
            while not (await client.get("/health")).json()["running"]:
                await asyncio.sleep(0.01)
            running.process.terminate()
            await asyncio.sleep(0.1)
            refused = await asyncio.to_thread(new)
            assert refused is None or (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
            return await slow

    def new() -> httpx.Response | None:
        """What a new client gets: no connection, or a refusal."""
        try:
            return httpx.post(f"{running.url}/v1/images/generations", json={"class_labels": 1}, timeout=60)
        except httpx.TransportError:
            return None

    answer = asyncio.run(ended())
    assert answer.status_code == 200
    assert len(answer.json()["data"]) == 2
    with running.process:
        assert running.process.wait(60) == 0


def asked(count: int = 1, plan: str = "one") -> Asked:
    """What the queue sees of a request."""
    return Asked("tiny", [{}] * count, list(range(count)), plan)  # type: ignore[arg-type]


def job(count: int = 1, plan: str = "one", limit: int = 3) -> Job:
    return Job(asked(count, plan), frozenset(), limit, time.monotonic() + 60, 60)


def test_batches_are_of_one_plan_in_the_order_of_arrival_and_no_larger_than_fits() -> None:
    waiting = Waiting(10, lambda: None)
    jobs = [job(2), job(1, "other"), job(2), job(1, "other")]
    for one in jobs:
        waiting.add(one)
    numbers = [[jobs.index(picture.job) for picture in waiting.take()] for _ in range(4)]
    assert numbers == [[0, 0, 2], [1, 3], [2], []]
    with pytest.raises(Refused, match="0 pictures wait"):
        waiting.add(job(11))


def test_what_failed_in_company_is_drawn_alone_and_what_fails_alone_ends() -> None:
    """One request that cannot be drawn takes no other one with it."""
    waiting = Waiting(10, lambda: None)
    jobs = [job(), job()]
    for one in jobs:
        waiting.add(one)
    waiting.again(waiting.take(), failed("broken"))
    first = waiting.take()
    assert [picture.job for picture in first] == jobs[:1]
    waiting.again(first, failed("broken"))
    assert jobs[0].events.get_nowait()[0] == "failed"
    assert [picture.job for picture in waiting.take()] == jobs[1:]
    assert len(waiting) == 0


@pytest.mark.parametrize(("count", "scales"), [(0, 5), (1, 5), (2, 6), (3, 10), (3, 3), (3, 1), ("all", 4)])
def test_partial_pictures_are_evenly_spread_and_never_the_last(count: int | str, scales: int) -> None:
    shown = sorted(scales_shown(count, scales))
    assert len(shown) == min(scales - 1, scales if count == "all" else int(count))
    gaps = np.diff([-1, *shown, scales - 1])
    assert gaps.max() - gaps.min() <= 1
    assert QUEUE > BATCH
