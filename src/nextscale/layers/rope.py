"""Rotary positions in two dimensions, as Infinity has them (arXiv 2412.04431, section 3.3 and its code).

Pairs of channels (2 j, 2 j + 1) turn by an angle: the first half of the pairs with the row of a token, the second half
with its column. The tokens of a coarse map are spread over the finest map of its aspect ratio: each stands at the place
of the finest map where the part that it covers begins.

Shape letters: ``R`` rows, ``H`` heads, ``l`` tokens of this call, ``L`` of all scales, ``D`` head width.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.scales import ScaleSchedule, Size

Positions = Literal["stretched", "resampled", "raw"]
"""How a coarse map lies on the finest one: on rounded places of it (all published weights), on cosines and sines that
are resampled from a map with an edge of ``EDGE`` places, or on its own places. In the official code 2, 1 and 0."""
BASE = 10_000.0
EDGE = 128


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn queries or keys (R, H, l, D) by a table (l, D / 2, 2); computed in float32."""
    turned = torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * torch.view_as_complex(table)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


@lru_cache(maxsize=64)
def rotary_table(
    schedule: ScaleSchedule, reference: Size, width: int, device: torch.device, positions: Positions = "stretched"
) -> Tensor:
    """Cosines and sines (L, D / 2, 2) float32 of all scales, for heads of ``width`` = D, a multiple of 4.

    reference: the grid of the finest map of this aspect ratio that the model knows.
    """
    # A table that is made while drawing may serve a training step later, which cannot use inference tensors.
    with torch.inference_mode(False), torch.no_grad():
        frequencies = BASE ** -(torch.arange(0, width // 2, 2, device=device) / (width // 2))
        if positions == "resampled":
            return torch.cat([_resampled(size, reference, frequencies) for size in schedule])
        return torch.cat([_table(*_places(size, reference, positions, device), frequencies) for size in schedule])


def _places(size: Size, reference: Size, positions: Positions, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows (h,) and columns (w,) at which the tokens of a map stand; halves are rounded to even ones."""
    rows, columns = (torch.arange(side, device=device) for side in size)
    if positions == "raw":
        return rows, columns
    return torch.round(rows * (reference[0] / size[0])), torch.round(columns * (reference[1] / size[1]))


def _table(rows: Tensor, columns: Tensor, frequencies: Tensor) -> Tensor:
    """(h w, D / 2, 2) of the tokens at all pairs of rows (h,) and columns (w,)."""
    down = (rows[:, None] * frequencies)[:, None].expand(-1, len(columns), -1)
    right = (columns[:, None] * frequencies)[None].expand(len(rows), -1, -1)
    angles = torch.cat([down, right], -1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()], -1)


def _resampled(size: Size, reference: Size, frequencies: Tensor) -> Tensor:
    """(h w, D / 2, 2), bilinear between the corners of a map whose longer edge has ``EDGE`` places."""
    h, w = (int(EDGE / max(reference) * side) for side in reference)
    rows, columns = (torch.arange(side, device=frequencies.device) for side in (h, w))
    fine = _table(rows, columns, frequencies).unflatten(0, (h, w)).flatten(2)
    return (
        F.interpolate(fine.permute(2, 0, 1)[None], size, mode="bilinear", align_corners=True)[0]
        .permute(1, 2, 0)
        .unflatten(2, (-1, 2))
        .flatten(0, 1)
    )
