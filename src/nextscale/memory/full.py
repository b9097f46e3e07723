"""The full memory: every key and value of every earlier scale (the KV cache).

One arena per layer holds keys and values of all scales but the layer's last, whose keys and values no later scale
reads: that alone is 256 of 680 tokens at 256 px and 46 % at 512 px. The last scale attends to past and self through one
workspace that all layers share. Buffers are allocated once for as long as the number of rows stays, and never grow.
Layers that read their own scale only have no arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.layers.attention import attend
from nextscale.layers.slots import Count, PlainQueries
from nextscale.memory import none
from nextscale.memory.base import Course, Memory, Outlook
from nextscale.memory.segments import OwnScale


class FullMemory(Memory):
    """Keys and values of all earlier scales for ``rows`` rows, in the compute precision ``dtype``."""

    def __init__(self, outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> None:
        course = outlook.course
        self.schedule, self.scale = course.schedule, course.first
        self.rows = rows
        self.committed = 0
        self.seen = 0
        self._outlook, self._slots = outlook, course.slots
        self._new = torch.empty(0, dtype=dtype, device=device).new_empty
        runs = (i for i, spec in enumerate(course.slots) if spec.reads == "past" and course.last_of(i) >= 0)
        self._arenas = {i: self._buffer(i, outlook.capacity(self.scale, i)) for i in runs}
        self._workspace = self._make_workspace()
        self._own = OwnScale()

    def _buffer(self, slot: int, tokens: int) -> Tensor:
        spec = self._slots[slot]
        return self._new((2, self.rows, spec.heads, tokens, spec.width))

    def _make_workspace(self) -> Tensor:
        """Room for past and self wherever they do not fit an arena together, until the number of rows changes."""
        most, widest = 0, next(iter(self._arenas), None)
        for i, arena in self._arenas.items():
            until = next(
                (turn for turn in self._outlook.course.turns if turn >= self.scale), len(self._outlook.kept) - 1
            )
            for k in range(self.scale, until + 1):
                attended = int(self._outlook.attended[k][i])
                if attended > max(arena.shape[3], self.schedule.lengths[k]):
                    most = max(most, attended)
        return self._new(0) if widest is None else self._buffer(widest, most)

    def slot(self, index: int) -> _FullSlot | OwnScale:
        return _FullSlot(self, index) if self._slots[index].reads == "past" else self._own

    def begin_prefix(self) -> None:
        self.seen = 0

    def end_prefix(self) -> None:
        self.committed += self.seen

    def begin_scale(self, k: int, blocks: Sequence[int] | None = None) -> None:
        assert self.scale == k, f"scale {k} began where scale {self.scale} was due"
        self.seen = 0
        if blocks is not None:
            self._arenas = {i: arena for i, arena in self._arenas.items() if self._slots[i].block in blocks}

    def end_scale(self, k: int) -> None:
        due = self._outlook.course.seen(k) - self.committed
        assert self.seen in (due, 0 if not self._arenas else due), f"scale {k} ended after {self.seen} of {due} tokens"
        self.committed += due
        self.scale = k + 1

    def select(self, rows: Tensor) -> None:
        self.rows = len(rows)
        for i, arena in self._arenas.items():  # layer by layer, so that only one is held twice
            kept = min(self.committed, arena.shape[3])
            self._arenas[i] = self._buffer(i, self._outlook.capacity(self.scale, i))
            self._arenas[i][:, :, :, :kept] = arena[:, rows, :, :kept]
        self._workspace = self._make_workspace()

    def snapshot(self) -> _Snapshot:
        copies = {i: arena[:, :, :, : min(self.committed, arena.shape[3])].clone() for i, arena in self._arenas.items()}
        return _Snapshot(self.scale, self.committed, copies)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self.scale, self.committed, self.seen = snapshot.scale, snapshot.committed, 0
        for i, copy in snapshot.copies.items():
            self._arenas[i][:, :, :, : copy.shape[3]] = copy

    def free(self) -> None:
        self._arenas = {}
        self._workspace = self._new(0)

    @property
    def live_bytes(self) -> int:
        kept = {i: min(self.committed, arena.shape[3]) for i, arena in self._arenas.items()}
        return sum(self.rows * self._slots[i].bytes(n, self._workspace.element_size()) for i, n in kept.items())

    @property
    def allocated_bytes(self) -> int:
        return sum(buffer.nbytes for buffer in (*self._arenas.values(), self._workspace))

    def see(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B, H, l, D) behind what layer ``layer`` has committed; all of it together."""
        past, total = self.committed, self.committed + k.shape[2]
        self.seen = k.shape[2]
        arena = self._arenas[layer]
        if total > arena.shape[3]:
            if past == 0:
                return k, v
            space = self._workspace
            space[:, :, :, :past] = arena[:, :, :, :past]
        else:
            space = arena
        space[0, :, :, past:total] = k
        space[1, :, :, past:total] = v
        return space[0, :, :, :total], space[1, :, :, :total]


@dataclass(frozen=True)
class _Snapshot:
    scale: int
    committed: int
    copies: dict[int, Tensor]


class _FullSlot:
    def __init__(self, memory: FullMemory, layer: int) -> None:
        self._memory, self._layer = memory, layer

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        return attend(q, *self._memory.see(self._layer, k, v))

    def see(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> tuple[Tensor, Tensor, None]:
        return *self._memory.see(self._layer, k, v), None


def outlook(course: Course, keep_last: bool = False) -> Outlook:
    """Every token that a later scale may look at. keep_last: also those of the last scale, to inspect them."""
    lasts = [course.last_of(i) if spec.reads == "past" else -1 for i, spec in enumerate(course.slots)]

    def kept(k: int, last: int) -> int:
        if not course.first <= k <= last:
            return 0
        until = k if keep_last else min(k, last - 1)
        if until < course.first:  # all that a block's only scale reads of earlier ones is the prefix
            return 0 if course.with_first else course.prefix
        return course.seen(until)

    def attended(k: int, slot: int) -> Count:
        spec = course.slots[slot]
        return course.seen(k) if spec.reads == "past" and spec.block in course.blocks[k] else own[k][slot]

    own, scales, slots = none.outlook(course).attended, range(len(course.blocks)), range(len(course.slots))
    return Outlook(
        course,
        tuple(tuple(kept(k, last) for last in lasts) for k in scales),
        tuple(tuple(attended(k, i) for i in slots) for k in scales),
    )
