"""FlexVAR's tokenizer: every scale holds the codes of the down-sampled latent itself (arXiv 2502.20313, section 3.2).

Nothing is left over and nothing is added up: a scale averages the latent to its size and takes for every position the
code that points the same way, and the canvas is the last map alone. So the tokens of a map do not depend on which other
scales there are, every map decodes to a picture of its size, and any schedule will do. Codes are used as unit vectors.

Shape letters: ``B`` batch, ``c`` code width, ``V`` codes, ``h w`` one token map, ``H W`` latent grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.errors import InputError
from nextscale.layers.precision import no_autocast
from nextscale.scales import ScaleSchedule, Size
from nextscale.settings import check_bounds
from nextscale.tokenizers.autoencoder import AutoencoderConfig, Decoder, Encoder, decoder_flops, interpolate
from nextscale.tokenizers.base import Canvas, CodebookTokenizer

OFFICIAL = AutoencoderConfig(ch=128, mult=(1, 1, 2, 2, 4), z=256)
"""Encoder and decoder of the published tokenizer, which are LlamaGen's (arXiv 2406.06525)."""
ENTROPY_TEMPERATURE, ENTROPY_FLOOR = 0.01, 1e-5


@dataclass(frozen=True, kw_only=True)
class DirectConfig:
    """Sizes of a direct tokenizer.

    codes: size of the codebook (8912 as published, which is no slip); code_dim: its width; sizes: the schedule that is
    used where none is asked for; beta: commitment weight; entropy: weight of the entropy loss.
    """

    codes: int = 8912
    code_dim: int = 32
    sizes: tuple[Size, ...] = ScaleSchedule.preset("256").sizes
    beta: float = 0.25
    entropy: float = 0.0
    autoencoder: AutoencoderConfig = field(default_factory=lambda: OFFICIAL)

    def __post_init__(self) -> None:
        ScaleSchedule(self.sizes)
        check_bounds(self, codes=(1, 2**32), code_dim=(1, 65_536))
        for name in ("beta", "entropy"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)}; expected a finite number, 0 or more")


@dataclass(frozen=True)
class Quantized:
    """One scale of a training pass.

    codes: (B, c, h, w) unit vectors, through which gradients reach the latent; tokens: (B, h, w); vq, commit, entropy:
    losses (), with their weights.
    """

    codes: Tensor
    tokens: Tensor
    vq: Tensor
    commit: Tensor
    entropy: Tensor


