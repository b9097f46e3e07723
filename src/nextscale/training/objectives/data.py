"""What a generator's step is taught on: training images as a frozen tokenizer sees them, and what they show.

Shape letters: ``N`` images of the set, ``B`` of one step's part, ``L`` tokens of all scales, ``d`` draws of a token,
``h w`` one token map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.data.images import ImageData, Reader
from nextscale.tokenizers.base import Encoded, Tokenizer
from nextscale.training.order import SampleNoise
from nextscale.training.tokens import Augmentation, Tokens, encode, token_maps


class TokenData:
    """Variants of the images as tokens: copies that were encoded before, or new ones at every step.

    features: of all N images, on the tokenizer's device; dropped: for the names of some of their sources the share of
    images that are to do without; tokens: the copies, None where there are none.
    """

    def __init__(
        self,
        images: ImageData,
        features: Features,
        tokenizer: Tokenizer,
        augmentation: Augmentation,
        tokens: Tokens | None = None,
        dropped: Mapping[str, float] | None = None,
    ) -> None:
        self.images, self.features, self.tokenizer = images, features, tokenizer
        self.augmentation, self.tokens, self.dropped = augmentation, tokens, dropped or {}
        self.reads: Reader = images if tokens is None else tokens
        self.device = next(tokenizer.parameters()).device

    def choose(self, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, Features]:
        """Which variant of each of the images ``rows`` (B,) is shown, (B,) uniform in [0, 1), and what they show."""
        variant = noise.uniform()
        features = self.features.select(rows.to(self.device))
        for name, share in self.dropped.items():
            features = features.drop(name, (noise.uniform() < share).to(self.device))
        return variant, features

    @torch.no_grad()
    def encoded(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Encoded:
        """These variants of the images, on the tokenizer's own scales."""
        schedule = self.tokenizer.schedule
        found = self.found(rows, variant, noise).to(self.device)
        return self.tokenizer.follow(token_maps(found, schedule, self.tokenizer.draws), schedule)

    def found(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Tensor:
        """Their tokens (B, L d) int64."""
        if self.tokens is not None:
            return self.tokens.read((variant * self.tokens.count).long(), rows)
        turned = variant < self.augmentation.flip
        return encode(self.tokenizer, self.augmentation.images(self.images, rows, turned, noise, self.device))
