"""VAR's tokenizer: multi-scale residual vector quantisation (arXiv 2404.02905, section 3.2, algorithms 1 and 2).

Every scale quantises what the coarser scales have left over: area-resize the residual, look up the nearest code,
enlarge it bicubically, smooth it with one of a few shared convolutions phi, and add it to the canvas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.errors import InputError
from nextscale.layers.precision import no_autocast
from nextscale.scales import ScaleSchedule, Size
from nextscale.settings import check_bounds
from nextscale.tokenizers.autoencoder import AutoencoderConfig, Decoder, Encoder, decoder_flops, interpolate
from nextscale.tokenizers.base import Canvas, CodebookTokenizer


@dataclass(frozen=True, kw_only=True)
class ResidualConfig:
    """Sizes of a VAR tokenizer.

    codes: size of the codebook; code_dim: its width (also the latent's); sizes: the trained schedule; phi: number of
    shared phi convolutions, 0 for one per scale; phi_ratio: share of the convolution in phi, 0 for none;
    quant_kernel: kernel of the convolutions around the quantiser; cosine: nearest code by angle instead of by
    distance; beta: commitment weight.
    """

    codes: int = 4096
    code_dim: int = 32
    sizes: tuple[Size, ...] = ScaleSchedule.preset("256").sizes
    phi: int = 4
    phi_ratio: float = 0.5
    quant_kernel: int = 3
    cosine: bool = False
    beta: float = 0.25
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)

    def __post_init__(self) -> None:
        ScaleSchedule(self.sizes)
        check_bounds(self, codes=(1, 2**32), code_dim=(1, 65_536), phi=(0, 1024), quant_kernel=(1, 255))
        if self.quant_kernel % 2 == 0:
            raise InputError(f"quant_kernel is {self.quant_kernel}; expected an odd number")
        if not 0 <= self.phi_ratio <= 1:
            raise InputError(f"phi_ratio is {self.phi_ratio}; expected 0 to 1")
        if not 0 <= self.beta < math.inf:
            raise InputError(f"beta is {self.beta}; expected a finite number, 0 or more")
        if self.autoencoder.z != self.code_dim:
            raise InputError(
                f"the latent has {self.autoencoder.z} channels but the codes {self.code_dim}; they must be equal"
            )


class ResidualTokenizer(CodebookTokenizer):
    """Encoder, residual quantiser and decoder of VAR. See :class:`~nextscale.tokenizers.base.Tokenizer` for the
    methods.
    """

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        kernel, c = config.quant_kernel, config.code_dim
        self.config = config
        self.schedule = ScaleSchedule(config.sizes)
        self.code_dim, self.choices, self.stride = c, config.codes, config.autoencoder.stride
        self.encoder = Encoder(config.autoencoder)
        self.quant_conv = nn.Conv2d(c, c, kernel, padding=kernel // 2)
        self.quantizer = ResidualQuantizer(config)
        self.post_quant_conv = nn.Conv2d(c, c, kernel, padding=kernel // 2)
        self.decoder = Decoder(config.autoencoder)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """One training pass: reconstruction (B, 3, H, W), not clamped; VQ loss (); token maps."""
        latent, loss, tokens = self.straight_through(self.quant_conv(self.encoder(images)))
        return self.decoder(self.post_quant_conv(latent)), loss, tokens

    def straight_through(self, latent: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Quantise (B, c, H, W) for training: the final canvas, through which gradients reach ``latent``; VQ loss ();
        token maps.

        The loss is the mean over scales of beta * MSE(sg F_k, f) + MSE(F_k, sg f) with F_k the canvas after scale k.
        """
        with no_autocast(latent):
            latent = latent.float()
            target = latent.detach()
            start = Canvas(torch.zeros_like(latent), self.schedule)  # in the latent's memory format
            tokens, canvases = zip(*self.walk(start, lambda before, k: self.quantize(latent, before, k)), strict=True)
            losses = [
                self.config.beta * F.mse_loss(f.latent.detach(), latent) + F.mse_loss(f.latent, target)
                for f in canvases
            ]
            drawn = canvases[-1].latent.detach() - target + latent
            return drawn, torch.stack(losses).mean(), list(tokens)

    def latent(self, images: Tensor) -> Tensor:
        self.check_pixels(images)
        return self.quant_conv(self.encoder(images)).float()

    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        grid = canvas.schedule.grid
        if tuple(latent.shape[-2:]) != grid:
            raise InputError(f"the latent is {tuple(latent.shape[-2:])} but the schedule ends at {grid}")
        return self.quantizer.nearest(self.sought(latent, canvas, k))

    @property
    def vectors(self) -> Tensor:
        return self.quantizer.codebook.weight

    def nearest(self, z: Tensor) -> Tensor:
        return self.quantizer.nearest(z)

    def sought(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        """What the canvas lacks of the latents, (B, c, h_k, w_k)."""
        return interpolate(latent.detach() - canvas.latent.detach(), canvas.schedule[k], "area")

    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        schedule = schedule or self.schedule
        codebook = self.quantizer.codebook.weight
        return Canvas(codebook.new_zeros((batch, self.code_dim, *schedule.grid), dtype=torch.float32), schedule)

    def codes(self, tokens: Tensor) -> Tensor:
        return self.quantizer.codes(tokens)

    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        with no_autocast(codes):
            h = interpolate(codes, canvas.schedule.grid, "bicubic")
            return replace(canvas, latent=canvas.latent + self.quantizer.smooth(h, canvas.schedule, k), done=k + 1)

    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        return interpolate(canvas.latent, canvas.schedule[k], "area")

    def decode(self, canvas: Canvas) -> Tensor:
        latent = canvas.latent.to(self.post_quant_conv.weight.dtype)
        return self.decoder(self.post_quant_conv(latent)).float().clamp(-1, 1)

    def accumulate_flops(self, schedule: ScaleSchedule, k: int) -> int:
        h, w = schedule.grid
        return 2 * 9 * self.code_dim**2 * h * w if self.config.phi_ratio else 0

    def decode_flops(self, schedule: ScaleSchedule, done: int) -> int:
        h, w = schedule.grid
        return 2 * self.config.quant_kernel**2 * self.code_dim**2 * h * w + decoder_flops(self.config.autoencoder, h, w)


class ResidualQuantizer(nn.Module):
    """One codebook for all scales, and the phi convolutions. All arithmetic is float32, whatever autocast says."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.cosine = config.cosine
        self.codebook = nn.Embedding(config.codes, config.code_dim)
        count = (config.phi or len(config.sizes)) if config.phi_ratio else 0
        self.phi = nn.ModuleList(Phi(config.code_dim, config.phi_ratio) for _ in range(count))

    def nearest(self, z: Tensor) -> Tensor:
        """Index (B, h, w) of the code nearest to each vector of (B, c, h, w); the lowest index wins a tie."""
        with no_autocast(z):
            vectors = z.detach().float().permute(0, 2, 3, 1)
            codebook = self.codebook.weight.detach().float()
            if self.cosine:
                return (F.normalize(vectors, dim=-1) @ F.normalize(codebook, dim=-1).T).argmax(-1)
            distance = codebook.square().sum(1) - 2 * (vectors @ codebook.T)
            return distance.argmin(-1)

    def codes(self, tokens: Tensor) -> Tensor:
        """See :meth:`Tokenizer.codes`."""
        with no_autocast(tokens):
            codebook = self.codebook.weight.float()
            vectors = tokens.float() @ codebook if tokens.is_floating_point() else F.embedding(tokens, codebook)
            return vectors.permute(0, 3, 1, 2)

    def smooth(self, h: Tensor, schedule: ScaleSchedule, k: int) -> Tensor:
        """What scale k adds to the canvas, from its enlarged vectors (B, c, H, W)."""
        return self.phi[phi_index(len(self.phi), schedule.progress(k))](h) if len(self.phi) else h


class Phi(nn.Module):
    """phi(h) = (1 - ratio) h + ratio conv(h), which softens what enlarging a small map left behind."""

    def __init__(self, c: int, ratio: float) -> None:
        super().__init__()
        self.ratio = abs(ratio)
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        smoothed = F.conv2d(h, self.conv.weight.float(), self.conv.bias.float(), padding=1)  # type: ignore[union-attr]
        return (1 - self.ratio) * h + self.ratio * smoothed


def phi_index(count: int, progress: float) -> int:
    """Which of ``count`` phi convolutions a scale at ``progress`` = k / (K - 1) uses: the nearest of evenly spread
    ticks.

    Four ticks lie at 1/12 ... 11/12, any other number at 1/(2 count) ... 1 - 1/(2 count), as in the official code.
    """
    margin = 1 / 3 / count if count == 4 else 1 / 2 / count
    ticks = np.linspace(margin, 1 - margin, count)
    return int(np.argmin(np.abs(ticks - progress)))
