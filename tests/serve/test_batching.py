"""What is drawn together, which changes no picture; and what happens when clients go away."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from nextscale.models.base import Condition
from nextscale.pipeline import Pipeline
from nextscale.serve.batching import MOST_PIXELS, Job, Waiting, scales_shown
from nextscale.serve.errors import Refused, failed
from nextscale.serve.front import Asked, Front
from nextscale.serve.schema import Generation
from nextscale.serve.service import Service
from nextscale.serve.worker import Batch, Drawn, Failed, Grown, _draw, rows_of
from tests.serve.conftest import BATCH, Running, paused, until
from tests.serve.test_clients import holed, picture, png

DRAW, EDIT = "/v1/images/generations", "/v1/images/edits"


def metric(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=60).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def events_of(client: httpx.AsyncClient, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream."""
    async with client.stream("POST", DRAW, json={**body, "stream": True}) as answer:
        lines = [line async for line in answer.aiter_lines()]
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def test_a_picture_does_not_depend_on_its_company(server: Running, pipes: dict[str, Pipeline]) -> None:
    """Float32 on a CPU: generations and edits, in whatever batches they are drawn, are those of a call alone. What
    waits while the worker is busy is drawn together, as many as may.
    """
    pipe, image = pipes["tiny"], holed()
    labels = [(i % 5, 100 + i) for i in range(2 * BATCH + 1)]
    batches = metric(server.url, "nextscale_batch_pictures_count")

    async def crowd() -> list[Any]:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            with paused(server.worker):
                drawn = [client.post(DRAW, json={"class_labels": label, "seed": seed}) for label, seed in labels]
                edited = [
                    client.post(EDIT, files={"image": png(image)}, data={"class_labels": label, "seed": seed})
                    for label, seed in labels[:3]
                ]
                first = asyncio.ensure_future(drawn[0])
                await until(lambda: server.counts == (1, 0))
                others = asyncio.gather(*drawn[1:], *edited)
                await until(lambda: server.counts == (1, 2 * BATCH + 3))
            answers = [await first, *await others]
        return [picture(answer.json()["data"][0]["b64_json"]) for answer in answers]

    found = asyncio.run(crowd())
    wanted = [pipe(label, seed=seed)[0] for label, seed in labels]
    hole = np.asarray(image)[..., 3] == 0
    wanted += [pipe.edit(image.convert("RGB"), label, mask_image=hole, seed=seed)[0] for label, seed in labels[:3]]
    assert [one.tobytes() for one in found] == [one.tobytes() for one in wanted]
    assert metric(server.url, "nextscale_batch_pictures_count") - batches == 1 + 2 + 1


def test_clients_that_go_away_cost_no_drawing_and_others_go_on(server: Running, pipes: dict[str, Pipeline]) -> None:
    """One leaves a stream of pictures that are being drawn, one an answer that it waits for."""
    cancelled = f'nextscale_requests_total{{endpoint="{DRAW}",outcome="cancelled"}}'
    gone, pictures = metric(server.url, cancelled), metric(server.url, "nextscale_pictures_total")
    face = {"class_labels": "face"}

    async def three() -> httpx.Response:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            with paused(server.worker):
                streaming = asyncio.ensure_future(events_of(client, {**face, "n": 2, "partial_images": "all"}))
                await until(lambda: server.counts == (2, 0))
                waiting = asyncio.ensure_future(client.post(DRAW, json={**face, "n": 3}))
                await until(lambda: server.counts == (2, 3))
                staying = asyncio.ensure_future(client.post(DRAW, json={**face, "seed": 9}))
                await until(lambda: server.counts == (2, 4))
                streaming.cancel()
                waiting.cancel()
                await until(lambda: server.counts == (2, 1))
                await until(lambda: metric(server.url, cancelled) == gone + 2)
            return await staying

    (drawn,) = asyncio.run(three()).json()["data"]
    assert picture(drawn["b64_json"]).tobytes() == pipes["tiny"]("face", seed=9)[0].tobytes()
    assert metric(server.url, "nextscale_pictures_total") == pictures + 1


class Line:
    """A worker's connection to a server that lets go of pictures: after the first scale of these, after the second of
    those, and so on.
    """

    def __init__(self, *said: list[int]) -> None:
        self.sent: list[Grown] = []
        self.said = [part for one in said for part in (one, None)]

    def send(self, message: Grown) -> None:
        self.sent.append(message)

    def poll(self) -> bool:
        if self.said and self.said[0] is None:
            self.said.pop(0)
            return False
        return bool(self.said)

    def recv(self) -> list[int] | None:
        return self.said.pop(0)


