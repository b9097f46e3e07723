"""One picture: from the bytes of a file to pixels of the right size.

Prepared as VAR (arXiv 2404.02905) prepares ImageNet: the shorter side is resized to 1.125 times the resolution
(Lanczos), then a square is cropped, at random places while training and in the centre elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale import decoding

RESIZE = 1.125


def decode(content: bytes) -> Image.Image | None:
    """The picture as it is to be seen (turned as its metadata say, on white), or None if the bytes are damaged."""
    try:
        return decoding.decode(content).picture
    except decoding.DAMAGE:
        return None


def resize(picture: Image.Image, resolution: int) -> Tensor:
    """uint8 (3, h, w), the shorter side 1.125 times the resolution; no side of ``picture`` is below the resolution."""
    scale = max(round(RESIZE * resolution), resolution) / min(picture.size)
    width, height = (max(resolution, round(side * scale)) for side in picture.size)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def crop(pictures: Sequence[Tensor], resolution: int, places: Tensor | None = None) -> Tensor:
    """Squares (B, 3, resolution, resolution) out of ``pictures``, each uint8 (3, h, w).

    places: (B, 2) in [0, 1), how far down and to the right of all that is possible; None takes the centre.
    """
    squares = torch.empty((len(pictures), 3, resolution, resolution), dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        down, right = (side - resolution for side in picture.shape[1:])
        top, left = down // 2, right // 2
        if places is not None:
            y, x = places[i].tolist()
            top, left = int(y * (down + 1)), int(x * (right + 1))
        squares[i] = picture[:, top : top + resolution, left : left + resolution]
    return squares
