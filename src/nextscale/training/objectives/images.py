"""What is done to training images, and the picture that shows some. Images are (B, 3, H, W) in [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nextscale.training.order import SampleNoise


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