def test_a_picture_that_is_let_go_is_out_of_the_batch_from_the_next_scale_on(pipes: dict[str, Pipeline]) -> None:
    pipe, line = pipes["tiny"], Line([0])
    plan, every = pipe.plan(), frozenset(range(4))
    batch = Batch("tiny", plan, 2, [{"class": "face"}] * 2, [5, 6], [every] * 2, [], [])
    drawn = _draw(line, pipe, batch)  # type: ignore[arg-type]
    assert [(one.k, sorted(one.pictures)) for one in line.sent] == [(0, [0, 1]), (1, [1]), (2, [1]), (3, [1])]
    assert {place: pixels.tobytes() for place, pixels in drawn.items()} == {1: pipe("face", seed=6)[0].tobytes()}


def test_batches_have_few_numbers_of_rows(pipes: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    """Powers of two and the most that fit, also where some are let go; pictures are none the worse."""
    assert [rows_of(n, 6) for n in range(1, 7)] == [1, 2, 4, 4, 6, 6]
    pipe, line, rows = pipes["tiny"], Line([1], [4], [0]), list[int]()
    plan, step = pipe.plan(), pipe.model.step

    def counted(inputs: Any, k: int, condition: Condition, *others: Any, **named: Any) -> Any:
        rows.append(len(condition.start) // len(plan.branches))
        return step(inputs, k, condition, *others, **named)

    monkeypatch.setattr(pipe.model, "step", counted)
    batch = Batch("tiny", plan, 6, [{"class": "face"}] * 5, [*range(5)], [frozenset({2})] * 5, [], [])
    drawn = _draw(line, pipe, batch)  # type: ignore[arg-type]
    assert rows == [6, 4, 4, 2]
    assert [(one.k, sorted(one.pictures)) for one in line.sent if one.pictures] == [(2, [0, 2, 3])]
    wanted = {place: pipe("face", seed=place)[0].tobytes() for place in (2, 3)}
    assert {place: pixels.tobytes() for place, pixels in drawn.items()} == wanted


def test_a_worker_that_stands_still_is_replaced_and_no_request_is_lost(
    server: Running, pipes: dict[str, Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped, and takes no message: what it was to draw is drawn by another, and the server answers meanwhile,
    though the picture to be edited is larger than what a connection holds.
    """
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), dtype=np.uint8))
    asked: Any = {"files": {"image": png(image)}, "data": {"prompt": "face", "seed": 4, "box": "[0, 0, 1000, 1000]"}}
    before = server.service.health()["workers"][0]["restarts"]

    async def stopped() -> httpx.Response:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            await client.post(DRAW, json={"class_labels": "face"})  # so that it is known how fast it is
            monkeypatch.setattr(server.service, "settings", replace(server.service.settings, silence=1.0))
            os.kill(server.worker, signal.SIGSTOP)
            drawn = asyncio.ensure_future(client.post(EDIT, **asked))
            await until(lambda: server.counts == (1, 0))
            assert (await client.get("/health")).json()["workers"][0]["state"] == "busy"
            return await drawn

    found = picture(asyncio.run(stopped()).json()["data"][0]["b64_json"])
    wanted = pipes["tiny"].edit(image, prompt="face", seed=4, box=(0, 0, 1000, 1000)).images[0]
    assert found.tobytes() == wanted.tobytes()
    assert server.service.health()["workers"][0]["restarts"] == before + 1


class Told(Service):
    """A service whose workers are a list of what they were told."""

    def __init__(self, front: Front, workers: int = 1) -> None:
        super().__init__([front], ["cpu"] * workers, "float32")
        self.told: list[Any] = []
        self.device = self.devices[0]
        for device in self.devices:
            device.state = "ready"
            device._send = self.told.append  # type: ignore[method-assign, assignment]

    def ask(self, **body: Any) -> Job:
        asked = self.front(None).understood(Generation(class_labels="face", **body))
        return self.accept(asked, frozenset({0, 1}), 8, time.monotonic())

    def die(self) -> None:
        self.device.state = "starting"
        self._lost(self.device)
        self.device.state = "ready"
        self._heard(self.device, None)


def heard(job: Job) -> list[tuple[str, int]]:
    """What a job's endpoint has heard, and of which picture."""
    return [job.events.get_nowait()[:2] for _ in range(job.events.qsize())]


def test_what_a_worker_drew_when_it_died_is_drawn_again_and_no_scale_is_sent_twice(fronts: list[Front]) -> None:
    """One by one, so that a picture that kills workers takes no other with it, and twice at most."""
    service, pixels = Told(fronts[0]), np.zeros((4, 4, 3), np.uint8)
    job = service.ask(n=2)
    service._heard(service.device, Grown(0, {0: pixels, 1: pixels}))
    service.die()
    assert [len(batch.seeds) for batch in service.told] == [2, 1]
    service._heard(service.device, Grown(0, {0: pixels}))
    service._heard(service.device, Grown(1, {0: pixels}))
    service._heard(service.device, Drawn({0: pixels}, 1.0))
    assert heard(job) == [("grown", 0), ("grown", 1), ("grown", 0), ("drawn", 0)]
    service.die()
    what, _, refused = job.events.get_nowait()
    assert (what, refused.status, refused.code) == ("failed", 500, "worker_died")
    assert refused.headers == {"x-should-retry": "false"}
    assert (len(service.told), len(service.waiting), job.over) == (3, 0, True)
    service.draining = True
    with pytest.raises(Refused, match="about to stop and takes nothing new") as caught:
        service.ask()
    assert (caught.value.status, caught.value.headers) == (503, {"x-should-retry": "true", "retry-after": "60"})


def test_every_device_draws_and_hears_which_of_its_pictures_nobody_wants(fronts: list[Front]) -> None:
    service = Told(fronts[0], workers=2)
    jobs = [service.ask(n=1), service.ask(n=2), service.ask(n=3)]
    assert [[one.job for one in device.running] for device in service.devices] == [jobs[:1], [jobs[1]] * 2]
    service.leave(jobs[1])
    assert service.told[-1] == [0, 1]
    assert service.health()["waiting"] == 3


def test_as_many_are_drawn_together_as_the_price_says_fit(fronts: list[Front]) -> None:
    """And what does not fit at all, or would take too long, is refused before it waits."""
    front, service = fronts[0], Told(fronts[0])
    plan = front.pipe.plan()
    price = front.price(plan, 5)
    assert price["peak_memory"] == front.pipe.price(plan, 5).weights + (memory := front.beside(plan, 5))
    assert [front.fitting(plan, 16, one) for one in (memory, memory - 1, 1 << 40, 0)] == [5, 4, 16, 0]
    asked = front.understood(Generation(class_labels="face"))
    service.memory = 1
    with pytest.raises(Refused, match=r"a picture of this plan takes 0 MiB; expected one of at most 0"):
        service.limit(asked, 1)
    service.memory, service.flops_per_second = 1 << 40, 1.0
    with pytest.raises(Refused, match=r"this would take about [\d,]+ seconds; expected at most 300"):
        service.limit(asked, 1)


def test_a_worker_may_be_silent_for_many_times_what_its_drawing_takes(fronts: list[Front]) -> None:
    """And for minutes before it has drawn anything by the model; a request that it stands still with twice ends."""
    service = Told(fronts[0])
    service.device.kill = service.die  # type: ignore[method-assign]
    flops = fronts[0].pipe.price(fronts[0].pipe.plan(), 2).flops
    patient = []
    for speed in (None, 1e30, flops / 8):
        service.device.speeds = {} if speed is None else {"tiny": speed}
        job = service.ask(n=2)
        patient.append(service.device._patience)
        service._heard(service.device, Failed("over", ours=False))
        service.leave(job)
        service._heard(service.device, Failed("over", ours=False))
    assert patient == [300.0, 30.0, 80.0]

    async def watched() -> Job:
        service.watch()
        job = service.ask(n=1)
        await until(lambda: job.over)
        return job

    service.settings, service.device.speeds = replace(service.settings, silence=0.1), {"tiny": 1e30}
    what, _, refused = asyncio.run(watched()).events.get_nowait()
    assert (what, refused.code) == ("failed", "worker_died")
    assert "died or stood still, twice" in refused.message


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


def test_what_waits_to_be_edited_is_bounded_by_its_pixels() -> None:
    """A large picture may wait, and nothing that is edited beside it."""

    def edit(pixels: int) -> Job:
        made = job()
        region, seen = SimpleNamespace(mask=np.broadcast_to(0, pixels)), SimpleNamespace(rule="cover")
        object.__setattr__(made.asked, "edit", SimpleNamespace(region=region, seen=seen))
        return made

    waiting = Waiting(10, lambda: None)
    waiting.add(edit(MOST_PIXELS))
    waiting.add(job())
    with pytest.raises(Refused, match="so many pixels wait to be edited already"):
        waiting.add(edit(16))
    assert (len(waiting.take()), len(waiting.take())) == (1, 1)
    waiting.add(edit(MOST_PIXELS + 1))


def test_nobody_is_asked_to_wait_longer_than_a_client_would() -> None:
    """The official client obeys a Retry-After of at most 60 seconds."""
    waiting = Waiting(1000, lambda: None)
    waiting.measured(1, 10.0)
    waiting.add(job(1000))
    with pytest.raises(Refused) as caught:
        waiting.add(job())
    assert caught.value.headers == {"x-should-retry": "true", "retry-after": "60"}
