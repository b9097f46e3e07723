"""How faithfully a tokenizer keeps pictures, and how well it uses its codebook.

The same functions serve ``nextscale evaluate`` and validation while training, so that the two cannot disagree. They run
under whatever autocast is on around them; what a tokenizer promises in float32 (quantising, accumulating) stays so.

Shape letters: ``N`` images, ``B`` of one batch, ``h w`` one token map, ``H W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.tokenizers.base import Canvas, Tokenizer
from nextscale.tokenizers.residual import codebook_use

BATCH = 64
SMALLEST_ERROR = 1e-10
"""Mean squared errors below this count as this, so that a perfect picture has 100 dB and not infinity."""

Step = Callable[[int, int], None]
"""``step(done, total)`` is called after every batch, with numbers of images."""


def silent(done: int, total: int) -> None:
    """The progress nobody looks at."""


@dataclass(frozen=True)
class Spread:
    """A number measured on many images: mean, standard deviation (over N, not N - 1) and 5th percentile."""

    mean: float
    std: float
    p5: float

    @classmethod
    def of(cls, values: Tensor) -> Spread:
        """The spread of ``values`` (N,)."""
        values = values.double()
        return cls(float(values.mean()), float(values.std(correction=0)), float(values.quantile(0.05)))


@dataclass(frozen=True)
class CodeUse:
    """share: of the codes that occur at all; perplexity: exp(entropy) of their frequencies."""

    share: float
    perplexity: float


def psnr(images: Tensor, originals: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image, (N,); both are (N, 3, H, W) in [0, 1].

    It is -10 log10 of the mean squared error over the pixels and channels of one image; at most 100.
    """
    error = (images.float() - originals.float()).square().flatten(1).mean(1)
    return -10 * error.clamp_min(SMALLEST_ERROR).log10()


@torch.no_grad()
def encode_all(tokenizer: Tokenizer, images: Tensor, step: Step = silent) -> list[Tensor]:
    """Token maps (N, h, w) int64 of uint8 images (N, 3, H, W), one tensor per scale, on the CPU."""
    weight, maps = next(tokenizer.parameters()), []
    for part in images.split(BATCH):
        signed = part.to(weight.device).to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
        latent = tokenizer.latent(signed.to(weight.dtype))
        maps.append([tokens.cpu() for tokens in tokenizer.encode(latent)])
        step(BATCH * (len(maps) - 1) + len(part), len(images))
    return [torch.cat(scale) for scale in zip(*maps, strict=True)]


@torch.no_grad()
def reconstruction_psnr(
    tokenizer: Tokenizer, images: Tensor, tokens: Sequence[Tensor], scales: Collection[int], step: Step = silent
) -> dict[int, Tensor]:
    """PSNR (N,) of the images drawn from the tokens of scale k and all coarser ones, for every k in ``scales``.

    images: the originals, uint8 (N, 3, H, W); tokens: what :func:`encode_all` gave for them.
    """
    device = next(tokenizer.parameters()).device
    found: dict[int, list[Tensor]] = {k: [] for k in scales}
    for start in range(0, len(images), BATCH):
        rows = slice(start, start + BATCH)
        originals = images[rows].to(device) / 255
        for k, canvas in enumerate(_canvases(tokenizer, [maps[rows].to(device) for maps in tokens])):
            if k in found:
                found[k].append(psnr((tokenizer.decode(canvas) + 1) / 2, originals).cpu())
        step(start + len(originals), len(images))
    return {k: torch.cat(parts) for k, parts in found.items()}


def code_use(tokens: Sequence[Tensor], codes: int) -> tuple[CodeUse, tuple[CodeUse, ...]]:
    """Use of a codebook of ``codes`` codes over all scales together, and at each scale."""
    return CodeUse(*codebook_use(tokens, codes)), tuple(CodeUse(*codebook_use([maps], codes)) for maps in tokens)


def _canvases(tokenizer: Tokenizer, tokens: Sequence[Tensor]) -> Iterator[Canvas]:
    """The canvas (B images) after each scale."""
    canvas = tokenizer.start(tokens[0].shape[0])
    for k, maps in enumerate(tokens):
        canvas = tokenizer.accumulate(canvas, tokenizer.codes(maps), k)
        yield canvas
