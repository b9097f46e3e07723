"""A watch for collapse: a codebook, or bits, of which hardly any are used for a while. Shape letter: ``K`` scales."""

from __future__ import annotations

import torch
from torch import Tensor

MEMORY = 50
"""Steps the running means of use look back."""


class CollapseWatch:
    """Notices when a quantiser, or one of its scales, has been in a bad state for a while.

    Row 0 is the whole quantiser, row 1 + k the scale k.

    after: steps on end that make a collapse; low: (1 + K,) int64, steps on end in a bad state since the row was last
    mended; warned: (1 + K,) bool, said so and not recovered since.
    """

    def __init__(self, scales: int, after: int) -> None:
        self.after = after
        self.low = torch.zeros(1 + scales, dtype=torch.int64)
        self.warned = torch.zeros(1 + scales, dtype=torch.bool)

    def note(self, bad: Tensor, steps: int) -> list[int]:
        """Note a judgement (1 + K,) bool that stands for the last ``steps`` steps; returns the rows to warn of now.

        Where the whole quantiser has collapsed, its scales are not named one by one.
        """
        self.low = torch.where(bad, self.low + steps, 0)
        new = (self.low >= self.after) & ~self.warned
        self.warned = (self.warned | new) & bad
        return [row for row in new.nonzero()[:, 0].tolist() if row == 0 or not self.warned[0]]

    def to_mend(self) -> list[int]:
        """The rows that have collapsed; each is given ``after`` steps before it is named again."""
        rows = self.low >= self.after
        self.low[rows] = 0
        return rows.nonzero()[:, 0].tolist()
