"""Which images and which randomness a step sees: functions of (seed, step) alone.

So a resumed run repeats nothing and skips nothing, and a batch may be split over processes in any way.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 8
"""Groups that are open at the same time and shuffled together."""
PURPOSES = ("weights", "order", "step", "codebook", "global", "shared", "buckets")


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
    Neither kind moves the other on. ``done``: the share of the run that is over, 0 at its first step.
    """

    def __init__(self, seed: int, step: int, batch: int, part: slice, done: float = 0.0) -> None:
        self.step, self.batch, self.part, self.done = step, batch, part, done
        self._generator = generator(seed, "step", step)
        self._shared = generator(seed, "shared", step)

    def __len__(self) -> int:
        return len(range(self.batch)[self.part])

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in [0, 1), (len(self), *shape) float32 on the CPU; every call draws new ones."""
        return torch.rand((self.batch, *shape), generator=self._generator)[self.part]

    def many(self, *shape: int) -> Tensor:
        """As :meth:`uniform`, for shapes so large that the numbers of other parts are better not drawn."""
        keys = torch.randint(2**62, (self.batch,), generator=self._generator)[self.part]
        return torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(key)) for key in keys.tolist()])

    def shared(self, *shape: int) -> Tensor:
        """Numbers in [0, 1) of the step, (*shape) float32 on the CPU; every call draws new ones."""
        return torch.rand(shape, generator=self._shared)


def _shuffled(images: int, draw: torch.Generator, groups: Sequence[int]) -> Tensor:
    if len(groups) <= AT_ONCE:
        return torch.randperm(images, generator=draw)
    parts, order = torch.arange(images).split(list(groups)), []
    for some in torch.randperm(len(groups), generator=draw).split(AT_ONCE):
        rows = torch.cat([parts[i] for i in some.tolist()])
        order.append(rows[torch.randperm(len(rows), generator=draw)])
    return torch.cat(order)


class Buckets:
    """Batches whose images are of one bucket (a shape, say) each.

    Every bucket has an endless sequence of its own: its epochs, shuffled one by one and laid end to end, are cut into
    batches. Epoch e of the set takes, of every bucket of n images, as many batches as are full by n (e + 1) images and
    were not taken before, and shuffles the batches of all buckets. So no image is dropped and none is drawn more often
    than others of its bucket: of the images that fill no batch by the end of an epoch, at most ``batch - 1`` of each
    bucket, the next epoch's first batch of the bucket is made, together with images of that epoch. A bucket of fewer
    images than a batch has a batch in some epochs only, with images that repeat. After e epochs every image was seen at
    most e times, and at least e - 1 times where its bucket fills a batch.

    labels: (N,) int64, the bucket of each image, from 0 on; some buckets may be empty. groups: sizes of the parts
    (shards) the images lie in, of which a few are read at a time; a bucket goes through them in an order of its own.
    times: (N,) int64, how often an epoch draws each image, as if it stood in the set so often; None: once.
    """

    def __init__(self, labels: Tensor, groups: Sequence[int] = (), times: Tensor | None = None) -> None:
        images = torch.arange(len(labels))
        if times is not None:
            images, labels = images.repeat_interleave(times), labels.repeat_interleave(times)
            groups = [int(part.sum()) for part in times.split(list(groups))] if groups else ()
        self.members = [images[labels == bucket] for bucket in range(int(labels.max()) + 1)]
        self._groups: list[list[int]] = [[] for _ in self.members]
        for group in labels.split(list(groups)) if groups else ():
            for sizes, size in zip(self._groups, group.bincount(minlength=len(self.members)).tolist(), strict=True):
                sizes.extend([size] if size else [])
        self._sequence = lru_cache(2 * len(self.members))(self._new_sequence)
        self._plan = lru_cache(2)(self._new_plan)

    def rows(self, batch: int, seed: int, step: int) -> Tensor:
        """Indices (batch,) of the training images of ``step``, all of one bucket: a function of its arguments."""
        images, buckets = sum(map(len, self.members)), len(self.members)
        # The last epoch that begins at ``step`` or before: the rounding in ``_begin`` is below one step a bucket.
        latest = (step + 1 + buckets) * batch // images + 1
        epoch = bisect_right(range(latest + 1), step, key=lambda epoch: self._begin(batch, epoch)) - 1
        bucket, number = self._plan(batch, seed, epoch)[step - self._begin(batch, epoch)]
        size, found = len(self.members[bucket]), []
        for place in range(number * batch, (number + 1) * batch):
            found.append(self._sequence(seed, bucket, place // size)[place % size])
        return torch.stack(found)

    def _begin(self, batch: int, epoch: int) -> int:
        """The first step of an epoch."""
        return sum(len(rows) * epoch // batch for rows in self.members)

    def _new_plan(self, batch: int, seed: int, epoch: int) -> list[tuple[int, int]]:
        """The bucket of every step of an epoch, and which batch of the bucket's sequence it takes."""
        taken = [range(len(rows) * epoch // batch, len(rows) * (epoch + 1) // batch) for rows in self.members]
        order = torch.tensor([bucket for bucket, numbers in enumerate(taken) for _ in numbers])
        order = order[torch.randperm(len(order), generator=generator(seed, "buckets", epoch))]
        following = [iter(numbers) for numbers in taken]
        return [(bucket, next(following[bucket])) for bucket in order.tolist()]

    def _new_sequence(self, seed: int, bucket: int, epoch: int) -> Tensor:
        """The images of a bucket in the order of one of its epochs."""
        members = self.members[bucket]
        draw = generator(seed, "order", epoch * len(self.members) + bucket)
        return members[_shuffled(len(members), draw, self._groups[bucket])]
