"""Painting: in-painting, out-painting and class editing by keeping some of a given image's tokens.

VAR's zero-shot editing (arXiv 2404.02905, section 5.2, official demo): the tokens to keep are drawn like all others,
consuming their noise, and then replaced by those of the given image before they are accumulated.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.errors import InputError
from nextscale.given import GivenTokens
from nextscale.plan import Plan
from nextscale.scales import ScaleSchedule, Size
from nextscale.tokenizers.base import Tokenizer

Box = tuple[float, float, float, float]
"""y0, x0, y1, x1 as fractions of height and width."""


def paint(plan: Plan, part: str = "given") -> Plan:
    """The same plan, keeping at every scale the tokens that the part named ``part`` (a ``GivenTokens``) holds."""
    return plan.with_column(keep=part)


def given_tokens(
    tokenizer: Tokenizer, images: Tensor, mask: Tensor, schedule: ScaleSchedule | None = None
) -> GivenTokens:
    """What :func:`paint` keeps of ``images`` (B, 3, H, W) in [-1, 1]: the part to hand over beside the plan.

    mask: see :func:`keep_masks`.
    """
    schedule = schedule or tokenizer.schedule
    with torch.no_grad():
        tokens = tokenizer.encode(tokenizer.latent(images), schedule).tokens
    return GivenTokens(tokens, keep_masks(mask, schedule))


def edit_mask(grid: Size, box: Box, inpainting: bool = True) -> Tensor:
    """A mask (h, w) bool on the latent grid, True where the given image is kept.

    In-painting keeps what lies outside ``box``, out-painting what lies inside. The borders are rounded to whole
    positions, halves to even. Raises ``InputError`` for a box that does not lie in the image.
    """
    y0, x0, y1, x1 = box
    if not (0 <= y0 <= y1 <= 1 and 0 <= x0 <= x1 <= 1):
        raise InputError(
            f"the box is {box}; expected y0, x0, y1, x1 as fractions, 0 <= y0 <= y1 <= 1 and 0 <= x0 <= x1 <= 1"
        )
    h, w = grid
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[round(y0 * h) : round(y1 * h), round(x0 * w) : round(x1 * w)] = True
    return ~inside if inpainting else inside


def keep_masks(mask: Tensor, schedule: ScaleSchedule) -> list[Tensor]:
    """The mask of every scale, bool, from one (h, w) or (B, h, w) on any grid, bool or 0 to 1, where 1 is keep.

    A position is kept where the mask, resized bilinearly to the scale, passes one half; scales of at most three tokens
    are kept whole, since they carry the layout of the image.
    """
    if mask.ndim not in (2, 3):
        raise InputError(f"the mask has the shape {tuple(mask.shape)}; expected (h, w) or (B, h, w)")
    stacked = mask.float().reshape(-1, 1, *mask.shape[-2:])
    masks = []
    for h, w in schedule:
        kept = F.interpolate(stacked, size=(h, w), mode="bilinear", align_corners=False)[:, 0] > 0.5
        kept = torch.ones_like(kept) if h * w <= 3 else kept
        masks.append(kept if mask.ndim == 3 else kept[0])
    return masks
