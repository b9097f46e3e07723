"""What a text-to-image generator of bits is taught on: images quantised anew at every step, with bits turned over.

Bitwise self-correction (arXiv 2412.04431, section 3.4): some bits of the coarse scales are turned over after they were
noted as labels, so that the finer scales learn to put right what went wrong. A step has one aspect ratio and one size,
and an image's words are drawn anew each time.

Shape letters: ``B`` images of one step's part, ``D`` bits of a token, ``h w`` one token map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from pydantic import Field
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.data.captions import require_captions, short, spoken
from nextscale.data.images import Reader
from nextscale.measures.tokenizer import BATCH
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Encoded
from nextscale.tokenizers.bitwise import flipped
from nextscale.training.latents import cached_latents, latents_of
from nextscale.training.objectives.data import Material
from nextscale.training.order import SampleNoise
from nextscale.training.sections import Section, Share
from nextscale.training.tokens import Augmentation

PERCENT = 100


class CorrectionSection(Section):
    """Bitwise self-correction. strength: the largest share of bits that are turned over; for each scale, a step draws a
    share among 0 %, 1 % and so on up to it; scales: how many of the coarsest scales have bits turned over.
    """

    strength: Share = 0.3
    scales: int = Field(default=13, ge=0, le=1024)

    def flips(self, schedule: ScaleSchedule, bits: int, noise: SampleNoise) -> list[Tensor]:
        """Which bits are turned over, (B, h, w, D) bool for each of these scales; D = ``bits``."""
        first = schedule.sizes[: self.scales]
        if not first or not self.strength:
            return []
        choices = int(PERCENT * self.strength + 1e-6) + 1
        shares = (noise.shared(len(first)) * choices).floor() / PERCENT
        drawn = noise.many(sum(h * w for h, w in first), bits).split([h * w for h, w in first], 1)
        each = zip(drawn, shares, first, strict=True)
        return [(numbers < share).unflatten(1, size) for numbers, share, size in each]


class CorrectedData:
    """Variants of the images as latents, copies that were made before or new ones at every step, with their captions.

    schedules: for every shape of the images the scales of its finest ones; lengths: numbers of leading scales that are
    trained, of which a step draws one; copies: how many are made before, 0: none; dropped: share of images whose text
    is dropped. The conditioner gives the states of texts when a step needs them, so they take no memory.
    """

    def __init__(
        self,
        made_of: Material,
        schedules: Sequence[ScaleSchedule],
        lengths: Sequence[int],
        correction: CorrectionSection,
        augmentation: Augmentation,
        copies: int = 1,
        dropped: float = 0.0,
    ) -> None:
        self.images, self.tokenizer, self.device = made_of.train, made_of.tokenizer, made_of.device
        self.conditioner, self.correction, self.augmentation = made_of.conditioner, correction, augmentation
        self.schedules, self.lengths, self.dropped = tuple(schedules), tuple(lengths), dropped
        sides = (made_of.train, made_of.heldout)
        self.captions, self._heldout_captions = (require_captions(data.captions, data.split) for data in sides)
        kept, progress = (made_of.cache, self.tokenizer, made_of.revision), made_of.progress
        sizes = [[one.prefix(length) for length in sorted(lengths)] for one in schedules]
        self.latents, self.warnings = None, list[str]()
        if copies:
            self.latents, self.warnings = cached_latents(*kept, self.images, sizes, copies, augmentation, progress)
        self.reads: Reader = self.images if self.latents is None else self.latents
        finest, self._heldout_data = [ones[-1:] for ones in sizes], made_of.heldout
        self._heldout, damaged = cached_latents(*kept, made_of.heldout, finest, progress=progress)
        self.warnings = self.warnings + damaged

    def choose(self, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, Features]:
        variant, words = noise.uniform(), noise.uniform(2)
        texts = [spoken(self.captions[row], u) for row, u in zip(rows.tolist(), words, strict=True)]
        return variant, self._features(texts).drop("text", (noise.uniform() < self.dropped).to(self.device))

    @torch.no_grad()
    def encoded(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Encoded:
        length = self._length(noise)
        schedule = self.schedules[int(self.images.shape_labels[rows[0]])].prefix(length)
        latents = self._latents(rows, variant, schedule, noise).to(self.device)
        flips = [one.to(self.device) for one in self.correction.flips(schedule, self.tokenizer.draws, noise)]
        return self.tokenizer.encode(latents, schedule, flipped(flips))

    def trials(self, seed: int) -> list[tuple[int, float]]:
        """The first step of every size."""
        first, step = dict[int, int](), 0
        while len(first) < len({*self.lengths}):
            first.setdefault(self._length(SampleNoise(seed, step, 1, slice(None))), step)
            step += 1
        return [(step, self.lengths.count(length) / len(self.lengths)) for length, step in first.items()]

    @torch.no_grad()
    def heldout(self) -> Iterator[tuple[Encoded, Features]]:
        """See :class:`~nextscale.training.objectives.data.Data`: with their short captions, on the finest scales, and
        no bit turned over.
        """
        labels = self._heldout_data.shape_labels
        for shape in labels.unique().tolist():
            schedule = self.schedules[shape].prefix(max(self.lengths))
            size = self.tokenizer.start(1, schedule).latent.shape[1:]
            for rows in (labels == shape).nonzero()[:, 0].split(BATCH):
                latents = self._heldout.read(rows * 0, rows, schedule, size).to(self.device)
                features = self._features([short(self._heldout_captions[row]) for row in rows.tolist()])
                yield self.tokenizer.encode(latents, schedule), features

    def _length(self, noise: SampleNoise) -> int:
        """How many scales the step with this noise has: the first of its shared numbers says it."""
        return self.lengths[int(noise.shared() * len(self.lengths))]

    def _latents(self, rows: Tensor, variant: Tensor, schedule: ScaleSchedule, noise: SampleNoise) -> Tensor:
        if self.latents is not None:
            size = self.tokenizer.start(1, schedule).latent.shape[1:]
            return self.latents.read((variant * self.latents.count).long(), rows, schedule, size)
        turned = variant < self.augmentation.flip
        images = self.augmentation.images(self.images, rows, turned, noise, self.device)
        return latents_of(self.tokenizer, images, schedule)

    def _features(self, texts: Sequence[str]) -> Features:
        with torch.autocast(self.device.type, enabled=False):
            return self.conditioner.features([{"prompt": text} for text in texts]).to(self.device)
