"""What painting left of a picture, and whether its border is seen.

Shape letters: ``N`` pictures, ``H W`` pixels. Pictures are uint8 (N, 3, H, W), masks (N, H, W) bool, True where
something was painted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.measures.recognition import error_by_family
from nextscale.measures.tokenizer import SMALLEST_ERROR


@dataclass(frozen=True)
class Mean:
    """A mean over ``images`` pictures, or a ratio of two, with its standard error; families count as independent."""

    value: float
    error: float
    images: int

    @classmethod
    def of(cls, values: Tensor, families: Sequence[str]) -> Mean:
        """The mean of ``values`` (N,); of differences, it is that of a paired comparison."""
        return cls.ratio(values, torch.ones_like(values), families)

    @classmethod
    def ratio(cls, above: Tensor, below: Tensor, families: Sequence[str]) -> Mean:
        """The mean of ``above`` (N,) by that of ``below`` (N,); 0 where both are 0."""
        above, below = above.double(), below.double()
        whole = max(float(below.sum()), SMALLEST_ERROR)
        value = float(above.sum()) / whole
        return cls(value, error_by_family(above - value * below, families) / whole, len(above))


def psnr_outside(images: Tensor, originals: Tensor, masks: Tensor) -> Tensor:
    """PSNR in dB of each picture over the pixels that are not masked, (N,), as ``measures.tokenizer.psnr`` has it."""
    kept = ~masks
    errors = ((images.float() - originals.float()) / 255).square().mean(1) * kept
    error = errors.flatten(1).sum(1) / kept.flatten(1).sum(1)
    return -10 * error.clamp_min(SMALLEST_ERROR).log10()


def steps(images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """How large the steps from a pixel to the next one are, across the border of the mask and inside it: (N,) both.

    A step is the Euclidean length of the difference of two colours, in which black to white is 1, of pixels that touch
    in a row or a column. Means are over the pairs of which one is masked, and over those of which both are.
    """
    sums = torch.zeros(2, 2, len(images), dtype=torch.float64)  # across and inside; lengths and pairs
    for dim in (-2, -1):
        lengths = (images.double() / 255).diff(dim=dim).square().mean(1).sqrt()
        count = masks.shape[dim] - 1
        first, second = masks.narrow(dim, 0, count), masks.narrow(dim, 1, count)
        for i, pairs in enumerate((first ^ second, first & second)):
            sums[i, 0] += (lengths * pairs).flatten(1).sum(1)
            sums[i, 1] += pairs.flatten(1).sum(1)
    across, inside = sums[:, 0] / sums[:, 1].clamp_min(1)
    return across, inside
