"""The memory that keeps nothing: for models whose mixers look at their own scale only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nextscale.memory.base import Course, Memory, Outlook
from nextscale.memory.segments import OwnScale


class NoMemory(Memory):
    """Every slot sees its own scale; there is nothing to commit, to select or to give back."""

    keeps = False

    def __init__(self, outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.schedule, self.scale = outlook.course.schedule, outlook.course.first
        self._own = OwnScale()

    def slot(self, index: int) -> OwnScale:
        return self._own

    def begin_prefix(self) -> None: ...

    def end_prefix(self) -> None: ...

    def begin_scale(self, k: int, blocks: Sequence[int] | None = None) -> None:
        assert self.scale == k, f"scale {k} began where scale {self.scale} was due"

    def end_scale(self, k: int) -> None:
        self.scale = k + 1

    def select(self, rows: Tensor) -> None: ...

    def snapshot(self) -> object:
        return self.scale

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, int)
        self.scale = snapshot

    def free(self) -> None: ...

    @property
    def live_bytes(self) -> int:
        return 0

    @property
    def allocated_bytes(self) -> int:
        return 0


def outlook(course: Course) -> Outlook:
    """Nothing is kept, and a query sees the tokens of its own scale."""
    nothing = (0,) * len(course.slots)
    attended = tuple(
        tuple(course.tokens(k) if spec.block in run else 0 for spec in course.slots)
        for k, run in enumerate(course.blocks)
    )
    return Outlook(course, (nothing,) * len(course.blocks), attended)
