"""FlexVAR: next-scale prediction of the ground truth (arXiv 2502.20313).

VAR's blocks, on maps that are down-sampled latents themselves instead of residuals, see ``tokenizers/direct.py``. So no
scale needs another one, and a model draws any schedule, size and aspect ratio: positions are a picture of vectors that
is brought to the size of every map, and there is no embedding of levels. What a scale is given is the map before it;
older ones act through the memory alone.

Shape letters as in ``models/base.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nextscale.models.var import VAR, VARConfig
from nextscale.ratios import Shapes
from nextscale.scales import ScaleSchedule, Size, spaced
from nextscale.settings import check_bounds
from nextscale.tokenizers.autoencoder import interpolate

TABLE = {
    16: (
        (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        (1, 2, 4, 6, 10, 16),
        (1, 2, 3, 5, 8, 11, 16),
        (1, 2, 3, 4, 6, 10, 13, 16),
        (1, 2, 3, 4, 5, 7, 10, 13, 16),
        (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 16),
        (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16),
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16),
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16),
    ),
    24: ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 24),),
    32: (
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 23, 32),
        (1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 23, 32),
    ),
}
"""Published schedules by the side of their last map; the first of each is the one that is drawn where nobody says how
many steps. The table of the paper (its 8 steps differ from those of the authors' script), and 14 steps of the script.
"""
SIDE = 16
"""Of the last map of the schedules that were trained."""
DRAWN = {1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 23, 24, 32}
"""Sides at which the official sampler draws; at all others it takes the likeliest token."""


@dataclass(frozen=True, kw_only=True)
class FlexVARConfig(VARConfig):
    """Sizes of a FlexVAR transformer. sizes: the schedule that is drawn where nothing is asked for, whose last map is
    as large as any that was trained; places: side of the picture of positions, which is brought to the size of every
    map (as published twice the largest map that was trained).

    greedy: the official sampler's rule, which the paper does not tell but its numbers need: at sides that are larger
    than the trained ones, or that the published list of them lacks (``DRAWN``), a plan has top-k 1.
    """

    codes: int = 8912
    places: int = 32
    greedy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, places=(1, 4096))

    @classmethod
    def published(cls, depth: int, pixels: int = 256) -> FlexVARConfig:
        """The official configuration of depth 16, 20 or 24, which was trained on maps for 256 pixels."""
        return cls(depth=depth, width=64 * depth, heads=depth, drop_path=0.1 * depth / 24, greedy=True)


class FlexVAR(VAR):
    """See :class:`~nextscale.models.base.NextScaleModel` for the methods."""

    name = "FlexVAR"
    guidance = "ramp-of-ten"
    free = ("sizes", "greedy")
    config: FlexVARConfig

    def add_positions(self, c: int) -> None:
        side = self.config.places
        self.pos_start = nn.Parameter(torch.zeros(1, c))
        self.pos_embedding = nn.Parameter(torch.zeros(c, side, side))

    def positions(self, k: int, schedule: ScaleSchedule) -> Tensor:
        whole = self.pos_embedding[None]
        return interpolate(whole.float(), schedule[k], "area").flatten(2).mT[0].to(whole.dtype)

    def check(self, schedule: ScaleSchedule) -> None:
        """Any will do."""

    def schedule_of(self, grid: Size, steps: int | None = None) -> ScaleSchedule:
        """The trained one or a published one where it ends so and has ``steps`` scales. Else, where nobody says how
        many, the paper's rule for other aspect ratios: its ten scales, each in proportion, cut to whole tokens, without
        what comes twice. Else the published one for 256 pixels with so many scales, all of it scaled to the longer
        side, see :func:`nextscale.scales.spaced`; where none has so many, that of the nearest number, read off between
        its sides.
        """
        h, w = grid
        rows = (self.schedule, *(ScaleSchedule.of(row) for row in TABLE.get(max(grid), ())))
        found = next((row for row in rows if row.grid == grid and steps in (None, len(row))), None)
        if found is not None:
            return found
        if steps is None:
            sizes = ((max(1, h * i // SIDE), max(1, w * i // SIDE)) for i in TABLE[SIDE][0])
            return ScaleSchedule(tuple(dict.fromkeys(sizes)))
        row = min(TABLE[SIDE], key=lambda row: abs(len(row) - steps))
        return spaced(row, steps, grid)

    def shapes(self, stride: int) -> Shapes:
        return replace(super().shapes(stride), smaller=True)

    def is_greedy(self, size: Size) -> bool:
        side = max(size)
        return self.config.greedy and (side not in DRAWN or side > max(self.schedule.grid))

    def init_positions(self, std: float) -> None:
        nn.init.trunc_normal_(self.pos_start, std=std)
        self.pos_embedding.copy_(waves(*self.pos_embedding.shape))


def waves(c: int, h: int, w: int) -> Tensor:
    """The official initial positions (c, h, w): sin(row w_j) in channel 2j and cos(column w_j) in channel 2j + 1, with
    w_j = 10000^(-2j / c).
    """
    frequencies = 10_000.0 ** (-torch.arange(0, c, 2) / c)
    found = torch.zeros(c, h, w)
    found[0::2] = (frequencies[:, None].expand(-1, h) * torch.arange(h)).sin()[:, :, None]
    found[1::2] = (frequencies[: c // 2, None].expand(-1, w) * torch.arange(w)).cos()[:, None, :]
    return found
