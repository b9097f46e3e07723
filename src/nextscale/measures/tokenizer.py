"""How faithfully a tokenizer keeps pictures, and how well it uses its codebook or its bits.

The same functions serve ``nextscale evaluate`` and validation while training, so that the two cannot disagree. They run
under whatever autocast is on around them; what a tokenizer promises in float32 (quantising, accumulating) stays so.

Shape letters: ``N`` images, ``B`` of one batch, ``h w`` one token map, ``H W`` pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.tokenizers.base import Canvas, Tokenizer

BATCH = 64
STUCK = 0.01
"""A bit that has one of its values in less than this share of all cases is stuck."""
SMALLEST_ERROR = 1e-10
"""Mean squared errors below this count as this, so that a perfect picture has 100 dB and not infinity."""

Images = Tensor | ImageData
"""Images as a tensor, uint8 (N, 3, H, W), or as a data set, which may decode them when they are read."""

Step = Callable[[int, int], None]
"""``step(done, total)`` is called after every batch, with numbers of images."""


def silent(done: int, total: int) -> None:
    """The progress nobody looks at."""


@dataclass(frozen=True)
class Spread:
    """A number measured on ``count`` images: mean, standard deviation (over N, not N - 1) and 5th percentile."""

    mean: float
    std: float
    p5: float
    count: int

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """The spread of ``values`` (N,)."""
        values = values.double()
        return cls(float(values.mean()), float(values.std(correction=0)), float(values.quantile(0.05)), len(values))

    @property
    def error(self) -> float:
        """The standard error of the mean, with the images as independent."""
        return self.std / self.count**0.5


@dataclass(frozen=True)
class CodeUse:
    """share: of the codes that occur at all; perplexity: exp(entropy) of their frequencies."""

    share: float
    perplexity: float


@dataclass(frozen=True)
class BitUse:
    """bits: of a token; entropy: of a bit, in bits, a mean over them; stuck: share of them that are stuck."""

    bits: int
    entropy: float
    stuck: float


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, (N,); both are (N, 3, H, W) in [0, 1].

    It is -10 log10 of the mean squared error over the pixels and channels of one image; at most 100.
    """
    error = (images.float() - originals.float()).square().flatten(1).mean(1)
    return -10 * error.clamp_min(SMALLEST_ERROR).log10()


def signed_batches(
    images: Images, device: torch.device, step: Step = silent, rows: Tensor | None = None
) -> Iterator[Tensor]:
    """All images in order, or the images ``rows`` (M,), as (B, 3, H, W) float32 in [-1, 1] on ``device``, channels
    last.
    """
    rows, done = torch.arange(len(images)) if rows is None else rows, 0
    for some in rows.split(BATCH):
        part = _read(images, some)
        yield part.to(device).to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
        done += len(some)
        step(done, len(rows))


@torch.no_grad()
def encode_all(tokenizer: Tokenizer, images: Images, step: Step = silent, rows: Tensor | None = None) -> list[Tensor]:
    """Token maps (N, h, w) int64 of all images, or of the images ``rows`` (N,), one tensor per scale, on the CPU."""
    weight, maps = next(tokenizer.parameters()), []
    for signed in signed_batches(images, weight.device, step, rows):
        latent = tokenizer.latent(signed.to(weight.dtype))
        maps.append([tokens.cpu() for tokens in tokenizer.encode(latent).tokens])
    return [torch.cat(scale) for scale in zip(*maps, strict=True)]


@torch.no_grad()
def reconstruction_psnr(
    tokenizer: Tokenizer, images: Images, tokens: Sequence[Tensor], scales: Collection[int], step: Step = silent
) -> dict[int, Tensor]:
    """PSNR (N,) of the images drawn from the tokens of scale k and all coarser ones, for every k in ``scales``; smaller
    ones are enlarged.

    images: the originals; tokens: what :func:`encode_all` gave for them.
    """
    device = next(tokenizer.parameters()).device
    found: dict[int, list[Tensor]] = {k: [] for k in scales}
    for rows in torch.arange(len(images)).split(BATCH):
        originals = _read(images, rows).to(device) / 255
        size = originals.shape[2:]
        for k, canvas in enumerate(_canvases(tokenizer, [maps[rows].to(device) for maps in tokens])):
            if k in found:
                drawn = tokenizer.decode(canvas)
                drawn = drawn if drawn.shape[2:] == size else F.interpolate(drawn, size, mode="bicubic").clamp(-1, 1)
                found[k].append(psnr((drawn + 1) / 2, originals).cpu())
        step(int(rows[-1]) + 1, len(images))
    return {k: torch.cat(parts) for k, parts in found.items()}


