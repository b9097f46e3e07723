"""Painting: in-painting, out-painting and class editing by keeping some of a given image's tokens.

VAR's zero-shot editing (arXiv 2404.02905, section 5.2, official demo): the tokens to keep are drawn like all others,
consuming their noise, and then replaced by those of the given image before they are accumulated. Which tokens are kept
is a rule's affair, see :func:`given_of`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.errors import InputError, quoted
from nextscale.given import Given, GivenCanvases, GivenTokens
from nextscale.plan import Plan
from nextscale.scales import ScaleSchedule, Size
from nextscale.tokenizers.base import Tokenizer

Box = tuple[float, float, float, float]
"""y0, x0, y1, x1 as fractions of height and width."""
RULES = ("cover", "official", "canvases")
HALF = 0.5 - 1e-9
"""Shares are sums of fractions; one that is half on paper shall be so here."""


def paint(plan: Plan, part: str = "given") -> Plan:
    """The same plan, keeping at every scale the tokens that the part named ``part`` (a ``GivenTokens``) holds."""
    return plan.with_column(keep=part)


def given_of(
    tokenizer: Tokenizer,
    images: Tensor,
    repaint: Tensor,
    schedule: ScaleSchedule | None = None,
    rule: str = "cover",
) -> Given:
    """What :func:`paint` keeps of ``images`` (B, 3, H, W) in [-1, 1] by a rule: the part to hand over beside the plan.

    repaint: (h, w) or (B, h, w) of any size, True or 1 where something new is drawn; schedule: by default the
    tokenizer's own. Rules:

    cover: a token is drawn anew where at least half of its cell is repainted, and the one token of a 1x1 scale where
    more than half of the picture is. All kept is the reconstruction, nothing kept is a plain generation.

    official: VAR's procedure (see :func:`keep_masks`): the 1x1 token always is the image's. All kept is the
    reconstruction.

    canvases: CoDe's (arXiv 2411.17787, official code): after every scale the canvas of the image stands where the last
    grid is kept; tokens are drawn everywhere and are not those of the picture. Both laws of cover hold.

    Raises ``InputError`` for another rule, or a mask of another shape.
    """
    if rule not in RULES:
        raise InputError(f"rule is {quoted(rule)}; expected one of {', '.join(RULES)}")
    schedule = schedule or tokenizer.schedule
    kept = shares(repaint, schedule.grid) < HALF
    with torch.no_grad():
        latent = tokenizer.latent(images)
        start = tokenizer.start(len(latent), schedule)
        steps = list(tokenizer.walk(start, lambda canvas, k: tokenizer.quantize(latent, canvas, k)))
    if rule == "canvases":
        return GivenCanvases([canvas.latent for _, canvas in steps], kept.float())
    tokens = [tokens for tokens, _ in steps]
    return GivenTokens(tokens, cover_masks(repaint, schedule) if rule == "cover" else keep_masks(kept, schedule))


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


def cover_masks(repaint: Tensor, schedule: ScaleSchedule) -> list[Tensor]:
    """The mask of every scale, bool, True where kept, by the rule "cover"; repaint: see :func:`given_of`."""
    found = [shares(repaint, size) for size in schedule]
    return [share <= 1 - HALF if share.shape[-2:] == (1, 1) else share < HALF for share in found]


def shares(mask: Tensor, size: Size) -> Tensor:
    """How much of every cell of a grid (h, w) a mask (H, W) or (B, H, W), bool or 0 to 1, covers: float64, (h, w) or
    (B, h, w). Cells that cut through pixels count what they have of them. Raises ``InputError`` for another shape.
    """
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise InputError(f"the mask has the shape {tuple(mask.shape)}; expected (h, w) or (B, h, w)")
    rows, columns = (_overlaps(cells, pixels) for cells, pixels in zip(size, mask.shape[-2:], strict=True))
    return rows @ mask.double().cpu() @ columns.T


def _overlaps(cells: int, pixels: int) -> Tensor:
    """The share of every pixel in every cell of a line that is cut into so many of each: (cells, pixels) float64."""
    edges, starts = torch.arange(cells + 1, dtype=torch.float64) * pixels / cells, torch.arange(pixels)
    overlaps = torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)
    return overlaps.clamp(min=0) * cells / pixels
