"""The convolutional encoder and decoder shared by the tokenizers of the family (the VQGAN design, arXiv 2012.09841).

VAR's official layout is ``ch=160, mult=(1, 1, 2, 2, 4)``, two residual blocks per level (three in the decoder),
attention at the last level; Infinity's has no attention at all. Images are (B, 3, H, W) in [-1, 1]; latents (B, z, H /
stride, W / stride) with stride 2^(levels - 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.errors import InputError, quoted
from nextscale.settings import check_bounds


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Sizes of encoder and decoder.

    ch: width of the first level; mult: width factor of every level; z: latent channels; res_blocks: residual blocks per
    encoder level (the decoder has one more); attention: self-attention at the last level; mid_attention: and between
    the two blocks of lowest resolution; groups: groups of every norm, None for Infinity's rule, see ``norm_groups``.
    """

    ch: int = 160
    mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    z: int = 32
    res_blocks: int = 2
    attention: bool = True
    mid_attention: bool = True
    groups: int | None = 32
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_bounds(self, ch=(1, 65_536), z=(1, 65_536), res_blocks=(1, 256))
        if self.groups is not None:
            check_bounds(self, groups=(1, 65_536))
        if not self.mult or min(self.mult) < 1:
            raise InputError(f"mult is {list(self.mult)}; expected at least one factor, and each 1 or more")
        if len(self.mult) > 16 or max(self.mult) > 1024:
            raise InputError(f"mult is {quoted(list(self.mult))}; expected at most 16 factors, and each at most 1,024")
        if not 0 <= self.dropout <= 1:
            raise InputError(f"dropout is {self.dropout}; expected 0 to 1")
        for width in self.widths:
            if width % self.norm_groups(width):
                raise InputError(
                    f"a width of {width} channels cannot be split into {self.norm_groups(width)} norm groups"
                )

    def norm_groups(self, width: int) -> int:
        """Groups of a norm of ``width`` channels. By Infinity's rule 32, but 24 where 32 do not divide the width."""
        return self.groups or (24 if width % 32 else 32)

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.ch * m for m in self.mult)

    @property
    def stride(self) -> int:
        """Pixels per latent position in each direction."""
        return 2 ** (len(self.mult) - 1)


class Encoder(nn.Module):
    """Image (B, 3, H, W) to latent (B, z, H / stride, W / stride)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.mult) - 1
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        levels, c_in = [], widths[0]
        for i, width in enumerate(widths):
            attend = config.attention and i == last
            levels.append(
                Level(config, c_in, width, config.res_blocks, attend, None if i == last else Downsample(width))
            )
            c_in = width
        self.levels = nn.ModuleList(levels)
        self.mid = Mid(config, c_in)
        self.norm_out = _norm(config, c_in)
        self.conv_out = nn.Conv2d(c_in, config.z, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latent (B, z, h, w) to image (B, 3, h * stride, w * stride), not clamped. ``levels`` stand in running order:
    deepest first.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.mult) - 1
        self.conv_in = nn.Conv2d(config.z, widths[-1], 3, padding=1)
        self.mid = Mid(config, widths[-1])
        levels, c_in = [], widths[-1]
        for i in range(last, -1, -1):
            attend = config.attention and i == last
            levels.append(
                Level(config, c_in, widths[i], config.res_blocks + 1, attend, None if i == 0 else Upsample(widths[i]))
            )
            c_in = widths[i]
        self.levels = nn.ModuleList(levels)
        self.norm_out = _norm(config, c_in)
        self.conv_out = nn.Conv2d(c_in, 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latent))
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Level(nn.Module):
    """Residual blocks (with attention after each, where asked for), then a change of resolution."""

    def __init__(
        self, config: AutoencoderConfig, c_in: int, c_out: int, blocks: int, attend: bool, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(config, c_in if j == 0 else c_out, c_out) for j in range(blocks))
        self.attention = nn.ModuleList(SpatialAttention(config, c_out) for _ in range(blocks if attend else 0))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        for j, block in enumerate(self.blocks):
            x = block(x)
            if len(self.attention):
                x = self.attention[j](x)
        return x if self.resample is None else self.resample(x)


class Mid(nn.Module):
    """Residual block, attention (where asked for), residual block at the lowest resolution."""

    def __init__(self, config: AutoencoderConfig, c: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(config, c, c)
        self.attention = SpatialAttention(config, c) if config.mid_attention else None
        self.block_2 = ResBlock(config, c, c)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block_1(x)
        return self.block_2(x if self.attention is None else self.attention(x))


class ResBlock(nn.Module):
    """x' + conv(silu(norm(conv(silu(norm(x)))))), where x' is a 1x1 convolution of x if the width changes."""

    def __init__(self, config: AutoencoderConfig, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm_1 = _norm(config, c_in)
        self.conv_1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm_2 = _norm(config, c_out)
        self.conv_2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.dropout = nn.Dropout(config.dropout)
        self.shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv_1(F.silu(self.norm_1(x)))
        y = self.conv_2(self.dropout(F.silu(self.norm_2(y))))
        return y + (x if self.shortcut is None else self.shortcut(x))


class SpatialAttention(nn.Module):
    """Single-head self-attention over all positions, softmax scale C^-0.5, residual."""

    def __init__(self, config: AutoencoderConfig, c: int) -> None:
        super().__init__()
        self.norm = _norm(config, c)
        self.qkv = nn.Conv2d(c, 3 * c, 1)
        self.proj = nn.Conv2d(c, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).reshape(b, h * w, 3, c).unbind(2)
        y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.proj(y.transpose(1, 2).reshape(b, c, h, w))


class Downsample(nn.Module):
    """Stride-2 convolution; one row and column of zeros are added below and on the right only."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def decoder_flops(config: AutoencoderConfig, height: int, width: int) -> int:
    """FLOPs (two per multiply-add) of decoding one latent of ``height x width`` positions with :class:`Decoder`."""
    n, widths = height * width, config.widths

    def conv(c_in: int, c_out: int, positions: int, kernel: int = 9) -> int:
        return 2 * kernel * c_in * c_out * positions

    def res(c_in: int, c_out: int, positions: int) -> int:
        change = conv(c_in, c_out, positions, 1) if c_in != c_out else 0
        return conv(c_in, c_out, positions) + conv(c_out, c_out, positions) + change

    def attention(c: int, positions: int) -> int:
        return conv(c, 4 * c, positions, 1) + 4 * positions * positions * c

    c = widths[-1]
    total = conv(config.z, c, n) + 2 * res(c, c, n) + (attention(c, n) if config.mid_attention else 0)
    for i in range(len(widths) - 1, -1, -1):
        total += res(c, widths[i], n) + config.res_blocks * res(widths[i], widths[i], n)
        if config.attention and i == len(widths) - 1:
            total += (config.res_blocks + 1) * attention(widths[i], n)
        c = widths[i]
        if i:
            n *= 4
            total += conv(c, c, n)
    return total + conv(c, 3, n)


def _norm(config: AutoencoderConfig, c: int) -> nn.GroupNorm:
    return nn.GroupNorm(config.norm_groups(c), c, eps=1e-6)


def interpolate(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize (B, C, h, w) by ``"area"``, ``"bicubic"`` or ``"bilinear"`` (align_corners off, no antialias); unchanged
    where the size fits.
    """
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size=size, mode=mode)


__all__ = ["AutoencoderConfig", "Decoder", "Encoder", "decoder_flops", "interpolate"]
