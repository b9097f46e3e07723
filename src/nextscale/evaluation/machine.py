"""How fast this machine computes: measured once, kept in the cache folder, and the same for everything that asks.

Three numbers foretell a generation's time: FLOP/s of matrix products, bytes per second of the layers between them, and
what a call of PyTorch costs that has nothing to do.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from nextscale.data.cache import cache_file
from nextscale.device import busy, cpu_name
from nextscale.errors import InputError
from nextscale.files import write_text
from nextscale.layers.adaln import FeedForward, modulate
from nextscale.rehearse import Rehearsal

SIDE, TRIALS = 1024, 10
ROWS, WIDTH = 512, 256
"""Of the layers that move bytes: as much as a block of a mid-sized model has, which stays in a core's cache."""
TINY, CHAIN, CALLS = 8, 50, 6
"""Of the layers that have nothing to do: width, how many stand in a row, and PyTorch's calls in one."""
METHOD = 1
"""Another number makes machines measure themselves again."""


@dataclass(frozen=True)
class Machine:
    """What one device does in one number type. busy: another program took processor time while it was measured."""

    flops_per_second: float
    bytes_per_second: float
    seconds_per_call: float
    busy: bool

    def seconds(self, flops: float, rehearsal: Rehearsal) -> float:
        """About how long a generation takes: its products, then its bytes, then its calls, one after the other."""
        moving = rehearsal.moved / self.bytes_per_second
        return flops / self.flops_per_second + moving + rehearsal.calls * self.seconds_per_call


def machine(device: torch.device, dtype: torch.dtype, again: bool = False) -> Machine:
    """The speed of ``device`` in ``dtype`` with the present number of threads.

    Measured when it is first asked for (0.3 s on one core), then read from the cache folder; measured again where
    ``again`` says so, or where the machine was busy then and is not now.
    """
    file = cache_file("speed", _key(device, dtype), ".json")
    known = None if file is None or again else _read(file)
    if known is not None and not known.busy:
        return known
    disturbed = device.type == "cpu" and busy() is not None
    if known is not None and disturbed:
        return known
    found = _measure_disturbed(device, dtype) if disturbed else _measure(device, dtype)
    if file is not None:
        with contextlib.suppress(OSError, InputError):  # what cannot be kept is measured again
            write_text(file, json.dumps(asdict(found)) + "\n", overwrite=True)
    return found


def _key(device: torch.device, dtype: torch.dtype) -> str:
    """Everything that a speed depends on."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {cpu_name()}"
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{METHOD} {where} {os.cpu_count()} {capability} {torch.__version__} {torch.get_num_threads()} {dtype}"


def _read(file: Path) -> Machine | None:
    """What was measured before; None if nothing was, or nothing that makes sense."""
    try:
        found = Machine(**json.loads(file.read_text(encoding="utf-8")))
        numbers = (found.flops_per_second, found.bytes_per_second, found.seconds_per_call)
        return found if all(0 < n < math.inf for n in numbers) and isinstance(found.busy, bool) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def _measure_disturbed(device: torch.device, dtype: torch.dtype) -> Machine:
    """Where threads would wait for other programs: one thread's processor time, and all threads as fast as that one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = _measure(device, dtype)
    finally:
        torch.set_num_threads(threads)
    return Machine(threads * one.flops_per_second, threads * one.bytes_per_second, one.seconds_per_call, busy=True)


@torch.inference_mode()
def _measure(device: torch.device, dtype: torch.dtype) -> Machine:
    square = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    wide = torch.ones(ROWS, WIDTH, device=device, dtype=dtype)
    tiny = torch.ones(2, 1, TINY, device=device, dtype=dtype)
    with torch.random.fork_rng(devices=[]):  # measuring must not change what a run draws next
        layer = FeedForward(TINY, TINY).to(device, dtype)

    def layers() -> torch.Tensor:
        return wide + F.gelu(F.layer_norm(wide, (WIDTH,)), approximate="tanh")

    def calls() -> torch.Tensor:
        x = tiny
        for _ in range(CHAIN):
            x = layer(modulate(x, tiny, tiny, 1e-6))
        return x

    moved = 7 * wide.numel() * wide.element_size()  # three calls: one reads and one writes, or two read and one writes
    return Machine(
        flops_per_second=2 * SIDE**3 / _best(lambda: square @ square, device, TRIALS),
        bytes_per_second=moved / _best(layers, device, 5 * TRIALS),
        seconds_per_call=_best(calls, device, 5 * TRIALS) / (CALLS * CHAIN),
        busy=False,
    )


def clock_of(device: torch.device) -> Callable[[], float]:
    """The clock by which work on ``device`` is timed, in seconds. One thread's is its processor time, which other
    programs do not lengthen.
    """
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def _best(call: Callable[[], torch.Tensor], device: torch.device, trials: int) -> float:
    """Shortest time of a call."""
    clock, best = clock_of(device), math.inf
    for _ in range(trials + 1):  # the first one only warms up, if it is slow
        start = clock()
        call().flatten()[0].item()  # reading one number waits for the device
        best = min(best, clock() - start)
    return best
