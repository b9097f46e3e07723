"""Tokens of a data set, encoded once by a frozen tokenizer and kept in files (see ``copies.py``).

For augmentation several copies of the set are kept: copy 0 shows the images as they are, every further one mirrored,
moved, recoloured or cropped in another way.

Shape letters: ``N`` images of the set, ``B`` of one batch, ``L`` tokens of all scales of an image, ``d`` draws of a
token (1 where it is the index of a code), ``h w`` one token map.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.copies import CopyFile, Job, Progress, fill
from nextscale.training.objectives.images import recolour, shift, to_signed
from nextscale.training.order import SampleNoise

FORMAT_VERSION = 1
BATCH = 64


@dataclass(frozen=True)
class Augmentation:
    """How copies differ from the images. flip: share of mirrored ones; unmirrored: names of classes that never are;
    shift: largest displacement in pixels; recolour: share of images whose colour channels are exchanged.
    """

    flip: float = 0.0
    unmirrored: tuple[str, ...] = ()
    shift: int = 0
    recolour: float = 0.0

    def mirrored(self, copy: int) -> bool:
        """Whether a copy shows the images mirrored: a share ``flip`` of all copies does, evenly spread."""
        return math.floor((copy + 1) * self.flip) > math.floor(copy * self.flip)

    def images(self, data: ImageData, rows: Tensor, turned: Tensor, noise: SampleNoise, device: torch.device) -> Tensor:
        """Random variants (B, 3, H, W) in [-1, 1] of the images ``rows`` (B,); turned: (B,) bool, those to mirror."""
        images = to_signed(data.read(rows, noise.uniform(2)), device)
        fixed = [i for i, name in enumerate(data.classes) if name in self.unmirrored]
        turned = turned & ~torch.isin(data.labels[rows], torch.tensor(fixed, dtype=torch.int64))
        images = torch.where(turned.to(device)[:, None, None, None], images.flip(-1), images)
        return recolour(shift(images, self.shift, noise), self.recolour, noise)

    def of_copy(self, copy: int) -> dict[str, Any]:
        """What tells a copy from the images as they are."""
        return {} if copy == 0 else asdict(self) | {"copy": copy, "mirrored": self.mirrored(copy)}

    def copied(self, data: ImageData, copy: int, number: int, rows: Tensor, device: torch.device) -> Tensor:
        """The images ``rows`` (B,) in a copy, as the batch ``number`` of it: functions of these alone, so that every
        run and any number of processes gets the same copies.
        """
        if copy == 0:
            return to_signed(data.read(rows), device)
        noise = SampleNoise(FORMAT_VERSION, copy * len(data) + number, len(rows), slice(None))
        return self.images(data, rows, torch.full((len(rows),), self.mirrored(copy)), noise, device)


PLAIN = Augmentation()


@torch.no_grad()
def encode(tokenizer: Tokenizer, images: Tensor) -> Tensor:
    """Tokens (B, L d) int64 of images (B, 3, H, W) in [-1, 1], in float32 whatever the precision of training."""
    with torch.autocast(images.device.type, enabled=False):
        maps = tokenizer.encode(tokenizer.latent(images)).tokens
    return torch.cat([tokens.flatten(1) for tokens in maps], 1)


def token_maps(tokens: Tensor, schedule: ScaleSchedule, draws: int = 1) -> list[Tensor]:
    """Tokens (B, L d) as one token map per scale, (B, h, w) or (B, h, w, d)."""
    parts, several = tokens.split([length * draws for length in schedule.lengths], 1), [draws] if draws > 1 else []
    return [part.unflatten(1, (*size, *several)) for part, size in zip(parts, schedule, strict=True)]


class Tokens:
    """Copies of a data set as tokens; see the module's docstring."""

    groups: tuple[int, ...] = ()

    def __init__(self, copies: list[np.ndarray[Any, Any]], times: Tensor | None = None) -> None:
        self._copies, self.count, self.waited = copies, len(copies), 0.0
        self.shape_labels, self.times = torch.zeros(len(copies[0]), dtype=torch.int64), times

    def prefetch(self, rows: Tensor) -> None:
        """Nothing to do: the system keeps what was read in memory."""

    def read(self, copies: Tensor, rows: Tensor) -> Tensor:
        """Tokens (B, L d) int64 of the images ``rows`` (B,), each from the copy named in ``copies`` (B,)."""
        start = time.perf_counter()
        found = [self._copies[copy][row] for copy, row in zip(copies.tolist(), rows.tolist(), strict=True)]
        tokens = torch.from_numpy(np.stack(found)).long()
        self.waited += time.perf_counter() - start
        return tokens

    def all(self) -> Tensor:
        """Tokens (N, L d) int64 of copy 0."""
        return torch.from_numpy(self._copies[0].astype(np.int64))


def cached_tokens(
    folder: Path,
    tokenizer: Tokenizer,
    revision: str,
    data: ImageData,
    copies: int = 1,
    augmentation: Augmentation = PLAIN,
    progress: Progress | None = None,
) -> tuple[Tokens, list[str]]:
    """The tokens of ``copies`` copies of ``data`` from ``folder``, which are encoded first where they are not there.

    Every process of a run calls this; each encodes its share. Returns the tokens, and a sentence for each file that
    was damaged and has been built again.

    Args:
        revision: what names the tokenizer's weights.
        progress: called with (images encoded by this process, all it has to encode).

    Raises:
        TrainingError: the folder cannot be written.
    """
    device, width = next(tokenizer.parameters()).device, tokenizer.schedule.tokens * tokenizer.draws
    kind = {"images": len(data), "tokens": width, "codes": tokenizer.choices}
    dtype = "<i2" if tokenizer.choices <= 2**15 else "<i4"

    def make(copy: int, number: int, rows: Tensor) -> Tensor:
        return encode(tokenizer, augmentation.copied(data, copy, number, rows, device))

    jobs = []
    for copy in range(copies):
        key = {"format": FORMAT_VERSION, "tokenizer": revision, "data": data.hash, **kind}
        file = CopyFile(folder, key | augmentation.of_copy(copy), "tokens", (len(data), width), dtype)
        jobs.append(Job(file, torch.arange(len(data)), partial(make, copy), BATCH))
    damaged = fill(jobs, data, folder, progress)
    return Tokens([job.file.open() for job in jobs], data.times), damaged
