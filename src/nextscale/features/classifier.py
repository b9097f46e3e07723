"""The library's first feature network: a small residual convolutional network that names a picture's class and style.

It is made for 64x64 drawings and works at any size, since its features are means over all places. Evaluation measures
with it; no loss uses it.

Shape letters: ``B`` batch, ``C`` channels, ``h w`` places, ``D`` features, ``Nc`` classes, ``Ns`` styles. Images are
(B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.errors import InputError, quoted
from nextscale.settings import check_bounds


class Prediction(NamedTuple):
    """Logits of classes (B, Nc) and styles (B, Ns)."""

    classes: Tensor
    styles: Tensor


@dataclass(frozen=True)
class ClassifierConfig:
    """names: of the classes; styles: their names, empty where a data set has none; widths: channels after the first
    convolution and after each stage, every one of which halves the picture; groups: of every norm.
    """

    names: tuple[str, ...]
    styles: tuple[str, ...] = ()
    widths: tuple[int, ...] = (24, 32, 64, 128)
    groups: int = 8

    def __post_init__(self) -> None:
        check_bounds(self, groups=(1, 65_536))
        check_widths(self.widths)
        odd = [width for width in self.widths if width < 1 or width % self.groups]
        if not self.widths or odd:
            seen = ", ".join(map(str, self.widths)) or "none"
            raise InputError(f"the widths are {seen}; expected multiples of {self.groups}, one or more")


class Classifier(nn.Module):
    """See the module's docstring. Group normalisation, so that an image's features do not depend on its batch."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        first, widths = config.widths[0], config.widths
        self.stem = nn.Conv2d(3, first, 3, stride=2, padding=1)
        self.stages = nn.ModuleList(Stage(before, after, config.groups) for before, after in pairwise(widths))
        self.norm = nn.GroupNorm(config.groups, widths[-1])
        self.head = nn.Linear(widths[-1], len(config.names) + len(config.styles))

    def forward(self, images: Tensor) -> Prediction:
        """Logits of class and style. Raises ``InputError`` for what is no batch of images, or too small a one."""
        return self.named(self.features(images))

    def named(self, features: Tensor) -> Prediction:
        """Logits of class and style from :meth:`features` (B, D)."""
        return Prediction(*self.head(features).split([len(self.config.names), len(self.config.styles)], 1))

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D), float32: what the last stage sees, averaged over all places."""
        check_images(images, self.stride)
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return F.silu(self.norm(x)).float().mean((2, 3))

    @property
    def stride(self) -> int:
        """Pixels per place of the last stage."""
        return 2 ** len(self.config.widths)

    def flops(self, resolution: int) -> int:
        """Multiplications and additions of the forward pass of one square image, norms and activations left out."""
        side = halved(resolution)
        widths = self.config.widths
        total = convolution_flops(3, widths[0], side)
        for before, after in pairwise(widths):
            side = halved(side)
            total += convolution_flops(before, after, side) + 2 * convolution_flops(after, after, side)
        return total + 2 * self.head.in_features * self.head.out_features


class Stage(nn.Module):
    """Halve the picture by a strided convolution, then one residual block of two convolutions."""

    def __init__(self, before: int, after: int, groups: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.norm1, self.conv1 = nn.GroupNorm(groups, after), nn.Conv2d(after, after, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, after), nn.Conv2d(after, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C', h / 2, w / 2)."""
        x = self.down(F.silu(x))
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


def check_widths(widths: tuple[int, ...]) -> None:
    """Refuse more stages, which each halve the picture, or wider ones than any network has. Raises ``InputError``."""
    if len(widths) > 16 or max(widths, default=0) > 65_536:
        raise InputError(f"the widths are {quoted(widths)}; expected at most 16 numbers, and each at most 65,536")


def check_images(images: Tensor, stride: int) -> None:
    """Refuse what is no batch of colour images of at least 2 x 2 places. Raises ``InputError``."""
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2 * stride:
        raise InputError(
            f"images have the shape {tuple(images.shape)}; expected (B, 3, H, W) with sides of at least {2 * stride}"
        )


def halved(side: int) -> int:
    """Side of a picture after a strided convolution with padding."""
    return (side + 1) // 2


def convolution_flops(before: int, after: int, side: int) -> int:
    """Multiplications and additions of a 3x3 convolution with ``side`` x ``side`` places of output."""
    return 2 * 9 * before * after * side * side
