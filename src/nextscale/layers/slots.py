"""What a layer asks of a memory: one small protocol per kind of mixer. The memories themselves live in
``nextscale.memory``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor


class AttentionSlot(Protocol):
    """Remembers keys and values for one attention layer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of this scale's queries (B, H, l, D) to whatever the memory holds and to its own keys and
        values.
        """
        ...


class StateSlot(Protocol):
    """Remembers the state of one recurrent layer: the tensors its ``SlotSpec`` names the shapes of.

    The layer reads ``state``, the state before the tokens at hand (``None``: all zeros), and sets it to the state
    after them. It sets new tensors and never writes into those it read.
    """

    state: tuple[Tensor, ...] | None


@dataclass(frozen=True)
class SlotSpec:
    """What one mixer reads: its own scale only, the past as well, or a recurrent state.

    heads, width: heads and their width (for a memory to size its buffers); state: shapes per row of the tensors of a
    recurrent state, which are float32 whatever the precision of the weights.
    """

    reads: Literal["own", "past", "state"]
    heads: int
    width: int
    state: tuple[tuple[int, ...], ...] = ()
