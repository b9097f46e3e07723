"""The memory of teacher forcing: all scales stand in one sequence, and a mask says who may look at whom."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from nextscale.layers.attention import attend
from nextscale.scales import ScaleSchedule


class BlockCausalMask:
    """Every token sees the tokens of its own and of coarser scales. Holds nothing but the mask; serves as every
    slot.
    """

    def __init__(self, schedule: ScaleSchedule, device: torch.device) -> None:
        self.schedule = schedule
        self.mask = block_causal(schedule, device)

    def slot(self, index: int) -> BlockCausalMask:
        return self

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, self.mask)


@lru_cache(maxsize=8)
def block_causal(schedule: ScaleSchedule, device: torch.device) -> Tensor:
    """(L, L) bool, True where scale(column) <= scale(row)."""
    levels = torch.repeat_interleave(
        torch.arange(len(schedule), device=device), torch.tensor(schedule.lengths, device=device)
    )
    return levels[:, None] >= levels[None, :]
