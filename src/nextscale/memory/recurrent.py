"""The recurrent memory: of all earlier scales, a state of fixed size per layer. No keys, no values, no
history.

Exact for mixers that are recurrences: running one scale's tokens from the state the scale before left is the
same as running over everything again. Its bytes depend neither on the scale nor on the size of the image.
Attention inside a scale keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.memory import none
from nextscale.memory.base import Course, Memory, Outlook
from nextscale.memory.segments import OwnScale

LayerState = tuple[Tensor, ...]


class RecurrentMemory(Memory):
    """The committed state of every recurrent slot for ``rows`` rows, float32, all zeros at the start.

    States are replaced, never written into: so a snapshot holds the tensors themselves, and going back is
    exact to the bit.
    """

    def __init__(self, outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> None:
        course = outlook.course
        self.schedule, self.scale, self._blocks = course.schedule, course.first, [spec.block for spec in course.slots]
        precise = torch.promote_types(dtype, torch.float32)
        self.committed: dict[int, LayerState] = {
            i: tuple(torch.zeros((rows, *shape), dtype=precise, device=device) for shape in spec.state)
            for i, spec in enumerate(course.slots)
            if spec.reads == "state" and outlook.kept[self.scale][i]
        }
        self.pending: dict[int, LayerState] = {}
        self._own = OwnScale()

    def slot(self, index: int) -> _RecurrentSlot | OwnScale:
        return _RecurrentSlot(self, index) if index in self.committed else self._own

    def begin_prefix(self) -> None:
        self.pending = {}

    def end_prefix(self) -> None:
        self.committed |= self.pending
        self.pending = {}

    def begin_scale(self, k: int, blocks: Sequence[int] | None = None) -> None:
        assert self.scale == k, f"scale {k} began where scale {self.scale} was due"
        self.pending = {}
        if blocks is not None:
            self.committed = {i: state for i, state in self.committed.items() if self._blocks[i] in blocks}

    def end_scale(self, k: int) -> None:
        assert self.scale == k, f"scale {k} ended where scale {self.scale} was due"
        self.committed |= self.pending
        self.pending = {}
        self.scale += 1

    def select(self, rows: Tensor) -> None:
        for i, state in self.committed.items():  # layer by layer, so that only one is held twice
            self.committed[i] = tuple(t.index_select(0, rows) for t in state)

    def snapshot(self) -> _Snapshot:
        return _Snapshot(self.scale, dict(self.committed))

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self.scale, self.committed, self.pending = snapshot.scale, dict(snapshot.committed), {}

    def free(self) -> None:
        self.committed, self.pending = {}, {}

    @property
    def live_bytes(self) -> int:
        return sum(t.nbytes for state in self.committed.values() for t in state)

    @property
    def allocated_bytes(self) -> int:
        return self.live_bytes + sum(t.nbytes for state in self.pending.values() for t in state)


@dataclass(frozen=True)
class _Snapshot:
    scale: int
    committed: dict[int, LayerState]


class _RecurrentSlot:
    """Every pass over a scale starts from what was committed before it."""

    def __init__(self, memory: RecurrentMemory, layer: int) -> None:
        self._memory, self._layer = memory, layer

    @property
    def state(self) -> LayerState | None:
        return self._memory.committed[self._layer]

    @state.setter
    def state(self, value: LayerState) -> None:
        self._memory.pending[self._layer] = value


def outlook(course: Course) -> Outlook:
    """One state per recurrent slot, for as long as its block runs."""
    lasts = [course.last_of(i) if spec.reads == "state" else -1 for i, spec in enumerate(course.slots)]
    kept = tuple(tuple(int(course.first <= k <= last) for last in lasts) for k in range(len(course.blocks)))
    return Outlook(course, kept, none.outlook(course).attended)
