"""A bar over scales, as a terminal or a notebook shows it while drawing takes longer than a second.

Nothing is written where nobody looks: into a file or a pipe, or before that second is over.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

AFTER = 1.0
"""Seconds before a bar appears."""
WIDTH = 30


@contextmanager
def bar(
    total: int, *, disable: bool = False, desc: str = "drawing", leave: bool = False
) -> Iterator[Callable[[], None]]:
    """A function to call after every one of ``total`` scales; what it draws is gone in the end unless ``leave``."""
    if disable or not _watched():
        yield lambda: None
        return
    start, done, shown = time.monotonic(), 0, ""

    def step() -> None:
        nonlocal done, shown
        done += 1
        if time.monotonic() - start > AFTER:
            shown = f"{desc} {'#' * (done * WIDTH // total):{WIDTH}} {done}/{total} scales"
            _write(f"\r{shown}")

    try:
        yield step
    finally:
        if shown:
            _write("\n" if leave else f"\r{' ' * len(shown)}\r")


def _watched() -> bool:
    """Whether standard error is a terminal, or a notebook's cell."""
    return sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)


def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
