"""What stands between the endpoints and the workers: models, the queue, deadlines, and who is restarted.

Everything here runs in one event loop; requests are understood in one further thread, since the library's warnings are
caught there, and threads that read from workers only hand over what they read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

from nextscale.device import choose_device, choose_dtype
from nextscale.errors import InputError
from nextscale.serve.batching import Job, Picture, Waiting, died
from nextscale.serve.device import Device
from nextscale.serve.errors import bad_value, closed, failed, full, late, no_model, nobody
from nextscale.serve.front import Asked, Front
from nextscale.serve.metrics import Metrics
from nextscale.serve.schema import size_text
from nextscale.serve.settings import Settings
from nextscale.serve.worker import Batch, Drawn, Failed, Grown, rows_of

T = TypeVar("T")
HURRY = 0.05
"""Seconds between two looks at the clock for deadlines and workers that stand still."""
FIRST, SLOWER = 300.0, 10
"""Seconds that a process may need to draw its first pictures by a model, with all that is loaded for that; and how much
longer than drawing took before it may be silent afterwards.
"""
log = logging.getLogger("nextscale.serve")


class Service:
    """Served models and what draws them. fronts: of the models, the default first; devices: one worker for each."""

    def __init__(
        self,
        fronts: Sequence[Front],
        devices: Sequence[str] = ("auto",),
        dtype: str = "auto",
        settings: Settings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.fronts = {front.id: front for front in fronts}
        if len(self.fronts) < len(fronts):
            raise InputError(
                f"two models have one name ({', '.join(front.id for front in fronts)}); expected names that differ"
            )
        names = [front.name for front in fronts]
        self.metrics = Metrics(self)
        self.waiting = Waiting(self.settings.queue, self._more)
        self.devices = [Device(one, names, dtype, self._heard, self._lost) for one in devices]
        self.draining = False
        self.memory = self.settings.memory or 1 << 30
        self.flops_per_second = 0.0
        self._thinking, self._thoughts = ThreadPoolExecutor(1, "understand"), 0
        self._encoding = ThreadPoolExecutor(max(2, torch.get_num_threads()), "encode")
        self._clock: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the workers and wait until all are ready. Raises ``InputError`` with what one could not load."""
        await asyncio.gather(*(device.start() for device in self.devices))
        free = min(device.ready.free for device in self.devices if device.ready)
        self.memory = self.settings.memory or free // 2 // (len(self.devices) if self.devices[0].name == "cpu" else 1)
        self.watch()

    def watch(self) -> None:
        """Keep an eye on deadlines and workers from now on."""
        self._clock = asyncio.create_task(self._watch_the_clock())

    async def stop(self) -> None:
        """End what waits, and the workers."""
        self.draining = True
        self.waiting.drop_all(closed())
        if self._clock is not None:
            self._clock.cancel()
        await asyncio.gather(*(device.stop() for device in self.devices))
        self._thinking.shutdown(wait=False, cancel_futures=True)
        self._encoding.shutdown(wait=False, cancel_futures=True)

    def front(self, name: str | None) -> Front:
        """A model by name, the default for none. Raises ``Refused``."""
        if name is None:
            return next(iter(self.fronts.values()))
        if name not in self.fronts:
            raise no_model(name, list(self.fronts))
        return self.fronts[name]

    async def think(self, do: Callable[..., T], *given: Any, **named: Any) -> T:
        """Do something of the library's in its thread; what it refuses becomes a ``Refused``, and so does this where as
        much waits for that thread as may wait to be drawn.
        """
        if self._thoughts >= self.settings.queue:
            raise full(f"{self._thoughts} requests wait to be read", 1.0)
        self._thoughts += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thinking, partial(_refusing, do, *given, **named))
        finally:
            self._thoughts -= 1

    def encode(self, do: Callable[..., T], *given: Any) -> Awaitable[T]:
        """Make files of pictures beside the loop."""
        return asyncio.get_running_loop().run_in_executor(self._encoding, partial(_refusing, do, *given))

    def limit(self, asked: Asked, images: int) -> int:
        """How many pictures of a plan are drawn together. Raises ``Refused`` where not one can be, or so many cost too
        much.
        """
        front = self.fronts[asked.model]
        if front.cost(asked.plan, images) > self.settings.cost:
            raise bad_value(_too_costly(front, asked, images, self.settings.cost))
        fits = front.fitting(asked.plan, self.settings.batch, self.memory)
        if not fits:
            needs = front.beside(asked.plan, 1) / 2**20
            raise bad_value(
                f"a picture of this plan takes {needs:,.0f} MiB; expected one of at most {self.memory / 2**20:,.0f}"
            )
        seconds = self.seconds(asked, images)
        if seconds is not None and seconds > self.settings.deadline:
            raise bad_value(
                f"this would take about {seconds:,.0f} seconds; expected at most {self.settings.deadline:g}"
            )
        return fits

    def seconds(self, asked: Asked, images: int) -> float | None:
        """About how long pictures of a plan take to draw, from what was measured; None before anything was."""
        if not self.flops_per_second:
            return None
        return self.fronts[asked.model].pipe.price(asked.plan, images).flops / self.flops_per_second

    def accept(
        self, asked: Asked, shown: frozenset[int], limit: int, arrived: float, seconds: float | None = None
    ) -> Job:
        """Let a request wait for its turn. arrived: when it came, by ``time.monotonic``; seconds: how long it may take,
        by its own word. Raises ``Refused`` where it may not.
        """
        if self.draining:
            raise closed()
        if all(device.broken for device in self.devices):
            raise nobody()
        allowed = min(seconds or self.settings.deadline, self.settings.deadline)
        job = Job(asked, shown, limit, arrived + allowed, allowed)
        self.waiting.add(job)
        return job

    def leave(self, job: Job) -> None:
        """Nobody waits for a job any more."""
        self.waiting.forget(job)
        for device in self.devices:
            device.drop([place for place, one in enumerate(device.running) if one.job is job])

    def health(self) -> dict[str, Any]:
        """What ``GET /health`` says."""
        workers = [
            {
                "device": one.ready.device if one.ready else one.name,
                "state": "busy" if one.running else one.state,
                "restarts": one.restarts,
            }
            for one in self.devices
        ]
        able = any(one.state == "ready" for one in self.devices)
        broken = all(one.broken for one in self.devices)
        status = "draining" if self.draining else "ok" if able else "broken" if broken else "starting"
        running = sum(len(one.running) for one in self.devices)
        return {"status": status, "workers": workers, "waiting": len(self.waiting), "running": running}

    def _more(self) -> None:
        """Give every worker that is free the next batch."""
        for device in self.devices:
            if device.free and (pictures := self.waiting.take()):
                self.metrics.batch(len(pictures))
                device.draw(pictures, _batch(pictures), self._patience(device, pictures))

    def _patience(self, device: Device, pictures: Sequence[Picture]) -> float:
        """Seconds without any news after which a worker that draws these stands still. Where its process has drawn by
        the model before, that is many times what all of the drawing takes, and it is news that a scale is drawn.
        """
        asked = pictures[0].job.asked
        speed = device.speeds.get(asked.model)
        if speed is None:
            return max(FIRST, self.settings.deadline)
        seconds = self.fronts[asked.model].pipe.price(asked.plan, len(pictures)).flops / speed
        return max(self.settings.silence, SLOWER * seconds)

    def _heard(self, device: Device, message: Grown | Drawn | Failed | None) -> None:
        """What a worker says of the batch that it draws; None when it is ready."""
        if message is None:
            return self._more()
        if isinstance(message, Grown):
            for place, pixels in message.pictures.items():
                picture = device.running[place]
                if (picture.i, message.k) not in picture.job.sent:
                    picture.job.sent.add((picture.i, message.k))
                    picture.job.tell("grown", picture.i, (message.k, pixels))
            return
        pictures, device.running = device.running, []
        if isinstance(message, Drawn):
            self._note(device, pictures, message)
            for place, pixels in message.pictures.items():
                pictures[place].job.tell("drawn", pictures[place].i, pixels)
        else:
            refused = failed(message.sentence) if message.ours else bad_value(message.sentence)
            if len({id(one.job) for one in pictures}) == 1:
                for one in pictures:
                    one.attempts += 1  # it was alone: the fault is its own
            self.waiting.again(pictures, refused)
        self._more()

    def _lost(self, device: Device) -> None:
        """A worker died, or was ended since it stood still: what it drew is drawn again, by another."""
        pictures, device.running = device.running, []
        log.error("the worker on %s died with %d pictures; starting another", device.name, len(pictures))
        self.metrics.restarts.inc()
        self.waiting.again(pictures, died())
        if device.broken and all(one.broken for one in self.devices):
            self.waiting.drop_all(nobody())

    def _note(self, device: Device, pictures: Sequence[Picture], drawn: Drawn) -> None:
        self.metrics.pictures.inc(len(drawn.pictures))
        if len(drawn.pictures) < len(pictures):
            return  # how long a batch takes that shrinks says nothing of another
        self.waiting.measured(len(pictures), drawn.seconds)
        asked = pictures[0].job.asked
        rows = rows_of(len(pictures), pictures[0].job.limit)
        found = self.fronts[asked.model].pipe.price(asked.plan, rows).flops / max(drawn.seconds, 1e-6)
        device.speeds[asked.model] = found
        self.flops_per_second = found if not self.flops_per_second else 0.8 * self.flops_per_second + 0.2 * found

    async def _watch_the_clock(self) -> None:
        while True:
            await asyncio.sleep(HURRY)
            now = time.monotonic()
            running = {id(one.job): one.job for device in self.devices for one in device.running if one.job.end < now}
            for job in (*running.values(), *self.waiting.late()):
                if not job.over:
                    job.fail(late(job.allowed))
                    self.leave(job)
            for device in self.devices:
                if device.stuck:
                    device.kill()


