"""Infinity's tokenizer: multi-scale residual binary spherical quantisation (arXiv 2412.04431, section 3.2).

Every scale quantises what the coarser scales have left over: area-resize the residual, keep the sign of every channel,
and add the signs, scaled to a unit vector and enlarged bilinearly, to the canvas. There is no codebook: a token is d
bits. The input of the next scale is a bilinear (two-tap) resize of the canvas, not an average as in VAR.

A patchified tokenizer has a latent grid twice as fine as its token maps: a token is then the 4 d bits of 2x2 latent
positions, channel c 4 + 2 dy + dx.

Shape letters: ``B`` batch, ``d`` channels of the latent, ``D`` bits of a token (d, or 4 d), ``h w`` one token map,
``H W`` latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.errors import InputError
from nextscale.layers.precision import no_autocast
from nextscale.scales import ScaleSchedule, Size
from nextscale.settings import check_bounds
from nextscale.tokenizers.autoencoder import AutoencoderConfig, Decoder, Encoder, decoder_flops, interpolate
from nextscale.tokenizers.base import Canvas, EncodeHook, Tokenizer

OFFICIAL = AutoencoderConfig(ch=128, mult=(1, 2, 4, 4, 4), z=32, attention=False, mid_attention=False, groups=None)
"""Encoder and decoder of the published tokenizers with a stride of 16 and 32 bits."""


@dataclass(frozen=True, kw_only=True)
class BitwiseConfig:
    """Sizes of a bitwise tokenizer.

    bits: of one latent position, which are its channels; sizes: the schedule that is used where none is asked for, in
    tokens; patchify: whether a token is 2x2 latent positions.
    """

    bits: int = 32
    sizes: tuple[Size, ...] = ScaleSchedule.preset("256").sizes
    patchify: bool = False
    autoencoder: AutoencoderConfig = field(default_factory=lambda: OFFICIAL)

    def __post_init__(self) -> None:
        ScaleSchedule(self.sizes)
        check_bounds(self, bits=(1 if self.patchify else 2, 65_536))  # a token has several draws
        if self.autoencoder.z != self.bits:
            raise InputError(
                f"the latent has {self.autoencoder.z} channels but a code {self.bits} bits; they must be equal"
            )


class BitwiseTokenizer(Tokenizer):
    """Encoder, sign quantiser and decoder of Infinity. See :class:`~nextscale.tokenizers.base.Tokenizer` for the
    methods. It draws any schedule.
    """

    choices = 2
    free = ("sizes",)

    def __init__(self, config: BitwiseConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = ScaleSchedule(config.sizes)
        self.patch = 2 if config.patchify else 1
        self.draws = self.code_dim = config.bits * self.patch**2
        self.stride = config.autoencoder.stride * self.patch
        self.encoder = Encoder(config.autoencoder)
        self.decoder = Decoder(config.autoencoder)

    def forward(
        self, images: Tensor, schedule: ScaleSchedule | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """One training pass: reconstruction (B, 3, H, W), not clamped; unit vectors and token maps of
        :meth:`straight_through`.
        """
        canvas, units, tokens = self.straight_through(self.encoder(images), schedule, keep)
        return self.decoder(canvas.to(self.decoder.conv_in.weight.dtype)), units, tokens

    def straight_through(
        self, latent: Tensor, schedule: ScaleSchedule | None = None, keep: Tensor | None = None
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Quantise (B, d, H, W) for training: the final canvas, through which gradients reach ``latent``; per scale
        what was quantised, as unit vectors (B, D, h, w) (a patchified one of 2x2 unit vectors), and the token maps.

        A code passes its gradient on to the unit vector it was made of; the residual of a scale knows nothing of the
        codes before it. keep: (B, K) bool, False where a scale of an image is left out of the canvas (the scale dropout
        of the "reg" variant); None keeps all.
        """
        units: list[Tensor] = []

        def find(canvas: Canvas, k: int) -> Tensor:
            residual = self.residual(latent, canvas, k)
            units.append(self._tokens(F.normalize(residual, dim=1)))
            return self._bits(residual)

        def through(k: int, tokens: Tensor, codes: Tensor) -> Tensor:
            passed = units[k] + (codes - units[k]).detach()
            return passed if keep is None else passed * keep[:, k, None, None, None].to(passed)

        with no_autocast(latent):
            latent = latent.float()
            start = Canvas(torch.zeros_like(latent), schedule or self.schedule)
            tokens, canvases = zip(*self.walk(start, find, through), strict=True)
        return canvases[-1].latent, units, list(tokens)

    def latent(self, images: Tensor) -> Tensor:
        self.check_pixels(images)
        return self.encoder(images).float()

    def residual(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        """What the canvas lacks of the latents, (B, d, h_k, w_k), or (B, d, 2 h_k, 2 w_k) where patchified."""
        return interpolate(latent - canvas.latent.detach(), self._grid(canvas.schedule[k]), "area")

    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        grid = self._grid(canvas.schedule.grid)
        if tuple(latent.shape[-2:]) != grid:
            raise InputError(f"the latent is {tuple(latent.shape[-2:])} but the schedule ends at {grid}")
        with no_autocast(latent):
            return self._bits(self.residual(latent.detach().float(), canvas, k))

    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        schedule = schedule or self.schedule
        some = self.decoder.conv_in.weight
        shape = (batch, self.config.bits, *self._grid(schedule.grid))
        return Canvas(some.new_zeros(shape, dtype=torch.float32), schedule)

    def codes(self, tokens: Tensor) -> Tensor:
        signs = tokens[..., 1] - tokens[..., 0] if tokens.is_floating_point() else 2 * tokens - 1
        return (signs / self.config.bits**0.5).movedim(-1, 1)

    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        with no_autocast(codes):
            fine = interpolate(F.pixel_shuffle(codes.float(), self.patch), self._grid(canvas.schedule.grid), "bilinear")
            return replace(canvas, latent=canvas.latent + fine, done=k + 1)

    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        return self._tokens(interpolate(canvas.latent, self._grid(canvas.schedule[k]), "bilinear"))

    def decode(self, canvas: Canvas) -> Tensor:
        return self.decoder(canvas.latent.to(self.decoder.conv_in.weight.dtype)).float().clamp(-1, 1)

    def accumulate_flops(self, schedule: ScaleSchedule, k: int) -> int:
        return 0

    def decode_flops(self, schedule: ScaleSchedule, done: int) -> int:
        return decoder_flops(self.config.autoencoder, *self._grid(schedule.grid))

    def spread(self, tokens: Tensor) -> Tensor:
        """Bits of tokens (B, h, w, D) as those of latent positions, (B, 2 h, 2 w, d) where patchified: the layout that
        the official code gives and takes bits in. Raises ``InputError`` for maps of another shape.
        """
        shape = tuple(getattr(tokens, "shape", ()))
        if len(shape) != 4 or shape[3] != self.draws:
            raise InputError(f"the tokens of a scale have the shape {shape}; expected (B, h, w, {self.draws})")
        return F.pixel_shuffle(tokens.movedim(-1, 1), self.patch).movedim(1, -1)

    def gather(self, bits: Tensor) -> Tensor:
        """The inverse of :meth:`spread`. Raises ``InputError`` for maps of another shape."""
        shape, d = tuple(getattr(bits, "shape", ())), self.config.bits
        if len(shape) != 4 or shape[3] != d or shape[1] % self.patch or shape[2] % self.patch:
            wanted = f"(B, 2 h, 2 w, {d})" if self.patch == 2 else f"(B, h, w, {d})"
            raise InputError(f"the bits of a scale have the shape {shape}; expected {wanted}")
        return self._tokens(bits.movedim(-1, 1)).movedim(1, -1)

    def _grid(self, size: Size) -> Size:
        """The latent grid of a token map's size."""
        return size[0] * self.patch, size[1] * self.patch

    def _tokens(self, fine: Tensor) -> Tensor:
        """(B, d, 2 h, 2 w) to (B, 4 d, h, w) where patchified."""
        return F.pixel_unshuffle(fine, self.patch)

    def _bits(self, residual: Tensor) -> Tensor:
        """Bits (B, h, w, D) int64 of a residual: 1 where it is above 0."""
        return self._tokens((residual > 0).long()).permute(0, 2, 3, 1)


def flipped(flips: Sequence[Tensor]) -> EncodeHook:
    """A hook for ``encode``: bits are turned over where ``flips`` (B, h, w, D) bool, one per scale, says so, after they
    were noted. So later scales correct them (arXiv 2412.04431, section 3.4, bitwise self-correction). Scales beyond the
    last of ``flips`` keep theirs.
    """

    def hook(k: int, tokens: Tensor, codes: Tensor) -> Tensor:
        return torch.where(flips[k].movedim(-1, 1), -codes, codes) if k < len(flips) else codes

    return hook


def bits_of(labels: Tensor, bits: int) -> Tensor:
    """Integer labels (...) as bits (..., D) int64, the most significant one first; D = ``bits`` is at most 62."""
    return (labels[..., None] >> torch.arange(bits - 1, -1, -1, device=labels.device)) & 1


def packed(bits: Tensor) -> Tensor:
    """Bits (..., D) as bytes (..., D / 8 rounded up) uint8, the first bit highest; what is left over is 0."""
    eights = F.pad(bits, (0, -bits.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (eights << torch.arange(7, -1, -1, device=bits.device)).sum(-1).to(torch.uint8)


def unpacked(packs: Tensor, bits: int) -> Tensor:
    """The inverse of :func:`packed`: bits (..., D) int64, D = ``bits``."""
    return bits_of(packs.long(), 8).flatten(-2)[..., :bits]
