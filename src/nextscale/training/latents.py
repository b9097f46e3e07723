"""Latents of a data set, made once by a frozen tokenizer and kept in files (see ``copies.py``), as float16.

Training that quantises anew at every step, with some bits turned over, needs them: tokens alone do not say what a scale
has left over. Copies are as in ``tokens.py``; there is a file for each shape of images in each size that is trained on.

Shape letters: ``B`` images of one batch, ``c`` channels, ``H W`` latent grid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.scales import ScaleSchedule, Size
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.copies import CopyFile, Job, Progress, fill
from nextscale.training.tokens import FORMAT_VERSION, PLAIN, Augmentation

PIXELS = 16 * 256**2
"""How many pixels are encoded at once, at most."""


def resized(images: Tensor, size: Size) -> Tensor:
    """Images (B, 3, ., .) in [-1, 1] in a size (height, width) that is no larger."""
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(-1, 1)


@torch.no_grad()
def latents_of(tokenizer: Tokenizer, images: Tensor, schedule: ScaleSchedule) -> Tensor:
    """Latents (B, c, H, W) of images (B, 3, ., .) in [-1, 1] for the scales of ``schedule``, in float32 whatever the
    precision of training.
    """
    with torch.autocast(images.device.type, enabled=False):
        return tokenizer.latent(resized(images, tokenizer.pixels(schedule)))


class Latents:
    """Copies of a data set as latents: ``files[copy, schedule]`` has a row (c H W) for each image of its shape."""

    groups: tuple[int, ...] = ()

    def __init__(self, files: dict[tuple[int, ScaleSchedule], np.ndarray[Any, Any]], data: ImageData) -> None:
        self._files, self.count, self.waited = files, 1 + max((copy for copy, _ in files), default=0), 0.0
        self.shape_labels, self.times = data.shape_labels, data.times
        self._places = torch.empty_like(data.shape_labels)
        for shape in data.shape_labels.unique():
            rows = (data.shape_labels == shape).nonzero()[:, 0]
            self._places[rows] = torch.arange(len(rows))

    def prefetch(self, rows: Tensor) -> None:
        """Nothing to do: the system keeps what was read in memory."""

    def read(self, copies: Tensor, rows: Tensor, schedule: ScaleSchedule, shape: Sequence[int]) -> Tensor:
        """Latents (B, *shape) float32 of the images ``rows`` (B,), all of the shape that ``schedule`` ends in, each
        from the copy named in ``copies`` (B,).
        """
        start = time.perf_counter()
        places = zip(copies.tolist(), self._places[rows].tolist(), strict=True)
        found = [self._files[copy, schedule][place] for copy, place in places]
        latents = torch.from_numpy(np.stack(found)).float().unflatten(1, tuple(shape))
        self.waited += time.perf_counter() - start
        return latents


def cached_latents(
    folder: Path,
    tokenizer: Tokenizer,
    revision: str,
    data: ImageData,
    schedules: Sequence[Sequence[ScaleSchedule]],
    copies: int = 1,
    augmentation: Augmentation = PLAIN,
    progress: Progress | None = None,
) -> tuple[Latents, list[str]]:
    """The latents of ``copies`` copies of ``data``, as :func:`~nextscale.training.tokens.cached_tokens` has tokens.

    schedules: for every shape of the data those that its images are trained on, the coarsest first.
    """
    device, jobs = next(tokenizer.parameters()).device, dict[tuple[int, ScaleSchedule], Job]()

    def make(copy: int, schedule: ScaleSchedule, number: int, rows: Tensor) -> Tensor:
        return latents_of(tokenizer, augmentation.copied(data, copy, number, rows, device), schedule).flatten(1)

    for shape, ones in enumerate(schedules):
        rows = (data.shape_labels == shape).nonzero()[:, 0]
        for schedule in ones if len(rows) else ():
            width = tokenizer.start(1, schedule).latent.numel()
            kind = {"images": len(rows), "shape": shape, "pixels": tokenizer.pixels(schedule), "numbers": width}
            batch = max(1, PIXELS // math.prod(tokenizer.pixels(ones[-1])))
            for copy in range(copies):
                key = {"format": FORMAT_VERSION, "tokenizer": revision, "data": data.hash, "batch": batch, **kind}
                key |= augmentation.of_copy(copy)
                file = CopyFile(folder, key, "latents", (len(rows), width), "<f2")
                jobs[copy, schedule] = Job(file, rows, partial(make, copy, schedule), batch)
    damaged = fill(list(jobs.values()), data, folder, progress)
    return Latents({which: job.file.open() for which, job in jobs.items()}, data), damaged
