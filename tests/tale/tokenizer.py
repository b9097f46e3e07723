"""The tale's tokenizer: direct codes. Its canvas is the last map alone, in the size of its scale."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Canvas, Tokenizer


@dataclass(frozen=True, kw_only=True)
class TaleTokenizerConfig:
    """Sizes of the tale's tokenizer."""

    codes: int = 12
    code_dim: int = 4
    sizes: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (4, 4))


class TaleTokenizer(Tokenizer):
    """Eight pixels to a token; a canvas that is not finished decodes to a smaller picture."""

    stride = 8

    def __init__(self, config: TaleTokenizerConfig) -> None:
        super().__init__()
        self.config, self.schedule = config, ScaleSchedule(config.sizes)
        self.choices, self.code_dim = config.codes, config.code_dim
        self.codebook = nn.Embedding(config.codes, config.code_dim)
        self.encoder, self.decoder = nn.Conv2d(3, config.code_dim, 1), nn.Conv2d(config.code_dim, 3, 1)

    def latent(self, images: Tensor) -> Tensor:
        return self.encoder(F.avg_pool2d(images, self.stride)).float()

    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        small = F.interpolate(latent, canvas.schedule[k], mode="area").permute(0, 2, 3, 1)
        return torch.cdist(small.flatten(1, 2), self.codebook.weight.float()).argmin(-1).view(small.shape[:3])

    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        schedule = schedule or self.schedule
        return Canvas(self.codebook.weight.new_zeros((batch, self.code_dim, 1, 1)).float(), schedule)

    def codes(self, tokens: Tensor) -> Tensor:
        weight = self.codebook.weight.float()
        found = tokens.to(weight) @ weight if tokens.is_floating_point() else weight[tokens]
        return found.permute(0, 3, 1, 2)

    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        return replace(canvas, latent=codes, done=k + 1)

    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        return F.interpolate(canvas.latent, canvas.schedule[k], mode="bilinear")

    def decode(self, canvas: Canvas) -> Tensor:
        pixels = self.decoder(canvas.latent.to(self.decoder.weight.dtype)).float()
        return F.interpolate(pixels, scale_factor=float(self.stride)).clamp(-1, 1)

    def accumulate_flops(self, schedule: ScaleSchedule, k: int) -> int:
        return 0

    def decode_flops(self, schedule: ScaleSchedule, done: int) -> int:
        h, w = schedule.grid
        return 2 * 3 * self.code_dim * h * w
