"""Which pictures wait, which of them are drawn together, and what becomes of those that nobody waits for any more.

A request is a job of one picture or several. Pictures leave the queue in the order they came in, each batch with all
that agree with the first one, as many as fit.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from nextscale.serve.errors import Refused, failed, full
from nextscale.serve.front import Asked

MOST_ATTEMPTS = 2
"""How often a picture is begun: a second time alone, where it or its company failed."""
MOST_PIXELS = 250_000_000
"""Of all pictures that wait to be edited; each pixel is five bytes of memory."""


@dataclass(eq=False)
class Job:
    """A request that was accepted. shown: after which scales pictures are sent; limit: how many of its plan fit into
    one batch; end: when it is late, by ``time.monotonic``; allowed: the seconds that it was given; events: what its
    endpoint hears; sent: the pictures and scales that it heard of.
    """

    asked: Asked
    shown: frozenset[int]
    limit: int
    end: float
    allowed: float
    events: asyncio.Queue[tuple[str, int, Any]] = field(default_factory=asyncio.Queue)
    sent: set[tuple[int, int]] = field(default_factory=set)
    over: bool = False

    def tell(self, what: str, i: int, content: Any) -> None:
        """An event of picture i, unless the job is over."""
        if not self.over:
            self.events.put_nowait((what, i, content))

    def fail(self, refused: Refused) -> None:
        """End it with an error."""
        self.tell("failed", 0, refused)
        self.over = True


@dataclass(eq=False)
class Picture:
    """Picture i of a job. attempts: how often it was begun."""

    job: Job
    i: int
    attempts: int = 0

    @property
    def together(self) -> Any:
        """What it shares with its company; after a failure it has none but itself."""
        return (id(self),) if self.attempts else self.job.asked.together


class Waiting:
    """The queue. most: pictures that may wait; more: is called when there is something to draw."""

    def __init__(self, most: int, more: Callable[[], None]) -> None:
        self.most, self.more = most, more
        self._pictures: deque[Picture] = deque()
        self.rate = 0.0

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, job: Job) -> None:
        """Let all pictures of a job wait. Raises ``Refused`` where they are too many."""
        count, after = len(job.asked.entries), len(self) / self.rate if self.rate else 1.0
        if len(self) + count > self.most:
            raise full(f"{len(self)} pictures wait", after)
        jobs = {job, *(picture.job for picture in self._pictures)}
        if len(jobs) > 1 and sum(one.asked.pixels for one in jobs) > MOST_PIXELS:
            raise full("pictures of so many pixels wait to be edited", after)
        self._pictures.extend(Picture(job, i) for i in range(count))
        self.more()

    def again(self, pictures: Sequence[Picture], refused: Refused) -> None:
        """Let pictures whose drawing failed wait once more, each alone and first of all, or end their jobs."""
        for picture in reversed(pictures):
            picture.attempts += 1
            if picture.job.over:
                continue
            if picture.attempts >= MOST_ATTEMPTS:
                picture.job.fail(refused)
                self.forget(picture.job)
            else:
                self._pictures.appendleft(picture)
        self.more()

    def take(self) -> list[Picture]:
        """The next batch, empty where nothing waits."""
        self._pictures = deque(picture for picture in self._pictures if not picture.job.over)
        if not self._pictures:
            return []
        first = self._pictures[0]
        chosen = [one for one in self._pictures if one.together == first.together][: first.job.limit]
        taken = set(map(id, chosen))
        self._pictures = deque(one for one in self._pictures if id(one) not in taken)
        return chosen

    def forget(self, job: Job) -> None:
        """Let go of a job's pictures that wait."""
        job.over = True
        self._pictures = deque(picture for picture in self._pictures if picture.job is not job)

    def late(self) -> list[Job]:
        """The jobs with pictures that wait, whose time is over."""
        now = time.monotonic()
        return list({id(p.job): p.job for p in self._pictures if p.job.end < now}.values())

    def drop_all(self, refused: Refused) -> None:
        """End every job that waits."""
        for picture in self._pictures:
            picture.job.fail(refused)
        self._pictures.clear()

    def measured(self, pictures: int, seconds: float) -> None:
        """Note how fast pictures are drawn."""
        found = pictures / max(seconds, 1e-6)
        self.rate = found if not self.rate else 0.8 * self.rate + 0.2 * found


def scales_shown(asked: int | str | None, scales: int) -> frozenset[int]:
    """After which scales a picture is sent: so many, evenly spread, or "all"; never after the last.

    >>> sorted(scales_shown(3, 10))
    [2, 4, 7]
    """
    if asked == "all":
        return frozenset(range(scales - 1))
    count = int(asked or 0)
    return frozenset(
        k for k in (round(scales * j / (count + 1)) - 1 for j in range(1, count + 1)) if 0 <= k < scales - 1
    )


def died() -> Refused:
    """The error of a job whose worker died with it more than once."""
    return failed("the process that drew this died or stood still, twice; the server's log says more", "worker_died")
