"""What a generator's step is taught on: training images as a frozen tokenizer sees them, and what they show.

Shape letters: ``N`` images of the set, ``B`` of one step's part, ``L`` tokens of all scales, ``d`` draws of a token,
``h w`` one token map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nextscale.conditions.base import Conditioner, Features
from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.images import ImageData, Reader
from nextscale.measures.tokenizer import BATCH
from nextscale.tokenizers.base import Encoded, Tokenizer
from nextscale.training.copies import Progress
from nextscale.training.order import SampleNoise
from nextscale.training.tokens import Augmentation, cached_tokens, encode, token_maps


@dataclass(frozen=True)
class Material:
    """What data are made of. vocabulary: of the images; tokenizer: frozen, where it is to compute; revision: what names
    its weights; cache: the folder for what is made before training; progress: called with (images encoded, images to
    encode).
    """

    train: ImageData
    heldout: ImageData
    vocabulary: ClassVocabulary
    conditioner: Conditioner
    tokenizer: Tokenizer
    revision: str
    cache: Path
    progress: Progress | None = None

    @property
    def device(self) -> torch.device:
        return next(self.tokenizer.parameters()).device


class Data(Protocol):
    """What a generator is taught on, and is held against."""

    reads: Reader
    """What is read at every step, and hears what comes next."""
    warnings: list[str]
    """Sentences for whoever trains."""

    def choose(self, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, Features]:
        """Which variant of each of the images ``rows`` (B,) is shown, (B,) uniform in [0, 1), and what they show."""

    def encoded(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Encoded:
        """These variants of the images, on the scales of this step."""

    def trials(self, seed: int) -> list[tuple[int, float]]:
        """Steps of a run with this seed by which it is priced, see ``Objective``."""

    def heldout(self) -> Iterator[tuple[Encoded, Features]]:
        """The held-out images as they are, some at a time, with all that they show; those of a turn have one
        schedule.
        """


class Shown:
    """What the images show, in memory for all of them.

    features: on the tokenizer's device; dropped: for the names of some of the sources the share of images that are to
    do without.
    """

    def __init__(self, features: Features, device: torch.device, dropped: Mapping[str, float] | None = None) -> None:
        self.features, self.device, self.dropped = features, device, dropped or {}

    def choose(self, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, Features]:
        """See :class:`Data`."""
        variant = noise.uniform()
        features = self.features.select(rows.to(self.device))
        for name, share in self.dropped.items():
            features = features.drop(name, (noise.uniform() < share).to(self.device))
        return variant, features


class TokenData(Shown):
    """Variants of the images as tokens: copies that were encoded before, or new ones at every step.

    features, heldout_features: of all images of either side, on the tokenizer's device; copies: how many are encoded
    before, 0: none; dropped: for the names of some of the sources the share of images that are to do without.
    """

    def __init__(
        self,
        made_of: Material,
        features: Features,
        heldout_features: Features,
        augmentation: Augmentation,
        copies: int = 1,
        dropped: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(features, made_of.device, dropped)
        self.images, self.heldout_features = made_of.train, heldout_features
        self.tokenizer, self.augmentation = made_of.tokenizer, augmentation
        kept, progress = (made_of.cache, self.tokenizer, made_of.revision), made_of.progress
        self.tokens, self.warnings = None, list[str]()
        if copies:
            self.tokens, self.warnings = cached_tokens(*kept, self.images, copies, augmentation, progress)
        self.reads: Reader = self.images if self.tokens is None else self.tokens
        heldout, damaged = cached_tokens(*kept, made_of.heldout, progress=progress)
        self.warnings = self.warnings + damaged
        self._heldout = token_maps(heldout.all(), self.tokenizer.schedule, self.tokenizer.draws)

    @torch.no_grad()
    def encoded(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Encoded:
        """On the tokenizer's own scales."""
        schedule = self.tokenizer.schedule
        found = self.found(rows, variant, noise).to(self.device)
        return self.tokenizer.follow(token_maps(found, schedule, self.tokenizer.draws), schedule)

    def found(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Tensor:
        """Their tokens (B, L d) int64."""
        if self.tokens is not None:
            return self.tokens.read((variant * self.tokens.count).long(), rows)
        turned = variant < self.augmentation.flip
        return encode(self.tokenizer, self.augmentation.images(self.images, rows, turned, noise, self.device))

    def trials(self, seed: int) -> list[tuple[int, float]]:
        return [(0, 1.0)]

    def heldout(self) -> Iterator[tuple[Encoded, Features]]:
        for rows in torch.arange(self.heldout_features.images).split(BATCH):
            maps = [one[rows].to(self.device) for one in self._heldout]
            features = self.heldout_features.select(rows.to(self.device))
            yield self.tokenizer.follow(maps, self.tokenizer.schedule), features
