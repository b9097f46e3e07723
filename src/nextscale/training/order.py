"""Which images and which randomness a step sees: functions of (seed, step) alone.

So a resumed run repeats nothing and skips nothing, and a batch may be split over processes in any way.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 8
"""Groups that are open at the same time and shuffled together."""
PURPOSES = ("weights", "order", "step", "codebook", "global", "shared")


def key(seed: int, purpose: str, step: int = 0) -> int:
    """A well mixed 63-bit number for one purpose at one step (or epoch)."""
    words = np.random.SeedSequence([seed, PURPOSES.index(purpose), step]).generate_state(2)
    return (int(words[0]) << 32 | int(words[1])) & (2**63 - 1)


def generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A fresh CPU generator for one purpose at one step."""
    return torch.Generator().manual_seed(key(seed, purpose, step))


class SampleNoise:
    """The noise of one step: numbers per sample, and numbers that all samples share.

    A sample's numbers belong to its place in the global batch: they are drawn for the whole batch of ``batch`` samples,
    in the order of the calls, and then cut to ``part``. However a batch is split over processes or accumulated, sample
    i of step s therefore meets the same numbers. The shared ones know the step alone, so every part meets the same.
    Neither kind moves the other on.
    """

    def __init__(self, seed: int, step: int, batch: int, part: slice) -> None:
        self.step, self.batch, self.part = step, batch, part
        self._generator = generator(seed, "step", step)
        self._shared = generator(seed, "shared", step)

    def __len__(self) -> int:
        return len(range(self.batch)[self.part])

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), (len(self), *shape) float32 on the CPU; every call draws new ones."""
        return torch.rand((self.batch, *shape), generator=self._generator)[self.part]

    def shared(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) of the step, (*shape) float32 on the CPU; every call draws new ones."""
        return torch.rand(shape, generator=self._shared)


def rows(images: int, batch: int, seed: int, step: int, groups: tuple[int, ...] = ()) -> Tensor:
    """Indices (batch,) of the training images of ``step``.

    The epochs are shuffled one by one and laid end to end; step s takes the places from s * batch on. Every image is
    seen once per epoch, also where the batch does not divide the set. groups: sizes of the parts (shards) the images
    lie in, of which a few are read at a time.
    """
    places = range(step * batch, (step + 1) * batch)
    return torch.tensor([_epoch(images, seed, place // images, groups)[place % images] for place in places])


@lru_cache(maxsize=4)
def _epoch(images: int, seed: int, epoch: int, groups: tuple[int, ...]) -> list[int]:
    draw = generator(seed, "order", epoch)
    if len(groups) <= AT_ONCE:
        return torch.randperm(images, generator=draw).tolist()
    parts, order = torch.arange(images).split(list(groups)), []
    for some in torch.randperm(len(groups), generator=draw).split(AT_ONCE):
        rows = torch.cat([parts[i] for i in some.tolist()])
        order.append(rows[torch.randperm(len(rows), generator=draw)])
    return torch.cat(order).tolist()
