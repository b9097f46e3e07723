"""What the trainer asks of anything it trains, and what objectives share.

Shape letters: ``B`` batch. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nextscale.training.order import SampleNoise

Metrics = dict[str, float]


class Objective(Protocol):
    """Everything the trainer asks. Modules are passed in, because the average of the weights is validated, too."""

    images: int
    """Size of the training set."""
    ignorance: Metrics
    """What a network that has learnt nothing has of some numbers of the loss, such as ln V of a cross-entropy over V
    codes. A run that stays at twice that has diverged (see ``DivergenceWatch``)."""
    stages: list[int]
    """First steps of the parts of a run that cost differently, ascending, 0 first: a loss may begin later."""
    warnings: list[str]
    """Sentences for whoever trains, since they were last cleared; the trainer shows and clears them."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""

    def begin(self, generator: torch.Generator) -> None:
        """Called once, before step 0 of a fresh run (not when resuming)."""

    def loss(self, model: nn.Module, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss () of the training images ``rows`` (B,) and further means to log, each ().

        ``model`` is :attr:`module` as it is to be called (it may be compiled). A step calls this once per part of its
        batch: in every process, and as often as gradients are accumulated. All parts have the same size. What must be
        random comes from ``noise``, which has one row per image of ``rows``.
        """

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        """Called after every update, in every process; may mend the weights, in the same way in all of them."""

    def validate(self, module: nn.Module) -> Metrics:
        """Numbers on the held-out images."""

    def merit(self, held_out: Metrics) -> float:
        """How good a validation is, higher is better: with ``run.export = best`` the best one is exported."""

    def sample(self, module: nn.Module) -> Image.Image | None:
        """A picture that shows what ``module`` can do, at fixed seeds; None if it cannot be drawn yet."""

    def state(self) -> dict[str, Tensor]:
        """Tensors beside the weights that a resumed run needs."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave, and forget a step that was begun (``loss``) but not ended (``after_step``)."""

    def export(self, module: nn.Module, folder: Path, card: str) -> None:
        """Write ``module`` so that the library can load it, with ``card`` as its README.md."""


def to_signed(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) to float32 in [-1, 1], channels last."""
    return images.to(device).to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def mirror(images: Tensor, share: float, noise: SampleNoise) -> Tensor:
    """Mirror each image with probability ``share``."""
    turned = (noise.uniform() < share).to(images.device)
    return torch.where(turned[:, None, None, None], images.flip(-1), images)


def shift(images: Tensor, pixels: int, noise: SampleNoise) -> Tensor:
    """Move each image by up to ``pixels`` in both directions; what comes in is white."""
    if not pixels:
        return images
    height, width = images.shape[-2:]
    padded = F.pad(images, (pixels,) * 4, value=1.0)
    corners = (noise.uniform(2) * (2 * pixels + 1)).long().tolist()
    moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)]
    return torch.stack(moved).contiguous(memory_format=torch.channels_last)


def recolour(images: Tensor, share: float, noise: SampleNoise) -> Tensor:
    """Exchange red, green and blue at random in each image with probability ``share``; greys stay as they are."""
    if not share:
        return images
    kept, orders = torch.arange(3).expand(len(images), 3), noise.uniform(3).argsort(1)
    chosen = torch.where(noise.uniform(1) < share, orders, kept).to(images.device)
    return images[torch.arange(len(images), device=images.device)[:, None], chosen].contiguous(
        memory_format=torch.channels_last
    )


def picture(rows: list[Tensor]) -> Image.Image:
    """Rows of images (B, 3, H, W) in [-1, 1] as one picture; short rows are filled with white."""
    width = max(len(row) for row in rows)
    blank = [F.pad(row, (0, 0, 0, 0, 0, 0, 0, width - len(row)), value=1.0) for row in rows]
    grid = torch.cat([torch.cat(list(row), dim=2) for row in blank], dim=1)
    pixels = ((grid.clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
