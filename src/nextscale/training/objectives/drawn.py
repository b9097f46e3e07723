"""What a generator of any schedule is taught on: latents, cut into token maps of other sizes at every step.

A direct tokenizer finds the tokens of a map in the latent alone (arXiv 2502.20313), so latents are what is kept, and a
step draws the scales that its images are taught on. Held-out images are always on the tokenizer's own scales.

Shape letters: ``B`` images of one step's part, ``c`` channels, ``H W`` latent grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.data.images import Reader
from nextscale.measures.tokenizer import BATCH
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Encoded
from nextscale.training.latents import cached_latents, latents_of
from nextscale.training.objectives.data import Material, Shown
from nextscale.training.order import SampleNoise
from nextscale.training.sections import Section, Share
from nextscale.training.tokens import Augmentation

COARSE = 10 / 16
"""Sides up to this share of the last one are coarse, larger ones fine."""
COARSE_SHARE, FINE_SHARE = 5 / 8, 2 / 5
"""Of the coarse and of the fine sides, how many a schedule has."""
LEFT_OUT = (0.9, 0.95, 0.98, 0.99)
"""For every one of these that a number in [0, 1) exceeds, a schedule loses a scale."""
LAST = 4
"""Scales at the end of which one goes where a schedule is too long."""
DROP, MOST_DROPPED = 0.05, 4
"""Share of the scales that are dropped, and how many at most, as the paper says."""
LOOKED_AT = 200
"""Steps among which those are found that a run is priced by."""


class ScalesSection(Section):
    """How the scales of a step are drawn. own: share of steps on the tokenizer's own scales; tokens: how many a
    schedule may have, by default those of the own scales.

    All others have the sides 1 and 2, some of the coarse ones (up to 10/16 of the last: 5 of 8), some of the fine ones
    (2 of 5) and the last, the shares rounded, one at least. keep_last: false is the authors' code: up to four scales
    are left out (one with 10 %, four with 1 %), and while there are too many tokens one of the last four goes, the very
    last included, so that a third of the schedules ends below the latent. true is what the paper says: the first and
    the last scale stay, of those between each is dropped with 5 %, at most four. (Which sides there are before that,
    the paper does not say; they are drawn alike, and one of the three before the last goes where there are too many
    tokens.)
    """

    keep_last: bool = False
    own: Share = 0.05
    tokens: int | None = Field(default=None, ge=1)

    def draw(self, whole: ScaleSchedule, noise: SampleNoise) -> ScaleSchedule:
        """Square scales of the step with this noise; ``whole``: the tokenizer's own."""
        if float(noise.shared()) < self.own:
            return whole
        last = whole.grid[0]
        cut = int(COARSE * last)
        between = _some(range(3, cut + 1), COARSE_SHARE, noise) + _some(range(max(3, cut + 1), last), FINE_SHARE, noise)
        sides = [*range(1, min(3, last)), *sorted(between), last]
        if not self.keep_last:
            number = float(noise.shared())
            for _ in range(sum(number > limit for limit in LEFT_OUT)):
                _lose(sides, range(2, len(sides) - 1), noise)
        limit = self.tokens or whole.tokens
        while sum(side * side for side in sides) > limit:
            if not _lose(sides, range(max(1, len(sides) - LAST), len(sides) - self.keep_last), noise):
                break
        if self.keep_last:
            dropped = [i for i in range(1, len(sides) - 1) if float(noise.shared()) < DROP][:MOST_DROPPED]
            sides = [side for i, side in enumerate(sides) if i not in dropped]
        return ScaleSchedule.of(sides)


def _some(sides: Sequence[int], share: float, noise: SampleNoise) -> list[int]:
    """A share of the sides, at random."""
    count = max(1, round(share * len(sides)))
    return [sides[i] for i in noise.shared(len(sides)).argsort()[:count].tolist()]


def _lose(sides: list[int], places: range, noise: SampleNoise) -> bool:
    """Take one of these places out of ``sides``; whether there was one."""
    if places:
        del sides[places[int(noise.shared() * len(places))]]
    return len(places) > 0


class DrawnData(Shown):
    """Variants of the images as latents, copies that were made before or new ones at every step. See the module's
    docstring and :class:`~nextscale.training.objectives.data.TokenData`.
    """

    def __init__(
        self,
        made_of: Material,
        features: Features,
        heldout_features: Features,
        scales: ScalesSection,
        augmentation: Augmentation,
        copies: int = 1,
        dropped: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(features, made_of.device, dropped)
        self.images, self.heldout_features = made_of.train, heldout_features
        self.tokenizer, self.augmentation, self.scales = made_of.tokenizer, augmentation, scales
        self.own = self.tokenizer.schedule
        self._grid = ScaleSchedule((self.own.grid,))  # all scales are cut from one latent
        self._shape = (self.tokenizer.code_dim, *self.own.grid)
        kept, progress = (made_of.cache, self.tokenizer, made_of.revision), made_of.progress
        self.latents, self.warnings = None, list[str]()
        if copies:
            made = cached_latents(*kept, self.images, [[self._grid]], copies, augmentation, progress)
            self.latents, self.warnings = made
        self.reads: Reader = self.images if self.latents is None else self.latents
        self._heldout, damaged = cached_latents(*kept, made_of.heldout, [[self._grid]], progress=progress)
        self.warnings = self.warnings + damaged

    @torch.no_grad()
    def encoded(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Encoded:
        schedule = self.scales.draw(self.own, noise)
        return self.tokenizer.encode(self._latents(rows, variant, noise).to(self.device), schedule)

    def trials(self, seed: int) -> list[tuple[int, float]]:
        """The step whose tokens are nearest to the mean; and the one with the most of them, for its memory."""
        noises = (SampleNoise(seed, step, 1, slice(None)) for step in range(LOOKED_AT))
        tokens = [self.scales.draw(self.own, noise).tokens for noise in noises]
        usual = min(range(LOOKED_AT), key=lambda step: abs(tokens[step] - math.fsum(tokens) / LOOKED_AT))
        return [(usual, 1.0), (tokens.index(max(tokens)), 0.0)]

    @torch.no_grad()
    def heldout(self) -> Iterator[tuple[Encoded, Features]]:
        for rows in torch.arange(self.heldout_features.images).split(BATCH):
            latents = self._heldout.read(rows * 0, rows, self._grid, self._shape).to(self.device)
            yield self.tokenizer.encode(latents), self.heldout_features.select(rows.to(self.device))

    def _latents(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Tensor:
        if self.latents is not None:
            return self.latents.read((variant * self.latents.count).long(), rows, self._grid, self._shape)
        turned = variant < self.augmentation.flip
        images = self.augmentation.images(self.images, rows, turned, noise, self.device)
        return latents_of(self.tokenizer, images, self._grid)