@torch.no_grad()
def reconstructed(tokenizer: Tokenizer, tokens: Sequence[Tensor], step: Step = silent) -> Iterator[Tensor]:
    """What is drawn from all scales of ``tokens``, which :func:`encode_all` gave: (B, 3, H, W) float32 in [-1, 1], in
    order, on the tokenizer's device.
    """
    device, count = next(tokenizer.parameters()).device, len(tokens[0])
    for start in range(0, count, BATCH):
        canvas = tokenizer.follow([maps[start : start + BATCH].to(device) for maps in tokens]).canvas
        yield tokenizer.decode(canvas).float()
        step(start + len(canvas.latent), count)


def codebook_use(tokens: Sequence[Tensor], codes: int) -> tuple[float, float]:
    """Share of the codes that occur in ``tokens``, and the perplexity exp(H) of their distribution."""
    counts = sum(torch.bincount(t.flatten().cpu(), minlength=codes) for t in tokens)
    assert isinstance(counts, Tensor)
    p = counts.double() / counts.sum()
    entropy = -(p[p > 0] * p[p > 0].log()).sum()
    return float((counts > 0).double().mean()), float(entropy.exp())


def bit_shares(tokens: Sequence[Tensor]) -> Tensor:
    """How often each of D bits is 1 in token maps (N, h, w, D), as a share (1 + K, D): over all scales, then at each of
    K.
    """
    ones = torch.stack([maps.flatten(0, -2).sum(0) for maps in tokens]).double()
    cases = torch.tensor([[maps[..., 0].numel()] for maps in tokens]).to(ones)
    return torch.cat([ones.sum(0, keepdim=True) / cases.sum(), ones / cases])


def bit_balance(shares: Tensor) -> tuple[Tensor, Tensor]:
    """Of the shares (..., D) with which D bits are 1: the mean entropy of a bit, in bits, and the share of bits that
    are stuck, with one value in less than ``STUCK`` of all cases; each (...).
    """
    values = torch.stack([shares, 1 - shares])
    return (torch.special.entr(values).sum(0) / math.log(2)).mean(-1), (values.amin(0) < STUCK).float().mean(-1)


def code_use(tokens: Sequence[Tensor], codes: int) -> tuple[CodeUse, tuple[CodeUse, ...]]:
    """Use of a codebook of ``codes`` codes over all scales together, and at each scale."""
    return CodeUse(*codebook_use(tokens, codes)), tuple(CodeUse(*codebook_use([maps], codes)) for maps in tokens)


def bit_use(tokens: Sequence[Tensor]) -> tuple[BitUse, tuple[BitUse, ...]]:
    """Use of the bits of tokens (N, h, w, D) over all scales together, and at each scale."""
    bits, balance = tokens[0].shape[-1], bit_balance(bit_shares(tokens))
    whole, *scales = (BitUse(bits, *row) for row in zip(*(column.tolist() for column in balance), strict=True))
    return whole, tuple(scales)


def _read(images: Images, rows: Tensor) -> Tensor:
    """The images ``rows`` (B,), uint8 (B, 3, H, W)."""
    return images[rows] if isinstance(images, Tensor) else images.read(rows)


def _canvases(tokenizer: Tokenizer, tokens: Sequence[Tensor]) -> Iterator[Canvas]:
    """The canvas (B images) after each scale."""
    start = tokenizer.start(len(tokens[0]))
    yield from (canvas for _, canvas in tokenizer.walk(start, lambda before, k: tokens[k], scales=len(tokens)))
