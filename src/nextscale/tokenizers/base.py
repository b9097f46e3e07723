"""What every tokenizer can say, and the canvas it draws on.

A token is ``d`` draws among ``V`` choices: one among the codes of a codebook, or several bits among two.

Shape letters: ``B`` batch, ``c`` code width, ``V`` choices, ``d`` draws, ``h w`` one token map, ``H W`` latent grid.
A token map is (B, h, w), or (B, h, w, d) where a token has several draws.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from nextscale.errors import InputError
from nextscale.scales import ScaleSchedule, Size

EncodeHook = Callable[[int, Tensor, Tensor], Tensor]
"""``hook(k, tokens, codes) -> codes``: may change the vectors that are accumulated at scale k while encoding."""


@dataclass(frozen=True)
class Canvas:
    """What has been drawn so far, and the schedule it is drawn on. Never changed in place.

    latent: (B, ...) float32, in whatever shape the tokenizer keeps: an accumulated grid (f-hat), or the last map;
    schedule: the scales; done: how many scales have been accumulated.
    """

    latent: Tensor
    schedule: ScaleSchedule
    done: int = 0

    def select(self, rows: Tensor) -> Canvas:
        """Keep, repeat or reorder images: ``rows`` (B',) int64 indices into the batch."""
        return replace(self, latent=self.latent.index_select(0, rows))


@dataclass(frozen=True)
class Encoded:
    """Images as a walk over the scales leaves them.

    tokens: one map per scale; inputs: what the transformer sees at the scales after the first, (B, c, h_k, w_k) each;
    canvas: after the last of these scales.
    """

    tokens: list[Tensor]
    inputs: list[Tensor]
    canvas: Canvas


class Tokenizer(nn.Module, ABC):
    """Images to token maps and back. Residual, bitwise and direct tokenizers differ only in the abstract methods.

    Encoder and generator go through the same ``accumulate``, so that what the encoder sees is what a generator draws.
    """

    schedule: ScaleSchedule
    code_dim: int
    draws: int = 1
    """Draws of one token."""
    choices: int
    """What one draw chooses from: the codes of a codebook, or the two values of a bit."""
    stride: int
    """Pixels per latent position."""
    whole_maps: bool = False
    """Whether every map is all of the picture at that size: its tokens are the same on any schedule that it stands in,
    and the canvas is the last map.
    """
    free: tuple[str, ...] = ()
    """Settings that shape no weights, so that a run which starts from a checkpoint may have others."""

    @abstractmethod
    def latent(self, images: Tensor) -> Tensor:
        """Images (B, 3, H * stride, W * stride) in [-1, 1] to continuous latents (B, c, H, W), float32."""

    @abstractmethod
    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        """The token map of scale k of latents (B, c, H, W), given the canvas before it."""

    @abstractmethod
    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        """An empty canvas for ``batch`` images."""

    @abstractmethod
    def codes(self, tokens: Tensor) -> Tensor:
        """A token map, or probabilities (B, h, w, V) or (B, h, w, d, V) in its place, to vectors (B, c, h, w)."""

    @abstractmethod
    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        """The canvas after the vectors (B, c, h_k, w_k) of scale k were drawn on it; the argument stays as it was."""

    @abstractmethod
    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        """What the transformer sees as input *of* scale k >= 1: (B, c, h_k, w_k)."""

    @abstractmethod
    def decode(self, canvas: Canvas) -> Tensor:
        """Canvas to images (B, 3, ., .), clamped to [-1, 1]; an unfinished canvas may give smaller ones."""

    @abstractmethod
    def accumulate_flops(self, schedule: ScaleSchedule, k: int) -> int:
        """FLOPs for one image of ``accumulate`` at scale k."""

    @abstractmethod
    def decode_flops(self, schedule: ScaleSchedule, done: int) -> int:
        """FLOPs for one image of ``decode``, of a canvas after ``done`` scales."""

    @property
    def token_shape(self) -> tuple[int, ...]:
        """What a token map has behind (B, h, w): nothing, or (d,) where a token has several draws."""
        return (self.draws,) if self.draws > 1 else ()

    def pixels(self, schedule: ScaleSchedule | None = None) -> Size:
        """Height and width of the images of a finished canvas."""
        h, w = (schedule or self.schedule).grid
        return h * self.stride, w * self.stride

    def check_pixels(self, images: Tensor) -> None:
        """Raises ``InputError`` for images (B, 3, H, W) that are no whole number of latent positions."""
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise InputError(
                f"images of {height}x{width} pixels cannot be encoded; both sides must be multiples of {self.stride}"
            )

    def own_input(
        self, tokens: Tensor, k: int, schedule: ScaleSchedule | None = None, masked: Tensor | None = None
    ) -> Tensor:
        """An input of scale k, (B, c, h_k, w_k), from a canvas that its tokens alone are drawn on: what a further pass
        over the scale is told (arXiv 2506.04421). masked: (B or 1, l) bool, tokens that are not drawn; left out, all
        are, so that traces of each reach its neighbours.
        """
        codes = self.codes(tokens)
        if masked is not None:
            codes = codes.masked_fill(masked.view(-1, 1, *codes.shape[2:]), 0)
        return self.next_input(self.accumulate(self.start(len(tokens), schedule), codes, k), k)

    def encode(self, latent: Tensor, schedule: ScaleSchedule | None = None, hook: EncodeHook | None = None) -> Encoded:
        """Find the tokens of latents (B, c, H, W)."""
        canvas = self.start(len(latent), schedule)
        return self._encoded(canvas, self.walk(canvas, lambda before, k: self.quantize(latent, before, k), hook))

    def follow(
        self, tokens: Sequence[Tensor], schedule: ScaleSchedule | None = None, hook: EncodeHook | None = None
    ) -> Encoded:
        """The same walk with tokens that are given; they may stop before the last scale."""
        canvas = self.start(len(tokens[0]), schedule)
        return self._encoded(canvas, self.walk(canvas, lambda before, k: tokens[k], hook, len(tokens)))

    def walk(
        self,
        canvas: Canvas,
        find: Callable[[Canvas, int], Tensor],
        hook: EncodeHook | None = None,
        scales: int | None = None,
    ) -> Iterator[tuple[Tensor, Canvas]]:
        """Tokens and canvas after each of the first ``scales`` scales, where ``find(canvas, k)`` gives the tokens."""
        for k in range(len(canvas.schedule) if scales is None else scales):
            tokens = find(canvas, k)
            codes = self.codes(tokens)
            canvas = self.accumulate(canvas, codes if hook is None else hook(k, tokens, codes), k)
            yield tokens, canvas

    def _encoded(self, canvas: Canvas, steps: Iterator[tuple[Tensor, Canvas]]) -> Encoded:
        tokens, inputs = [], []
        for k, (found, after) in enumerate(steps):
            if k:
                inputs.append(self.next_input(canvas, k))
            tokens.append(found)
            canvas = after
        return Encoded(tokens, inputs, canvas)


class CodebookTokenizer(Tokenizer):
    """One whose tokens are rows of one codebook, those nearest to what a scale seeks."""

    @property
    @abstractmethod
    def vectors(self) -> Tensor:
        """The codebook, a parameter (V, c)."""

    @abstractmethod
    def sought(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        """The vectors (B, c, h_k, w_k) whose nearest codes are the tokens of scale k."""

    @abstractmethod
    def nearest(self, z: Tensor) -> Tensor:
        """Index (B, h, w) of the code nearest to each vector of (B, c, h, w); the lowest index wins a tie."""
