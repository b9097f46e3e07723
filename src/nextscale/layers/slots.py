"""What a layer asks of a memory: one small protocol per kind of mixer. The memories themselves live in ``nextscale.memory``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor


class AttentionSlot(Protocol):
    """Remembers keys and values for one attention layer."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of this scale's queries (B, H, l, D) to whatever the memory holds and to its own keys and values."""
        ...


@dataclass(frozen=True)
class SlotSpec:
    """What one mixer reads: its own scale only, the past as well, or a recurrent state.

    heads, width: attention heads and their width (for a memory to size its buffers).
    """

    reads: Literal["own", "past", "state"]
    heads: int
    width: int
