"""One picture: from the bytes of a file to pixels of the right size.

Prepared as VAR (arXiv 2404.02905) prepares ImageNet: the shorter side is resized to 1.125 times the resolution
(Lanczos), then a square is cropped, at random places while training and in the centre elsewhere.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
RESIZE = 1.125
DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(struct.error, Image.DecompressionBombError),
)
"""What Pillow raises for bytes that are not what they should be."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF's orientations other than upright."""


def decode(content: bytes) -> Image.Image | None:
    """The picture as it is to be seen (turned as its metadata say, on white), or None if the bytes are damaged."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            picture = _upright(opened)
            if picture.mode == "F":
                return None  # a float image says nowhere what is white
            if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
                picture = Image.fromarray((np.asarray(picture) / 256).clip(0, 255).astype(np.uint8))
            if picture.mode not in ("RGB", "L") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture)
            return picture.convert("RGB")
    except DAMAGE:
        return None


def _upright(picture: Image.Image) -> Image.Image:
    """``picture`` turned as its metadata say; as it is where they are damaged, which its pixels need not be."""
    try:
        turn = TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except DAMAGE:
        return picture
    return picture if turn is None else picture.transpose(turn)


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
