"""The toy's tokenizer: ``bits`` bits per token, the signs of what the canvas lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Canvas, Tokenizer


@dataclass(frozen=True, kw_only=True)
class ToyTokenizerConfig:
    """Sizes of the toy's tokenizer."""

    bits: int = 4
    sides: tuple[int, ...] = (1, 2, 4)


class ToyTokenizer(Tokenizer):
    """Eight pixels to a token. Any schedule will do."""

    choices, stride = 2, 8

    def __init__(self, config: ToyTokenizerConfig) -> None:
        super().__init__()
        self.config, self.schedule = config, ScaleSchedule.of(config.sides)
        self.draws = self.code_dim = config.bits
        self.encoder, self.decoder = nn.Conv2d(3, config.bits, 1), nn.Conv2d(config.bits, 3, 1)

    def latent(self, images: Tensor) -> Tensor:
        return self.encoder(F.avg_pool2d(images, self.stride)).float()

    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        residual = F.interpolate(latent - canvas.latent, canvas.schedule[k], mode="area")
        return (residual > 0).long().permute(0, 2, 3, 1)

    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        schedule = schedule or self.schedule
        return Canvas(self.decoder.weight.new_zeros((batch, self.code_dim, *schedule.grid)).float(), schedule)

    def codes(self, tokens: Tensor) -> Tensor:
        value = tokens[..., 1] - tokens[..., 0] if tokens.is_floating_point() else 2.0 * tokens - 1
        return value.permute(0, 3, 1, 2) / self.code_dim**0.5

    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        larger = F.interpolate(codes, canvas.schedule.grid, mode="bilinear")
        return replace(canvas, latent=canvas.latent + larger, done=k + 1)

    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        return F.interpolate(canvas.latent, canvas.schedule[k], mode="area")

    def decode(self, canvas: Canvas) -> Tensor:
        pixels = self.decoder(canvas.latent.to(self.decoder.weight.dtype)).float()
        return F.interpolate(pixels, scale_factor=float(self.stride)).clamp(-1, 1)

    def accumulate_flops(self, schedule: ScaleSchedule, k: int) -> int:
        return 0

    def decode_flops(self, schedule: ScaleSchedule, done: int) -> int:
        h, w = schedule.grid
        return 2 * 3 * self.code_dim * h * w
