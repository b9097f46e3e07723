"""Generated images beside their nearest training images, and how near those are: memorisation is shown.

Distances are those of ``distances.py``, in its unit. Shape letters: ``N`` generated images, ``M`` held-out ones, ``D``
features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.evaluation.curves import distribution_curves
from nextscale.evaluation.distances import nearest
from nextscale.pictures import factor_for, grid
from nextscale.results import to_pil

SHOWN, NEIGHBOURS, PER_ROW = 24, 4, 2
"""Samples in the picture, training images beside each, and samples in a row."""
COPY = 0.01
"""Share of the held-out images whose distance still counts as that of a near copy."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest training images of generated images.

    images: the generated ones, uint8 (N, 3, H, W); asked: what each was asked for; distances, rows: (N, NEIGHBOURS),
    the nearest first, rows of ``train``; heldout: distances (M,) of held-out images to theirs.
    """

    images: Tensor
    asked: tuple[str, ...]
    distances: Tensor
    rows: Tensor
    heldout: Tensor
    train: ImageData

    @classmethod
    def of(
        cls,
        images: Tensor,
        asked: Sequence[str],
        features: Tensor,
        heldout: Tensor,
        training: Tensor,
        train: ImageData,
    ) -> Neighbours:
        """From the features (N, D), (M, D) and (all of train, D) of generated, held-out and training images."""
        distances, rows = nearest(features, training, min(NEIGHBOURS, len(train)))
        return cls(images, tuple(asked), distances, rows, nearest(heldout, training)[0][:, 0], train)

    @property
    def threshold(self) -> float:
        """The first percentile of the held-out images' distances: nearer to a training image lie near copies."""
        return float(self.heldout.double().quantile(COPY))

    @property
    def copies(self) -> Tensor:
        """(N,) bool: generated images that are near copies of a training image."""
        return self.distances[:, 0] <= self.threshold

    def shown(self) -> Tensor:
        """Rows of the images in :meth:`picture`: evenly spread over all, none picked."""
        count = min(SHOWN, len(self.images))
        return torch.arange(count) * len(self.images) // count

    def picture(self) -> Image.Image:
        """Each sample, over what was asked for, and right of it its nearest training images, over their distances."""
        tiles, labels = list[Image.Image](), list[str]()
        for row in self.shown().tolist():
            near = self.train.read(self.rows[row])
            tiles += to_pil(torch.cat([self.images[row, None], near]) / 255)
            first, *others = (f"{distance:.2f}" for distance in self.distances[row].tolist())
            labels += [self.asked[row], f"{first} near copy" if self.copies[row] else first, *others]
        return grid(tiles, PER_ROW * (1 + self.rows.shape[1]), factor_for(tiles[0], 128), labels)

    def curve(self) -> Image.Image:
        """The share of generated and of held-out images whose nearest training image is at most so far."""
        titles = (f"generated ({len(self.images)})", f"held-out ({len(self.heldout)})")
        caption = "distance to the nearest training image, in usual distances of two held-out images"
        return distribution_curves(
            titles, (self.distances[:, 0].numpy(), self.heldout.numpy()), self.threshold, caption
        )
