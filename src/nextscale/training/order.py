"""Which images and which randomness a step sees: functions of (seed, step) alone.

So a resumed run repeats nothing and skips nothing.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

PURPOSES = ("weights", "order", "step", "codebook", "global")


def key(seed: int, purpose: str, step: int = 0) -> int:
    """A well mixed 63-bit number for one purpose at one step (or epoch)."""
    words = np.random.SeedSequence([seed, PURPOSES.index(purpose), step]).generate_state(2)
    return (int(words[0]) << 32 | int(words[1])) & (2**63 - 1)


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A fresh CPU generator for one purpose at one step."""
    return torch.Generator().manual_seed(key(seed, purpose, step))


def rows(images: int, batch: int, seed: int, step: int) -> Tensor:
    """Indices (batch,) of the training images of ``step``.

    The epochs are shuffled one by one and laid end to end; step s takes the places from s * batch on. Every image is
    seen once per epoch, also where the batch does not divide the set.
    """
    places = range(step * batch, (step + 1) * batch)
    return torch.tensor([_epoch(images, seed, place // images)[place % images] for place in places])


@lru_cache(maxsize=4)
def _epoch(images: int, seed: int, epoch: int) -> list[int]:
    return torch.randperm(images, generator=generator(seed, "order", epoch)).tolist()
