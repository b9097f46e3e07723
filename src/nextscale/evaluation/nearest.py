"""Generated images beside their nearest training images, and how near those are, as pictures: memorisation is shown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.evaluation.curves import distribution_curves
from nextscale.measures.nearest import Neighbours
from nextscale.pictures import factor_for, grid
from nextscale.results import to_pil

SHOWN, PER_ROW = 24, 2
"""Samples in the picture, and samples in a row."""


@dataclass(frozen=True)
class NearestPictures:
    """What the pictures are made of.

    images: the generated ones, uint8 (N, 3, H, W); asked: what each was asked for; near: their neighbours, rows of
    ``train``.
    """

    images: Tensor
    asked: tuple[str, ...]
    near: Neighbours
    train: ImageData

    def shown(self) -> Tensor:
        """Rows of the images in :meth:`picture`: evenly spread over all, none picked."""
        count = min(SHOWN, len(self.images))
        return torch.arange(count) * len(self.images) // count

    def picture(self) -> Image.Image:
        """Each sample, over what was asked for, and right of it its nearest training images, over their distances."""
        tiles, labels, near = list[Image.Image](), list[str](), self.near
        for row in self.shown().tolist():
            beside = self.train.read(near.rows[row])
            tiles += to_pil(torch.cat([self.images[row, None], beside]) / 255)
            first, *others = (f"{distance:.2f}" for distance in near.distances[row].tolist())
            labels += [self.asked[row], f"{first} near copy" if near.copies[row] else first, *others]
        return grid(tiles, PER_ROW * (1 + near.rows.shape[1]), factor_for(tiles[0], 128), labels)

    def curve(self) -> Image.Image:
        """The share of generated and of held-out images whose nearest training image is at most so far."""
        near = self.near
        titles = (f"generated ({len(self.images)})", f"held-out ({len(near.heldout)})")
        caption = "distance to the nearest training image, in usual distances of two held-out images"
        values = near.distances[:, 0].numpy(), near.heldout.numpy()
        return distribution_curves(titles, values, near.threshold, caption)
