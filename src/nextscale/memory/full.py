"""The full memory: every key and value of every earlier scale (the KV cache).

One arena per layer holds keys and values of all scales but the last, whose keys and values no later scale reads: that
alone is 256 of 680 tokens at 256 px and 46 % at 512 px. The last scale attends to past and self through one workspace
that all layers share. Buffers are allocated once and never grow. Layers that read their own scale only have no arena.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.layers.attention import attend
from nextscale.layers.slots import SlotSpec
from nextscale.memory.base import Memory
from nextscale.memory.segments import OwnScale
from nextscale.scales import ScaleSchedule


class FullMemory(Memory):
    """Keys and values of all earlier scales for ``rows`` rows, in the compute precision ``dtype``.

    keep_last: also store the last scale's keys and values, as someone inspecting them would want.
    """

    def __init__(
        self,
        slots: Sequence[SlotSpec],
        schedule: ScaleSchedule,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        keep_last: bool = False,
    ) -> None:
        self.schedule = schedule
        self.rows = rows
        self.committed = 0
        self.seen = 0
        self.capacity = schedule.tokens if keep_last else schedule.offsets[-2]

        def buffer(spec: SlotSpec, tokens: int) -> Tensor:
            return torch.empty((2, rows, spec.heads, tokens, spec.width), dtype=dtype, device=device)

        self._past = [spec.reads == "past" for spec in slots]
        self._arenas: list[Tensor | None] = [buffer(s, self.capacity) if s.reads == "past" else None for s in slots]
        workspace = 0 if self.capacity in (0, schedule.tokens) else schedule.tokens
        self._workspace = buffer(slots[self._past.index(True)], workspace)
        self._own = OwnScale()

    def slot(self, index: int) -> _FullSlot | OwnScale:
        return _FullSlot(self, index) if self._past[index] else self._own

    def begin_scale(self, k: int) -> None:
        assert self.committed == self.schedule.offsets[k], f"scale {k} began after {self.committed} tokens"
        self.seen = 0

    def end_scale(self, k: int) -> None:
        assert self.seen == self.schedule.lengths[k], f"scale {k} ended after {self.seen} of its tokens"
        self.committed += self.seen

    def select(self, rows: Tensor) -> None:
        kept = min(self.committed, self.capacity)
        for i, arena in enumerate(self._arenas):
            if arena is None:
                continue
            if len(rows) > arena.shape[1]:
                grown = arena.new_empty((2, len(rows), *arena.shape[2:]))
                grown[:, :, :, :kept] = arena[:, rows, :, :kept]
                self._arenas[i] = grown
            else:
                arena[:, : len(rows), :, :kept] = arena[:, rows, :, :kept]
        if len(rows) > self._workspace.shape[1]:
            self._workspace = self._workspace.new_empty((2, len(rows), *self._workspace.shape[2:]))
        self.rows = len(rows)

    def snapshot(self) -> _Snapshot:
        kept = min(self.committed, self.capacity)
        copies = [None if a is None else a[:, : self.rows, :, :kept].clone() for a in self._arenas]
        return _Snapshot(self.rows, self.committed, copies)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self.rows, self.committed, self.seen = snapshot.rows, snapshot.committed, 0
        for arena, copy in zip(self._arenas, snapshot.copies, strict=True):
            if arena is not None and copy is not None:
                arena[:, : self.rows, :, : copy.shape[3]] = copy

    def free(self, layers: Sequence[int] | None = None) -> None:
        for i in range(len(self._arenas)) if layers is None else layers:
            self._arenas[i] = None
        if layers is None:
            self._workspace = self._workspace.new_empty(0)

    @property
    def live_bytes(self) -> int:
        kept = min(self.committed, self.capacity)
        return sum(
            2 * self.rows * a.shape[2] * kept * a.shape[4] * a.element_size() for a in self._arenas if a is not None
        )

    @property
    def allocated_bytes(self) -> int:
        buffers = [*self._arenas, self._workspace]
        return sum(b.numel() * b.element_size() for b in buffers if b is not None)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store k, v (B, H, l, D) behind what layer ``layer`` has committed, and attend to both."""
        past, total = self.committed, self.committed + k.shape[2]
        self.seen = k.shape[2]
        arena = self._arenas[layer]
        assert arena is not None, f"layer {layer} was freed"
        if total > self.capacity:
            if past == 0:
                return attend(q, k, v)
            space = self._workspace[:, : self.rows]
            space[:, :, :, :past] = arena[:, : self.rows, :, :past]
        else:
            space = arena[:, : self.rows]
        space[0, :, :, past:total] = k
        space[1, :, :, past:total] = v
        return attend(q, space[0, :, :, :total], space[1, :, :, :total])


@dataclass(frozen=True)
class _Snapshot:
    rows: int
    committed: int
    copies: list[Tensor | None]


class _FullSlot:
    def __init__(self, memory: FullMemory, layer: int) -> None:
        self._memory, self._layer = memory, layer

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self._memory.attend(self._layer, q, k, v)


def full_bytes(slots: Sequence[SlotSpec], schedule: ScaleSchedule, k: int, rows: int, element: int) -> int:
    """Live bytes of a full memory after scale k was committed; ``element`` bytes per number."""
    tokens = min(schedule.offsets[k + 1], schedule.offsets[-2])
    return sum(2 * rows * spec.heads * tokens * spec.width * element for spec in slots if spec.reads == "past")
