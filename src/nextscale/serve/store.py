"""Pictures behind an address, under names that nobody guesses: kept for a while, and only so many bytes of them."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """A file and when it goes, by ``time.monotonic``."""

    content: bytes
    end: float


class Store:
    """seconds: how long a file is kept; most: bytes of all; the oldest go where there are more."""

    def __init__(self, seconds: float, most: int) -> None:
        self.seconds, self.most, self.bytes = seconds, most, 0
        self._files: OrderedDict[str, Kept] = OrderedDict()

    def add(self, content: bytes, kind: str) -> str:
        """Keep a file of this ending; returns its name."""
        name = f"{secrets.token_urlsafe(24)}.{kind}"
        self._files[name] = Kept(content, time.monotonic() + self.seconds)
        self.bytes += len(content)
        while self._files and (self.bytes > self.most or next(iter(self._files.values())).end < time.monotonic()):
            self.bytes -= len(self._files.popitem(last=False)[1].content)
        return name

    def get(self, name: str) -> bytes | None:
        """A file that is still kept."""
        found = self._files.get(name)
        return None if found is None or found.end < time.monotonic() else found.content
