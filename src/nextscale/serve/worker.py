"""The process that draws: one for every device, with all served models in its memory.

It takes one batch at a time from the server, sends pictures back as they grow, and lets go at the next scale of those
that nobody waits for. It ends when the server does.
"""

from __future__ import annotations

import logging
import signal
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nextscale
from nextscale.call import GIVEN
from nextscale.conditions.base import Entry
from nextscale.device import memory_of
from nextscale.edit import Seen
from nextscale.errors import NextscaleError
from nextscale.given import joined
from nextscale.pipeline import Pipeline, decode, to_pil
from nextscale.plan import Plan
from nextscale.state import Keep, ScaleEvent
from nextscale.tokenizers.base import Canvas

Pixels = np.ndarray
"""A picture, (H, W, 3) uint8."""


@dataclass(frozen=True)
class Batch:
    """Pictures that are drawn together. most: how many of this plan may be; entries, seeds, shown: one per picture,
    shown: after which scales it is sent; edited, edit_of: what a model sees of the pictures that are edited, and which
    of these each picture has.
    """

    model: str
    plan: Plan
    most: int
    entries: list[Entry]
    seeds: list[int]
    shown: list[frozenset[int]]
    edited: list[Seen]
    edit_of: list[int]


@dataclass(frozen=True)
class Ready:
    """What a worker says first. about: where it draws, and why; free: bytes that are free there."""

    device: str
    dtype: str
    about: str
    free: int


@dataclass(frozen=True)
class Grown:
    """Pictures as they stand after scale k, by their places in the batch; without any, the sign that work goes on."""

    k: int
    pictures: Mapping[int, Pixels]


@dataclass(frozen=True)
class Drawn:
    """Pictures of a batch that is done, by their places in it; those that were let go are missing."""

    pictures: Mapping[int, Pixels]
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A batch that could not be drawn. ours: whether the fault is the service's."""

    sentence: str
    ours: bool


def work(connection: Connection, models: Sequence[str], device: str, dtype: str) -> None:
    """What the process does until the server ends. First it says ``Ready``, or ``Failed``."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server ends what runs, and then this process
    try:
        try:
            pipes = {pipe.name: pipe for pipe in (_loaded(name, device, dtype) for name in models)}
        except (NextscaleError, OSError) as error:
            connection.send(Failed(str(error), ours=False))
            return
        connection.send(_ready(next(iter(pipes.values()))))
        while True:
            message = _received(connection)
            if isinstance(message, Batch):  # else pictures of a batch that is done are wanted no more
                connection.send(_answer(connection, pipes[message.model], message))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _loaded(name: str, device: str, dtype: str) -> Pipeline:
    pipe = nextscale.load(name, device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _ready(first: Pipeline) -> Ready:
    number = str(first.dtype).removeprefix("torch.")
    about = f"{first.device} ({first.device_reason}) in {number} ({first.dtype_reason})"
    return Ready(str(first.device), number, about, _free(first.device))


def _free(device: torch.device) -> int:
    """Bytes that are free where a worker draws."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    told = Path("/proc/meminfo")
    if told.exists():
        lines = dict(line.split(":", 1) for line in told.read_text(encoding="ascii").splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return (memory_of(device) or 1 << 32) // 2


def _answer(connection: Connection, pipe: Pipeline, batch: Batch) -> Drawn | Failed:
    """Draw a batch; whatever goes wrong with it, the worker goes on."""
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the client should know was said when the request came
            pictures = _draw(connection, pipe, batch)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except NextscaleError as error:
        return Failed(str(error), ours=False)
    except Exception as error:
        logging.getLogger("nextscale.serve").error("drawing failed\n%s", traceback.format_exc())
        return Failed(f"the drawing failed here ({type(error).__name__})", ours=True)
    return Drawn(pictures, time.perf_counter() - start)


def rows_of(pictures: int, most: int) -> int:
    """How many rows these are drawn in: a power of two, or all that may be.

    Products and convolutions keep kernels and workspaces for every number of rows they meet. With few numbers a worker
    soon has all it will ever hold.
    """
    return min(1 << (pictures - 1).bit_length(), most)


def _draw(connection: Connection, pipe: Pipeline, batch: Batch) -> dict[int, Pixels]:
    size = rows_of(len(batch.seeds), batch.most)
    copies = [0] * (size - len(batch.seeds))  # of the first picture, wanted by nobody
    places: list[int | None] = [*range(len(batch.seeds)), *(None for _ in copies)]

    def watch(event: ScaleEvent) -> Keep | bool | None:
        nonlocal places
        shown = {i: place for i, place in enumerate(places) if place is not None and event.k in batch.shown[place]}
        grown: dict[int, Pixels] = {}
        if shown:
            rows = [*shown, *[next(iter(shown))] * (rows_of(len(shown), batch.most) - len(shown))]
            pictures = _pictures(pipe, event.canvas.select(torch.tensor(rows, device=event.canvas.latent.device)))
            grown = dict(zip(shown.values(), pictures, strict=False))
        connection.send(Grown(event.k, grown))
        dropped = _dropped(connection)
        places = [None if place in dropped else place for place in places]
        wanted = sorted(range(len(places)), key=lambda i: places[i] is None)
        count = len(places) - places.count(None)
        if not count:
            return False
        kept = sorted(wanted[: rows_of(count, batch.most)])
        if len(kept) >= len(places):
            return None
        places = [places[i] for i in kept]
        return Keep(kept)

    entries, seeds = ([*one, *(one[i] for i in copies)] for one in (batch.entries, batch.seeds))
    shown = pipe.conditioner.arguments(entries) if any(batch.plan.branches) else {"num_images": size}
    result = pipe(
        **shown,
        seed=seeds,
        plan=batch.plan,
        parts=_parts(pipe, batch, copies),
        output_type="pt",
        callback_on_scale_end=watch,
    )
    drawn = {i: place for i, place in enumerate(places) if place is not None}
    return dict(zip(drawn.values(), map(np.asarray, to_pil(result.images[[*drawn]])), strict=True)) if drawn else {}


def _parts(pipe: Pipeline, batch: Batch, copies: list[int]) -> dict[str, Any] | None:
    """What is kept of the pictures that are edited; each is encoded alone, so that none depends on the others."""
    if not batch.edited:
        return None
    kept = [seen.kept(pipe.tokenizer, batch.plan.schedule) for seen in batch.edited]
    return {GIVEN: joined(kept).select(torch.tensor([*batch.edit_of, *(batch.edit_of[i] for i in copies)]))}


def _pictures(pipe: Pipeline, canvas: Canvas) -> list[Pixels]:
    return [np.asarray(image) for image in to_pil(decode(pipe.tokenizer, canvas))]


def _dropped(connection: Connection) -> set[int]:
    """The places of pictures that the server wants no more."""
    found: set[int] = set()
    while connection.poll():
        found |= set(_received(connection))
    return found


def _received(connection: Connection) -> Any:
    """What the server says. Raises ``EOFError`` where it says None: it ends."""
    message = connection.recv()
    if message is None:
        raise EOFError
    return message
