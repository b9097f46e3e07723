"""What a layer asks of a memory: one small protocol per kind of mixer. The memories themselves live in
``nextscale.memory``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any, Literal, Protocol

from torch import Tensor

from nextscale.scales import ScaleSchedule

Count = int | Fraction
"""Tokens per head of a mixer: where its heads hold different numbers, their exact mean."""
PlainQueries = Callable[[Tensor], Tensor]
"""Positions (n,) int64 among the tokens at hand to their queries (B, H, n, D) as they were projected: without bias,
norm, scale and rotary positions, from which nobody could recover them. Computed where a memory asks for them.
"""


class AttentionSlot(Protocol):
    """Remembers keys and values for one attention layer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        """Attention of this scale's queries (B, H, l, D) to whatever the memory holds and to its own keys and
        values. plain: the layer always gives it, and a slot around a slot hands it on.
        """
        ...

    def see(
        self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """What :meth:`attend` attends to, for slots around this one: keys and values, those of a prefix first and those
        at hand last, and which of them each query sees (None: all).
        """
        ...


class StateSlot(Protocol):
    """Remembers the state of one recurrent layer: the tensors its ``SlotSpec`` names the shapes of.

    The layer reads ``state``, the state before the tokens at hand (``None``: all zeros), and sets it to the state
    after them. It sets new tensors and never writes into those it read.
    """

    state: tuple[Tensor, ...] | None


class SlotWrapper(Protocol):
    """A slot around a slot: what an adapter adds to one mixer of a frozen model."""

    def wrap(self, slot: Any, k: int | None, schedule: ScaleSchedule) -> Any:
        """The slot that the mixer gets. k: the scale at hand; None: the first scales of ``schedule``, one after the
        other, behind the prefix; -1: the prefix.
        """
        ...

    def select(self, rows: Tensor) -> SlotWrapper:
        """Keep, repeat or reorder rows (R',) int64 of its tensors."""
        ...


@dataclass(frozen=True)
class SlotSpec:
    """What one mixer reads: its own scale only, the past as well, or a recurrent state.

    heads, width: heads and their width (for a memory to size its buffers); state: shapes per row of the tensors of a
    recurrent state, which are float32 whatever the precision of the weights; block: the block it belongs to.
    """

    reads: Literal["own", "past", "state"]
    heads: int
    width: int
    state: tuple[tuple[int, ...], ...] = ()
    block: int = 0

    def bytes(self, kept: Count, element: int) -> int:
        """Bytes of one row: keys and values of ``kept`` tokens, or ``kept`` states, of at least 4 bytes a number."""
        if self.reads == "state":
            return int(kept * sum(prod(shape) for shape in self.state) * max(4, element))
        return int(2 * self.heads * self.width * kept * element)
