"""The recurrent memory: of all earlier scales, a state of fixed size per layer. No keys, no values, no
history.

Exact for mixers that are recurrences: running one scale's tokens from the state the scale before left is the
same as running over everything again. Its bytes depend neither on the scale nor on the size of the image.
Attention inside a scale keeps nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from nextscale.layers.slots import SlotSpec
from nextscale.memory.base import Memory
from nextscale.memory.segments import OwnScale
from nextscale.scales import ScaleSchedule

State = tuple[Tensor, ...]


class RecurrentMemory(Memory):
    """The committed state of every recurrent slot for ``rows`` rows, float32, all zeros at the start.

    States are replaced, never written into: so a snapshot holds the tensors themselves, and going back is
    exact to the bit.
    """

    def __init__(
        self,
        slots: Sequence[SlotSpec],
        schedule: ScaleSchedule,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.schedule = schedule
        self.scale = 0
        precise = torch.promote_types(dtype, torch.float32)
        self.committed: dict[int, State] = {
            i: tuple(torch.zeros((rows, *shape), dtype=precise, device=device) for shape in spec.state)
            for i, spec in enumerate(slots)
            if spec.reads == "state"
        }
        self.pending: dict[int, State] = {}
        self._own = OwnScale()

    def slot(self, index: int) -> _RecurrentSlot | OwnScale:
        return _RecurrentSlot(self, index) if index in self.committed else self._own

    def begin_scale(self, k: int) -> None:
        assert self.scale == k, f"scale {k} began where scale {self.scale} was due"
        self.pending = {}

    def end_scale(self, k: int) -> None:
        assert self.scale == k, f"scale {k} ended where scale {self.scale} was due"
        self.committed |= self.pending
        self.pending = {}
        self.scale += 1

    def select(self, rows: Tensor) -> None:
        self.committed = {i: tuple(t.index_select(0, rows) for t in state) for i, state in self.committed.items()}

    def snapshot(self) -> _Snapshot:
        return _Snapshot(self.scale, dict(self.committed))

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self.scale, self.committed, self.pending = snapshot.scale, dict(snapshot.committed), {}

    def free(self, layers: Sequence[int] | None = None) -> None:
        for i in list(self.committed) if layers is None else layers:
            self.committed.pop(i, None)
            self.pending.pop(i, None)

    @property
    def live_bytes(self) -> int:
        return sum(t.nbytes for state in self.committed.values() for t in state)

    @property
    def allocated_bytes(self) -> int:
        return self.live_bytes + sum(t.nbytes for state in self.pending.values() for t in state)


@dataclass(frozen=True)
class _Snapshot:
    scale: int
    committed: dict[int, State]


class _RecurrentSlot:
    """Every pass over a scale starts from what was committed before it."""

    def __init__(self, memory: RecurrentMemory, layer: int) -> None:
        self._memory, self._layer = memory, layer

    @property
    def state(self) -> State | None:
        return self._memory.committed[self._layer]

    @state.setter
    def state(self, value: State) -> None:
        self._memory.pending[self._layer] = value


def recurrent_bytes(slots: Sequence[SlotSpec], schedule: ScaleSchedule, k: int, rows: int, element: int) -> int:
    """Live bytes after any scale: the state is float32 (4 bytes) under any weights of at most 4 bytes."""
    return sum(rows * prod(shape) * max(4, element) for spec in slots for shape in spec.state)
