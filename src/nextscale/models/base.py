"""What every next-scale transformer can say, and the condition it is given.

Shape letters: ``B`` images, ``R`` rows = branches x images (branch-major: all conditional rows first), ``l`` tokens
of one scale, ``L`` of all, ``C`` width, ``V`` codes, ``c`` code width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor, nn

from nextscale.layers.slots import SlotSpec
from nextscale.scales import ScaleSchedule


@dataclass(frozen=True)
class Condition:
    """A model's view of what is to be drawn, for R rows.

    start: (R, l_0, C) input of the first scale; vector: (R, C) for the head's AdaLN; modulation: one (R, 1, n, C) per
    block, computed once per generation since it is the same at every scale; context, mask: (R, T, C) and (R, T) for
    cross-attention, where a model has it.
    """

    start: Tensor
    vector: Tensor
    modulation: tuple[Tensor, ...] = ()
    context: Tensor | None = None
    mask: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.start.shape[0]

    def select(self, rows: Tensor) -> Condition:
        """Keep, repeat or reorder rows: (R',) int64."""

        def pick(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.index_select(0, rows)

        return replace(
            self,
            start=self.start.index_select(0, rows),
            vector=self.vector.index_select(0, rows),
            modulation=tuple(m.index_select(0, rows) for m in self.modulation),
            context=pick(self.context),
            mask=pick(self.mask),
        )


class Slots(Protocol):
    """The part of a memory that a forward pass uses (a training mask offers just this)."""

    schedule: ScaleSchedule

    def slot(self, index: int) -> Any: ...


class NextScaleModel(nn.Module, ABC):
    """A transformer that predicts one token map at a time. It computes; the loop in ``generate.py`` generates."""

    schedule: ScaleSchedule
    blocks: nn.ModuleList
    slots: tuple[SlotSpec, ...]
    """What every mixer reads, block by block; a block may have several."""
    memory: str
    """Name of the memory that is exact for this model, see ``nextscale.memory.make``."""
    null_class: int
    """Id of the null class, which is also the number of classes."""
    guidance: str
    """Name of the model's published guidance schedule, see ``nextscale.guidance``."""

    @abstractmethod
    def check(self, schedule: ScaleSchedule) -> None:
        """Raises ``PlanError`` where this model cannot draw by ``schedule``."""

    @abstractmethod
    def condition(self, features: Tensor, branches: int = 1) -> Condition:
        """Model-free features of B images to a condition of branches x B rows; the last branch is the null
        condition.
        """

    @abstractmethod
    def forward(self, inputs: Sequence[Tensor], condition: Condition, recompute: bool = False) -> Tensor:
        """Teacher-forced logits (R, L, V) float32 of all scales from the inputs (R, c, h_k, w_k) of the scales after
        the first. recompute: blocks keep their input alone until the gradients are computed.
        """

    @abstractmethod
    def step(
        self, inputs: Tensor | None, k: int, condition: Condition, memory: Slots, blocks: Sequence[int] | None = None
    ) -> Tensor:
        """Hidden state (R, l, C) of scale k.

        inputs: (B, c, h_k, w_k), used for every branch, or None at the first scale; blocks: which blocks run (all if
        None).
        """

    @abstractmethod
    def head(self, hidden: Tensor, condition: Condition) -> Tensor:
        """Hidden state (R, l, C) to logits (R, l, V), float32."""

    @abstractmethod
    def condition_flops(self, rows: int) -> int:
        """FLOPs of :meth:`condition` for ``rows`` rows."""

    @abstractmethod
    def step_flops(self, schedule: ScaleSchedule, k: int, images: int, rows: int, blocks: Sequence[int] | None) -> int:
        """FLOPs of :meth:`step` with full memory."""

    @abstractmethod
    def head_flops(self, tokens: int, rows: int) -> int:
        """FLOPs of :meth:`head` for ``tokens`` tokens in each of ``rows`` rows."""
