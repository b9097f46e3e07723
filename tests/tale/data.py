"""The tale's second data: every step has a schedule of its own, and encodes its images on it."""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Encoded
from nextscale.training.objectives.data import TokenData
from nextscale.training.order import SampleNoise


class FreeData(TokenData):
    """A step draws a middle scale of one, two or three rows, the same in every process and part."""

    @torch.no_grad()
    def encoded(self, rows: Tensor, variant: Tensor, noise: SampleNoise) -> Encoded:
        side = 1 + int(noise.shared() * 3)
        images = self.augmentation.images(self.images, rows, variant < 0, noise, self.device)
        return self.tokenizer.encode(self.tokenizer.latent(images), ScaleSchedule(((1, 1), (side, 3), (4, 4))))