class DirectTokenizer(CodebookTokenizer):
    """Encoder, quantiser and decoder of FlexVAR. See :class:`~nextscale.tokenizers.base.Tokenizer` for the methods. It
    draws any schedule, and encodes on any whose maps are no larger than the latent.
    """

    whole_maps = True
    free = ("sizes",)

    def __init__(self, config: DirectConfig) -> None:
        super().__init__()
        z, c = config.autoencoder.z, config.code_dim
        self.config = config
        self.schedule = ScaleSchedule(config.sizes)
        self.code_dim, self.choices, self.stride = c, config.codes, config.autoencoder.stride
        self.encoder = Encoder(config.autoencoder)
        self.quant_conv = nn.Conv2d(z, c, 1)
        self.codebook = nn.Embedding(config.codes, c)
        self.post_quant_conv = nn.Conv2d(c, z, 1)
        self.decoder = Decoder(config.autoencoder)

    def forward(
        self, images: Tensor, maps: ScaleSchedule | None = None
    ) -> tuple[Tensor, tuple[list[Quantized], list[Tensor]], list[Tensor]]:
        """One training pass: the picture (B, 3, H, W) of the last map, not clamped; what :meth:`straight_through` finds
        on ``maps``, and the picture (B, 3, h, w) of each (of the last one where none are given: those of the own
        schedule); and the tokens of the own schedule.
        """
        latent = self.latent(images)
        found = self.straight_through(latent, maps)
        pictures = [self.images(one.codes) for one in (found[-1:] if maps is None else found)]
        with torch.no_grad():
            tokens = self.encode(latent).tokens
        return pictures[-1], (found, pictures), tokens

    def straight_through(self, latent: Tensor, schedule: ScaleSchedule | None = None) -> list[Quantized]:
        """Quantise (B, c, H, W) for training, each scale on its own: z a unit vector of the averaged latent and q its
        code, MSE(q, sg z), beta MSE(sg q, z), and what :meth:`entropy` says.
        """
        found = []
        with no_autocast(latent):
            for size in schedule or self.schedule:
                z = self.averaged(latent, size)
                tokens = self.nearest(z)
                q = self.codes(tokens)
                losses = F.mse_loss(q, z.detach()), self.config.beta * F.mse_loss(z, q.detach()), self.entropy(z)
                found.append(Quantized(z + (q - z).detach(), tokens, *losses))
        return found

    def entropy(self, z: Tensor) -> Tensor:
        """The entropy loss () of unit vectors (B, c, h, w), with its weight: low where each of them is near one code
        only, and all of them together near many.
        """
        if not self.config.entropy:
            return z.new_zeros(())
        vectors, units = z.movedim(1, -1).flatten(0, 2), self.units
        distance = vectors.square().sum(1, keepdim=True) + units.square().sum(1) - 2 * (vectors @ units.T)
        likely = (-distance / ENTROPY_TEMPERATURE).log_softmax(-1)
        chances = likely.exp()
        each = -(chances * likely).sum(-1).mean()
        mean = chances.mean(0)
        return self.config.entropy * (each + (mean * (mean + ENTROPY_FLOOR).log()).sum())

    def latent(self, images: Tensor) -> Tensor:
        self.check_pixels(images)
        return self.quant_conv(self.encoder(images)).float()

    @property
    def vectors(self) -> Tensor:
        """As they are learnt, (V, c); what they are used as are :attr:`units`."""
        return self.codebook.weight

    @property
    def units(self) -> Tensor:
        """The codes as unit vectors, (V, c)."""
        return F.normalize(self.codebook.weight.float(), dim=-1)

    def averaged(self, latent: Tensor, size: Size) -> Tensor:
        """Latents (B, c, H, W) as unit vectors of a map, (B, c, h, w)."""
        (height, width), (h, w) = latent.shape[-2:], size
        if height < h or width < w:
            raise InputError(f"the latent is {(height, width)}, but a scale of {h}x{w} was asked for; expected less")
        return F.normalize(interpolate(latent.float(), size, "area"), dim=1)

    def nearest(self, z: Tensor) -> Tensor:
        return (z.detach().movedim(1, -1) @ self.units.detach().T).argmax(-1)

    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        with no_autocast(latent):
            return self.nearest(self.sought(latent, canvas, k))

    def sought(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        return self.averaged(latent, canvas.schedule[k])

    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        schedule = schedule or self.schedule
        shape = (batch, self.code_dim, *schedule[0])
        return Canvas(self.codebook.weight.new_zeros(shape, dtype=torch.float32), schedule)

    def codes(self, tokens: Tensor) -> Tensor:
        with no_autocast(tokens):
            vectors = tokens.float() @ self.units if tokens.is_floating_point() else F.embedding(tokens, self.units)
            return vectors.movedim(-1, 1)

    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        return replace(canvas, latent=codes.float(), done=k + 1)

    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        return interpolate(canvas.latent, canvas.schedule[k], "bicubic")

    def decode(self, canvas: Canvas) -> Tensor:
        return self.images(canvas.latent).float().clamp(-1, 1)

    def images(self, latent: Tensor) -> Tensor:
        """A map (B, c, h, w) of vectors as images (B, 3, h stride, w stride), not clamped."""
        return self.decoder(self.post_quant_conv(latent.to(self.post_quant_conv.weight.dtype)))

    def accumulate_flops(self, schedule: ScaleSchedule, k: int) -> int:
        return 0

    def decode_flops(self, schedule: ScaleSchedule, done: int) -> int:
        h, w = schedule[done - 1]
        return 2 * self.code_dim * self.config.autoencoder.z * h * w + decoder_flops(self.config.autoencoder, h, w)
