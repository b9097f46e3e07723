"""Perceptual features: a small plain stack of convolutions, trained like the classifier, whose layers compare images.

Another architecture than the classifier's (no skips, no norms, max pooling), because that one measures what a loss made
of this one improves. The distance is that of LPIPS (arXiv 1801.03924) without its learnt weights.

Shape letters: ``B`` batch, ``C`` channels, ``h w`` places. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.errors import InputError
from nextscale.features.classifier import Prediction, check_images, check_widths, convolution_flops

EPSILON = 1e-6
"""Added to squared lengths: bounds the gradient where all channels are nearly silent."""


@dataclass(frozen=True)
class PerceptualConfig:
    """names: of the classes; styles: their names; widths: channels of the stages between two poolings, the first of one
    convolution, the others of two.
    """

    names: tuple[str, ...]
    styles: tuple[str, ...] = ()
    widths: tuple[int, ...] = (12, 24, 48, 96)

    def __post_init__(self) -> None:
        check_widths(self.widths)
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"the widths are {self.widths}; expected one or more numbers of channels")

    @property
    def channels(self) -> tuple[tuple[int, ...], ...]:
        """Channels of every convolution, stage by stage."""
        return (self.widths[:1], *((width, width) for width in self.widths[1:]))


class Perceptual(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: PerceptualConfig) -> None:
        super().__init__()
        self.config = config
        channels = [3, *(width for stage in config.channels for width in stage)]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.head = nn.Linear(channels[-1], len(config.names) + len(config.styles))
        for name, parameter in self.convolutions.named_parameters():
            if name.endswith("weight"):  # PyTorch's own values, smaller ones, would silence deep layers
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)

    def layers(self, images: Tensor) -> list[Tensor]:
        """The last layer (B, C, h, w) of every stage, before it is pooled. Raises ``InputError`` for no images."""
        check_images(images, 2 ** (len(self.config.widths) - 1))
        return stages(self.convolutions, self.config.channels, images)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """How different the images of two batches look, (B,): see ``layer_distance``; the sum over layers."""
        pairs = zip(self.layers(a), self.layers(b), strict=True)
        return torch.stack([layer_distance(x, y) for x, y in pairs]).sum(0)

    def forward(self, images: Tensor) -> Prediction:
        """Logits of class and style, which the network is trained with."""
        features = self.layers(images)[-1].float().mean((2, 3))
        return Prediction(*self.head(features).split([len(self.config.names), len(self.config.styles)], 1))

    def flops(self, resolution: int) -> int:
        """Multiplications and additions of the forward pass of one square image, activations left out."""
        total, before, side = 2 * self.head.in_features * self.head.out_features, 3, resolution
        for stage in self.config.channels:
            for after in stage:
                total, before = total + convolution_flops(before, after, side), after
            side //= 2
        return total


def stages(convolutions: Iterable[nn.Module], channels: Iterable[tuple[int, ...]], x: Tensor) -> list[Tensor]:
    """Put ``x`` (B, C, H, W) through convolutions, each rectified, with a max pooling between two stages of
    ``channels``; the last layer (B, c, h, w) of every stage.
    """
    rest, found = iter(convolutions), list[Tensor]()
    for stage in channels:
        x = F.max_pool2d(x, 2) if found else x
        for _ in stage:
            x = F.relu(next(rest)(x))
        found.append(x)
    return found


def layer_distance(a: Tensor, b: Tensor, weights: Tensor | None = None) -> Tensor:
    """Distance (B,) of two layers (B, C, h, w): channels scaled to unit length at every place, squared differences
    summed over channels (with ``weights`` (C,) if given), the mean over places.
    """
    squares = (unit(a.float()) - unit(b.float())).square()
    if weights is not None:
        squares = squares * weights[:, None, None]
    return squares.sum(1).mean((1, 2))


def unit(x: Tensor) -> Tensor:
    """``x`` (B, C, h, w) with channels of unit length at every place."""
    return x * (x.square().sum(1, keepdim=True) + EPSILON).rsqrt()
