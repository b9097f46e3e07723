"""What every tokenizer can say, and the canvas it draws on.

Shape letters: ``B`` batch, ``c`` code width, ``V`` codes, ``h w`` one token map, ``H W`` the latent grid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from nextscale.scales import ScaleSchedule

EncodeHook = Callable[[int, Tensor, Tensor], Tensor]
"""``hook(k, tokens, codes) -> codes``: may change the vectors that are accumulated at scale k while encoding."""


@dataclass(frozen=True)
class Canvas:
    """The accumulated latent (f-hat) and the schedule it is drawn on. Never changed in place.

    latent: (B, c, H, W) float32; schedule: the scales; done: how many scales have been accumulated.
    """

    latent: Tensor
    schedule: ScaleSchedule
    done: int = 0

    def select(self, rows: Tensor) -> Canvas:
        """Keep, repeat or reorder images: ``rows`` (B',) int64 indices into the batch."""
        return replace(self, latent=self.latent.index_select(0, rows))


class Tokenizer(nn.Module, ABC):
    """Images to token maps and back. Residual, bitwise and direct tokenizers differ only in the methods below.

    ``encode`` runs through ``accumulate``, so that what the encoder sees is what a generator draws.
    """

    schedule: ScaleSchedule
    code_dim: int
    code_count: int
    stride: int
    """Pixels per latent position."""

    @abstractmethod
    def latent(self, images: Tensor) -> Tensor:
        """Images (B, 3, H * stride, W * stride) in [-1, 1] to continuous latents (B, c, H, W), float32."""

    @abstractmethod
    def encode(
        self, latent: Tensor, schedule: ScaleSchedule | None = None, hook: EncodeHook | None = None
    ) -> list[Tensor]:
        """Latents (B, c, H, W) to one token map (B, h, w) int64 per scale."""

    @abstractmethod
    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        """An empty canvas for ``batch`` images."""

    @abstractmethod
    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens (B, h, w) int64, or weights over the codes (B, h, w, V), to vectors (B, c, h, w)."""

    @abstractmethod
    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        """The canvas after the vectors (B, c, h_k, w_k) of scale k were drawn on it; the argument stays as it was."""

    @abstractmethod
    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        """What the transformer sees as input *of* scale k >= 1: (B, c, h_k, w_k)."""

    @abstractmethod
    def decode(self, canvas: Canvas) -> Tensor:
        """Canvas to images (B, 3, H * stride, W * stride), clamped to [-1, 1]."""

    @abstractmethod
    def accumulate_flops(self, schedule: ScaleSchedule, k: int) -> int:
        """FLOPs for one image of ``accumulate`` at scale k."""

    @abstractmethod
    def decode_flops(self, schedule: ScaleSchedule) -> int:
        """FLOPs for one image of ``decode``."""


def inputs(tokenizer: Tokenizer, tokens: list[Tensor], schedule: ScaleSchedule | None = None) -> list[Tensor]:
    """Teacher-forcing inputs (B, c, h_k, w_k) of the scales 1 to K-1, from the token maps of one batch."""
    canvas, found = tokenizer.start(tokens[0].shape[0], schedule), []
    for k, tokens_k in enumerate(tokens[:-1]):
        canvas = tokenizer.accumulate(canvas, tokenizer.codes(tokens_k), k)
        found.append(tokenizer.next_input(canvas, k + 1))
    return found


def draw(tokenizer: Tokenizer, tokens: list[Tensor], schedule: ScaleSchedule | None = None) -> Canvas:
    """The canvas after all of ``tokens`` (which may stop before the last scale) were accumulated."""
    canvas = tokenizer.start(tokens[0].shape[0], schedule)
    for k, tokens_k in enumerate(tokens):
        canvas = tokenizer.accumulate(canvas, tokenizer.codes(tokens_k), k)
    return canvas
