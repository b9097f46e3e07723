"""One picture: from the bytes of a file to pixels of the right size.

Squares are prepared as VAR (arXiv 2404.02905) prepares ImageNet: the shorter side is resized to 1.125 times the
resolution (Lanczos), then a square is cropped, at random places while training and in the centre elsewhere. Where
images keep their aspect ratios, each is resized to just cover the shape that is nearest to its own, as Infinity (arXiv
2412.04431) prepares its images, and cropped likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale import decoding
from nextscale.errors import InputError, quoted
from nextscale.scales import Size

RESIZE = 1.125


@dataclass(frozen=True)
class Shapes:
    """The sizes (height, width) in pixels that images are prepared in, each in the one whose height / width is nearest
    to its own.

    margin: how much larger than to cover its shape an image is made before it is cropped.
    """

    sizes: tuple[Size, ...]
    margin: float = 1.0

    def __post_init__(self) -> None:
        right = [size for size in self.sizes if len(size) == 2 and all(type(n) is int and n > 0 for n in size)]
        if not right or len(right) < len(self.sizes):
            raise InputError(
                f"shapes are {quoted(self.sizes)}; expected one or more (height, width) in whole pixels, such as "
                "[(256, 256), (192, 320)]"
            )

    @classmethod
    def of(cls, resolution: int | None, sizes: Sequence[Size] | None = None) -> Shapes:
        """Squares of one resolution, or else ``sizes``.

        Raises:
            InputError: neither is given, or both, or sizes that cannot be.
        """
        if (resolution is None) == (sizes is None):
            raise InputError(
                f"resolution is {quoted(resolution)} and shapes are {quoted(sizes)}; expected one of the two"
            )
        if resolution is not None:
            return cls(((resolution, resolution),), RESIZE)
        return cls(tuple((*size,) for size in sizes or ()))

    @property
    def resolution(self) -> int | None:
        """Height and width of squares; None where images keep their aspect ratios."""
        return self.sizes[0][0] if self.margin == RESIZE else None

    def place(self, width: int, height: int) -> int:
        """Which of ``sizes`` a picture belongs to; of two that are as near the first."""
        return min(range(len(self.sizes)), key=lambda i: abs(height / width - self.sizes[i][0] / self.sizes[i][1]))

    def fit(self, width: int, height: int) -> bool:
        """Whether a picture is as large as its shape, so that it need not be made larger."""
        h, w = self.sizes[self.place(width, height)]
        return width >= w and height >= h


def decode(content: bytes) -> Image.Image | None:
    """The picture as it is to be seen (turned as its metadata say, on white), or None if the bytes are damaged."""
    try:
        return decoding.decode(content).picture
    except decoding.DAMAGE:
        return None


def resize(picture: Image.Image, shapes: Shapes) -> Tensor:
    """uint8 (3, h, w): a picture that fits its shape, made ``shapes.margin`` times as large as to cover it."""
    h, w = shapes.sizes[shapes.place(*picture.size)]
    scale = max(round(shapes.margin * w) / picture.width, round(shapes.margin * h) / picture.height)
    width, height = max(w, round(picture.width * scale)), max(h, round(picture.height * scale))
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def crop(pictures: Sequence[Tensor], size: Size, places: Tensor | None = None) -> Tensor:
    """Parts (B, 3, *size) of ``pictures``, each uint8 (3, h, w). size: height and width.

    places: (B, 2) in [0, 1), how far down and to the right of all that is possible; None takes the centre.
    """
    parts = torch.empty((len(pictures), 3, *size), dtype=torch.uint8)
    for i, picture in enumerate(pictures):
        down, right = picture.shape[1] - size[0], picture.shape[2] - size[1]
        top, left = down // 2, right // 2
        if places is not None:
            y, x = places[i].tolist()
            top, left = int(y * (down + 1)), int(x * (right + 1))
        parts[i] = picture[:, top : top + size[0], left : left + size[1]]
    return parts
