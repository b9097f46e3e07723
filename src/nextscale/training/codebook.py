"""Keeping a codebook alive: a first one from data, new places for codes that are hardly used.

A code nobody uses gets no gradient and stays unused for ever; moved to a vector the encoder produces, it comes back.
Moving rarely used ones too spreads the tokens more evenly over the codebook.

Shape letters: ``B`` images, ``K`` scales, ``L`` tokens of an image over all scales, ``V`` codes, ``c`` their width.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Canvas, CodebookTokenizer
from nextscale.training.collapse import MEMORY
from nextscale.training.parallel import sum_over
from nextscale.training.sections import Section, Share

USED = 0.01
"""A code counts as in use from this share of even use on."""
FEWEST = 2.0
"""A perplexity below this is a collapse however small the codebook is."""
RESCUED = 16
"""Where a scale has collapsed, one code in so many is moved to what that scale encodes."""
AT_ONCE = 64
"""Images whose residuals are computed together."""


class CodebookSection(Section):
    """How the codebook starts and is kept alive.

    start_images: images the first codebook is drawn from, 0 keeps the random one; kmeans: rounds of k-means after it
    was drawn; restart_below: codes used less than this share of even use are moved onto the data, 0 is off;
    restart_every: in steps; restart_until: share of the run after which codes stay where they are.

    A collapse is a perplexity below ``collapsed_below`` of the codes, at one scale below ``collapsed_scale_below`` (in
    both cases at least 2), for ``collapsed_after`` steps on end. It is warned of, and the next restart mends it.
    """

    start_images: int = Field(default=256, ge=0)
    kmeans: int = Field(default=0, ge=0, le=100_000)
    restart_below: float = Field(default=0.1, ge=0, lt=1)
    restart_every: int = Field(default=50, ge=1)
    restart_until: Share = 0.8
    collapsed_below: Share = 0.05
    collapsed_scale_below: Share = 0.005
    collapsed_after: int = Field(default=200, ge=1)

    def limits(self, codes: int, scales: int) -> Tensor:
        """Perplexities (1 + K,) below which a codebook has collapsed, as a whole and at each scale."""
        shares = torch.tensor([self.collapsed_below] + [self.collapsed_scale_below] * scales)
        return (shares * codes).clamp_min(min(FEWEST, codes / 2))


@torch.no_grad()
def residuals(tokenizer: CodebookTokenizer, latent: Tensor) -> tuple[Tensor, Tensor]:
    """What the tokenizer looks up to encode ``latent`` (B, c, H, W): vectors (B, L, c) float32, and tokens (B, L)."""
    found = [_residuals(tokenizer, part) for part in latent.float().split(AT_ONCE)]
    vectors, tokens = zip(*found, strict=True)
    return torch.cat(vectors), torch.cat(tokens)


def _residuals(tokenizer: CodebookTokenizer, latent: Tensor) -> tuple[Tensor, Tensor]:
    vectors = []

    def nearest(canvas: Canvas, k: int) -> Tensor:
        vectors.append((sought := tokenizer.sought(latent, canvas, k)).flatten(2).mT)
        return tokenizer.nearest(sought)

    tokens = [found.flatten(1) for found, _ in tokenizer.walk(tokenizer.start(len(latent)), nearest)]
    return torch.cat(vectors, 1), torch.cat(tokens, 1)


@torch.no_grad()
def draw_codebook(
    tokenizer: CodebookTokenizer, latent: Tensor, generator: torch.Generator, rounds: int = 4, kmeans: int = 0
) -> None:
    """Replace the whole codebook by residuals of ``latent`` (B, c, H, W), refined by rounds of k-means.

    The residuals of fine scales depend on the codebook that served the coarse ones; hence a few rounds of drawing, from
    zeros on, and residuals computed anew in every round of k-means.
    """
    codebook = tokenizer.vectors.zero_()
    for _ in range(rounds):
        vectors = residuals(tokenizer, latent)[0].flatten(0, 1)
        codebook.copy_(vectors[draw(len(vectors), len(codebook), generator)])
    for _ in range(kmeans):
        vectors, tokens = (x.flatten(0, 1) for x in residuals(tokenizer, latent))
        codebook.copy_(_means(vectors, tokens, len(codebook), generator))


def _means(vectors: Tensor, tokens: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """The mean (V, c) of the vectors of every token; codes without any are drawn anew.

    Summed on the CPU in float64, one after another: the same on every machine and in every process.
    """
    vectors, tokens = vectors.cpu(), tokens.cpu()
    sums = torch.zeros(codes, vectors.shape[1], dtype=torch.float64).index_add_(0, tokens, vectors.double())
    counts = tokens.bincount(minlength=codes)
    means = (sums / counts.clamp_min(1)[:, None]).float()
    empty = (counts == 0).nonzero()[:, 0]
    means[empty] = vectors[draw(len(vectors), len(empty), generator)]
    return means


def draw(choices: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` numbers (count,) below ``choices``, without repetition where there are enough of them; on the CPU."""
    if not count:
        return torch.zeros(0, dtype=torch.int64)
    return torch.cat([torch.randperm(choices, generator=generator) for _ in range(-(-count // choices))])[:count]


def pick(images: int, places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` pairs (count, 2) of an image and one of ``places`` (M,) in it."""
    order, each = draw(images * len(places), count, generator), max(1, len(places))
    return torch.stack([order // each, places[order % each]], 1)


class CodeUse:
    """How the codes have been used of late: running means over about ``MEMORY`` steps, the same in every process.

    share: (V,) float32, use as a share of even use over all scales; a code that was just moved counts as evenly used;
    frequency: (K, V) float32, share of a scale's tokens that each code had.
    """

    def __init__(self, codes: int, schedule: ScaleSchedule, device: torch.device) -> None:
        self.share = torch.ones(codes, device=device)
        self.frequency = torch.zeros(len(schedule), codes, device=device)
        self._now = torch.zeros_like(self.frequency, dtype=torch.int64)
        self._tokens = torch.tensor([h * w for h, w in schedule], device=device)

    def count(self, tokens: list[Tensor]) -> None:
        """Note which codes a part of the step's images uses: one token map (B, h, w) per scale."""
        for now, maps in zip(self._now, tokens, strict=True):
            now.scatter_add_(0, maps.flatten(), torch.ones_like(maps.flatten()))

    def end_step(self) -> None:
        """Take what was counted, in all processes, into the running means."""
        counts = sum_over(self._now).float()
        self.share.lerp_(counts.sum(0) * (len(self.share) / counts.sum()), 1 / MEMORY)
        self.frequency.lerp_(counts / counts.sum(1, keepdim=True), 1 / MEMORY)
        self._now.zero_()

    def resume(self, share: Tensor, frequency: Tensor) -> None:
        """Go on from what was saved, and forget what was counted since the last step ended."""
        self.share, self.frequency = share.to(self.share), frequency.to(self.share)
        self._now.zero_()

    def measure(self) -> tuple[Tensor, Tensor]:
        """Share of the codes in use and perplexity, each (1 + K,) on the CPU: over all scales, then of each."""
        scales = self.frequency / self.frequency.sum(1, keepdim=True)
        whole = (scales * (self._tokens / self._tokens.sum())[:, None]).sum(0)
        p = torch.cat([whole[None], scales])
        used, perplexity = (p > USED / p.shape[1]).float().mean(1), torch.special.entr(p).sum(1).exp()
        return used.cpu(), perplexity.cpu()

    def to_move(self, below: float, rescued: int) -> Tensor:
        """The codes used less than ``below`` times as often as codes are on average, rarest first; at least ``rescued``
        codes.
        """
        rare = int((self.share < below).sum())
        return self.share.argsort(stable=True)[: max(rare, rescued)]

    def moved(self, codes: Tensor) -> None:
        """Count ``codes`` as evenly used for now, so that they get the time to be."""
        self.share[codes] = 1.0
