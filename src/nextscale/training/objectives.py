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

Metrics = dict[str, float]


class Objective(Protocol):
    """Everything the trainer asks. Modules are passed in, because the average of the weights is validated, too."""

    images: int
    """Size of the training set."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""

    def begin(self, generator: torch.Generator) -> None:
        """Called once, before step 0 of a fresh run (not when resuming)."""

    def loss(self, model: nn.Module, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss () of the training images ``rows`` and further numbers to log."""

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        """Called after every update; may mend the weights."""

    def validate(self, module: nn.Module) -> Metrics:
        """Numbers on the held-out images."""

    def sample(self, module: nn.Module) -> Image.Image | None:
        """A picture that shows what ``module`` can do, at fixed seeds; None if it cannot be drawn yet."""

    def state(self) -> dict[str, Tensor]:
        """Tensors beside the weights that a resumed run needs."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""

    def export(self, module: nn.Module, folder: Path) -> None:
        """Write ``module`` so that the library can load it."""


def to_signed(images: Tensor, device: torch.device) -> Tensor:
    """uint8 (B, 3, H, W) to float32 in [-1, 1], channels last."""
    return images.to(device).to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)


def mirror(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Mirror each image with probability ``share``."""
    turned = torch.rand(len(images), generator=generator) < share
    return torch.where(turned.to(images.device)[:, None, None, None], images.flip(-1), images)


def shift(images: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``pixels`` in both directions; what comes in is white."""
    if not pixels:
        return images
    height, width = images.shape[-2:]
    padded = F.pad(images, (pixels,) * 4, value=1.0)
    corners = torch.randint(2 * pixels + 1, (len(images), 2), generator=generator).tolist()
    moved = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)]
    return torch.stack(moved).contiguous(memory_format=torch.channels_last)


def recolour(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Exchange red, green and blue at random in each image with probability ``share``; greys stay as they are."""
    if not share:
        return images
    kept = torch.arange(3).expand(len(images), 3)
    orders = torch.rand((len(images), 3), generator=generator).argsort(1)
    chosen = torch.where(torch.rand((len(images), 1), generator=generator) < share, orders, kept).to(images.device)
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
