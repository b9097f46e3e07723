"""Times of calls that are compared, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Clock = Callable[[], float]


def best(calls: Sequence[Callable[[], object]], repeats: int, clock: Clock = time.process_time) -> list[float]:
    """Shortest time of every call, taken in turns so that what else the machine does disturbs all alike."""
    times = [float("inf")] * len(calls)
    for _ in range(repeats):
        for i, call in enumerate(calls):
            start = clock()
            call()
            times[i] = min(times[i], clock() - start)
    return times
