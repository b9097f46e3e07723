"""The memory of teacher forcing: all scales stand in one sequence, and a mask says who may look at whom."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from nextscale.layers.attention import attend
from nextscale.layers.slots import PlainQueries
from nextscale.scales import ScaleSchedule


class BlockCausalMask:
    """Every token sees the tokens of its own and of earlier groups. Holds nothing but the mask; serves as every
    slot.
    """

    def __init__(self, groups: tuple[int, ...], device: torch.device) -> None:
        self.mask = causal(groups, device)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        return attend(q, k, v, self.mask)

    def see(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> tuple[Tensor, Tensor, Tensor]:
        return k, v, self.mask


def block_causal(schedule: ScaleSchedule, device: torch.device) -> Tensor:
    """(L, L) bool, True where scale(column) <= scale(row)."""
    return causal(schedule.lengths, device)


@lru_cache(maxsize=8)
def causal(groups: tuple[int, ...], device: torch.device) -> Tensor:
    """The same for groups of so many tokens."""
    levels = torch.repeat_interleave(torch.arange(len(groups), device=device), torch.tensor(groups, device=device))
    return levels[:, None] >= levels[None, :]
