"""How near generated images lie to training images, and which of them are near copies.

Distances are those of ``distances.py``, in its unit. Shape letters: ``N`` generated images, ``M`` held-out ones, ``D``
features.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nextscale.measures.distances import nearest

NEIGHBOURS = 4
"""Training images that are found for each image."""
COPY = 0.01
"""Share of the held-out images whose distance still counts as that of a near copy."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest training images of generated images.

    distances, rows: (N, NEIGHBOURS), the nearest first, rows of the training images; heldout: distances (M,) of
    held-out images to theirs.
    """

    distances: Tensor
    rows: Tensor
    heldout: Tensor

    @classmethod
    def of(cls, features: Tensor, heldout: Tensor, training: Tensor) -> Neighbours:
        """From the features (N, D), (M, D) and (all training images, D) of generated, held-out and training images."""
        distances, rows = nearest(features, training, min(NEIGHBOURS, len(training)))
        return cls(distances, rows, nearest(heldout, training)[0][:, 0])

    @property
    def threshold(self) -> float:
        """The first percentile of the held-out images' distances: nearer to a training image lie near copies."""
        return float(self.heldout.double().quantile(COPY))

    @property
    def copies(self) -> Tensor:
        """(N,) bool: generated images that are near copies of a training image."""
        return self.distances[:, 0] <= self.threshold
