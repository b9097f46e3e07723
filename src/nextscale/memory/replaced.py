"""What memories have in common that keep some of the keys and values: the tensors of a slot are replaced, never written
into. So a further pass begins from what was committed, and a snapshot copies nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nextscale.memory.base import Memory, Outlook
from nextscale.memory.segments import OwnScale

Kept = tuple[Tensor, ...]
"""What one slot keeps: tensors whose second axis are the rows and whose fourth are tokens."""


class ReplacedMemory(Memory):
    """Of every slot that sees earlier scales some tensors, for ``rows`` rows in the compute precision ``dtype``."""

    def __init__(self, outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> None:
        course = outlook.course
        self.schedule, self.scale = course.schedule, course.first
        self._outlook, self._slots = outlook, course.slots
        self._new = torch.empty(0, dtype=dtype, device=device).new_empty
        runs = (i for i, spec in enumerate(course.slots) if spec.reads == "past" and course.last_of(i) >= 0)
        self._kept = {i: self._nothing(i, rows) for i in runs}
        self._next: dict[int, Kept] = {}
        self._in_prefix = False
        self._own = OwnScale()

    @abstractmethod
    def _nothing(self, slot: int, rows: int) -> Kept:
        """What a slot keeps at first: tensors of no token."""

    def begin_prefix(self) -> None:
        self._next, self._in_prefix = {}, True

    def end_prefix(self) -> None:
        self._kept |= self._next
        self._next, self._in_prefix = {}, False

    def begin_scale(self, k: int, blocks: Sequence[int] | None = None) -> None:
        assert self.scale == k, f"scale {k} began where scale {self.scale} was due"
        self._next = {}
        if blocks is not None:
            self._kept = {i: kept for i, kept in self._kept.items() if self._slots[i].block in blocks}

    def end_scale(self, k: int) -> None:
        assert self.scale == k, f"scale {k} ended where scale {self.scale} was due"
        self._kept |= self._next
        self._next, self.scale = {}, k + 1
        counts = {i: [x.shape[3] for x in kept] for i, kept in self._kept.items()}
        assert all(self._foreseen(k, i, counts[i]) for i in counts), f"{counts} tokens after scale {k}"

    @abstractmethod
    def _foreseen(self, k: int, slot: int, counts: list[int]) -> bool:
        """Whether the tensors of a slot have as many tokens after scale k as the outlook says."""

    def select(self, rows: Tensor) -> None:
        for i, kept in self._kept.items():  # layer by layer, so that only one is held twice
            self._kept[i] = tuple(x.index_select(1, rows) for x in kept)

    def snapshot(self) -> _Snapshot:
        return _Snapshot(self.scale, dict(self._kept))

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self.scale, self._kept, self._next = snapshot.scale, dict(snapshot.kept), {}

    def free(self) -> None:
        self._kept, self._next = {}, {}

    @property
    def live_bytes(self) -> int:
        return sum(x.nbytes for kept in self._kept.values() for x in kept)

    @property
    def allocated_bytes(self) -> int:
        return self.live_bytes + sum(x.nbytes for kept in self._next.values() for x in kept)

    def _joined(self, kept: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Keys and values (2, R, H, N, D) that were kept, and behind them k and v (R, H, l, D)."""
        past, total = kept.shape[3], kept.shape[3] + k.shape[2]
        both = self._new((*kept.shape[:3], total, kept.shape[4]))
        both[:, :, :, :past] = kept
        both[0, :, :, past:], both[1, :, :, past:] = k, v
        return both


@dataclass(frozen=True)
class _Snapshot:
    scale: int
    kept: dict[int, Kept] = field(repr=False)
