"""What needs no memory: attention inside a scale, and the memories of teacher forcing, where all scales stand
in one sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextscale.layers.attention import attend
from nextscale.layers.slots import PlainQueries, SlotSpec
from nextscale.memory.mask import BlockCausalMask, causal
from nextscale.scales import ScaleSchedule


class OwnScale:
    """Every token sees its own scale and nothing else.

    lengths: tokens of every scale in the sequence at hand, one attention call each; ``None``: the sequence is
    one scale.
    """

    def __init__(self, lengths: Sequence[int] | None = None) -> None:
        self.lengths = lengths

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        if self.lengths is None:
            return attend(q, k, v)
        scales = zip(*(x.split(list(self.lengths), 2) for x in (q, k, v)), strict=True)
        return torch.cat([attend(*scale) for scale in scales], 2)

    def see(
        self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        if self.lengths is None:
            return k, v, None
        seen = causal(tuple(self.lengths), q.device)
        return k, v, seen & seen.T


class FromZero:
    """The state of a scan over the whole sequence: zeros in front of it, and nobody reads what it leaves."""

    @property
    def state(self) -> None:
        return None

    @state.setter
    def state(self, value: tuple[Tensor, ...]) -> None: ...


class TeacherForcing:
    """The slots of a forward pass over the first ``scales`` of ``schedule`` at once (None: all); holds a mask where a
    mixer reads the past.

    prefix: tokens in front of the first scale: a group of their own, or (``with_first``) one with the first scale.
    """

    def __init__(
        self,
        slots: Sequence[SlotSpec],
        schedule: ScaleSchedule,
        device: torch.device,
        prefix: int = 0,
        with_first: bool = False,
        scales: int | None = None,
    ) -> None:
        self.schedule = schedule
        self._slots = slots
        first, *others = schedule.lengths[:scales]
        ahead = (prefix + first,) if with_first else (prefix, first) if prefix else (first,)
        groups = (*ahead, *others)
        past = any(spec.reads == "past" for spec in slots)
        mask = BlockCausalMask(groups, device) if past else None
        self._kinds = {"own": OwnScale(groups), "past": mask, "state": FromZero()}

    def slot(self, index: int) -> Any:
        return self._kinds[self._slots[index].reads]