def fronts_of(names: Sequence[str], device: str = "auto", dtype: str = "auto") -> list[Front]:
    """Models by the names of ``nextscale.load``, as they will stand on a device. Raises ``CheckpointError``."""
    where, _ = choose_device(device)
    number, _ = choose_dtype(dtype, where)
    return [Front(name, where, number) for name in names]


def _too_costly(front: Front, asked: Asked, images: int, most: float) -> str:
    """What is too much of a request, and what would do."""
    size, largest = (size_text(one) for one in (front.pipe.tokenizer.pixels(asked.plan.schedule), front.largest))
    what = f"a picture of {size} takes" if images == 1 else f"{images} pictures of {size} take"
    fewer, nearest = int(most / front.cost(asked.plan, 1)), front.nearest(asked, images, most)
    ways = [f"{fewer} of these pictures"] if fewer else []
    ways += [f"the size {size_text(nearest)}"] if nearest else []
    return (
        f"{what} {front.cost(asked.plan, images):,.0f} times the computing of one of {largest}, the largest that "
        f"{asked.model} was trained on; expected at most {most:g} times"
        + (f", as for {' or '.join(ways)}" if ways else "")
    )


def _refusing(do: Callable[..., T], *given: Any, **named: Any) -> T:
    try:
        return do(*given, **named)
    except RecursionError:
        raise bad_value("a value is nested too deeply to be read; expected plain lists and tables") from None
    except OverflowError as error:
        raise bad_value(f"a number is too large ({error}); expected a smaller one") from None


def _batch(pictures: Sequence[Picture]) -> Batch:
    first = pictures[0].job.asked
    edits = [one.job.asked.edit for one in pictures if one.job.asked.edit is not None]
    different = list({id(edit): edit.seen for edit in edits}.items())  # several pictures of a job share one
    places = [[number for number, _ in different].index(id(edit)) for edit in edits]
    return Batch(
        first.model,
        first.plan,
        pictures[0].job.limit,
        [one.job.asked.entries[one.i] for one in pictures],
        [one.job.asked.seeds[one.i] for one in pictures],
        [one.job.shown for one in pictures],
        [seen for _, seen in different],
        places,
    )
