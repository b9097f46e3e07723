"""Keeping a codebook alive: a first one from data, new places for codes that are hardly used, a watch for collapse.

A code nobody uses gets no gradient and stays unused for ever; moved to a vector the encoder produces, it comes back.
Moving rarely used ones too spreads the tokens more evenly over the codebook.

Shape letters: ``B`` images, ``K`` scales, ``L`` tokens of an image over all scales, ``V`` codes, ``c`` their width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Canvas
from nextscale.tokenizers.residual import ResidualTokenizer
from nextscale.training.parallel import sum_over
from nextscale.training.tokenizer_recipe import CodebookSection

MEMORY = 50
"""Steps the running means of the codes' use look back."""
USED = 0.01
"""A code counts as in use from this share of even use on."""
FEWEST = 2.0
"""A perplexity below this is a collapse however small the codebook is."""
RESCUED = 16
"""Where a scale has collapsed, one code in so many is moved to what that scale encodes."""
AT_ONCE = 64
"""Images whose residuals are computed together."""


@torch.no_grad()
def residuals(tokenizer: ResidualTokenizer, latent: Tensor) -> tuple[Tensor, Tensor]:
    """What the tokenizer looks up to encode ``latent`` (B, c, H, W): vectors (B, L, c) float32, and tokens (B, L)."""
    found = [_residuals(tokenizer, part) for part in latent.float().split(AT_ONCE)]
    vectors, tokens = zip(*found, strict=True)
    return torch.cat(vectors), torch.cat(tokens)


def _residuals(tokenizer: ResidualTokenizer, latent: Tensor) -> tuple[Tensor, Tensor]:
    vectors = []

    def nearest(canvas: Canvas, k: int) -> Tensor:
        residual = tokenizer.residual(latent, canvas, k)
        vectors.append(residual.flatten(2).mT)
        return tokenizer.quantizer.nearest(residual)

    tokens = [found.flatten(1) for found, _ in tokenizer.walk(tokenizer.start(len(latent)), nearest)]
    return torch.cat(vectors, 1), torch.cat(tokens, 1)


@torch.no_grad()
def draw_codebook(
    tokenizer: ResidualTokenizer, latent: Tensor, generator: torch.Generator, rounds: int = 4, kmeans: int = 0
) -> None:
    """Replace the whole codebook by residuals of ``latent`` (B, c, H, W), refined by rounds of k-means.

    The residuals of fine scales depend on the codebook that served the coarse ones; hence a few rounds of drawing, from
    zeros on, and residuals computed anew in every round of k-means.
    """
    codebook = tokenizer.quantizer.codebook.weight.zero_()
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
    frequency: (K, V) float32, share of a scale's tokens that each code had; steps: counted so far.
    """

    def __init__(self, codes: int, schedule: ScaleSchedule, device: torch.device) -> None:
        self.share = torch.ones(codes, device=device)
        self.frequency = torch.zeros(len(schedule), codes, device=device)
        self.steps = 0
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
        self.steps += 1

    def resume(self, share: Tensor, frequency: Tensor, steps: int) -> None:
        """Go on from what was saved, and forget what was counted since the last step ended."""
        self.share, self.frequency, self.steps = share.to(self.share), frequency.to(self.share), steps
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


class CollapseWatch:
    """Notices when the codebook, or one of its scales, lives on hardly any codes for a while.

    Row 0 is the whole codebook, row 1 + k the scale k.

    low: (1 + K,) int64, steps on end below the limit since the row was last mended; warned: (1 + K,) bool, said so and
    not recovered since.
    """

    def __init__(self, codes: int, scales: int, settings: CodebookSection) -> None:
        shares = torch.tensor([settings.collapsed_below] + [settings.collapsed_scale_below] * scales)
        self.limits = (shares * codes).clamp_min(min(FEWEST, codes / 2))
        self.after = settings.collapsed_after
        self.low = torch.zeros(1 + scales, dtype=torch.int64)
        self.warned = torch.zeros(1 + scales, dtype=torch.bool)

    def note(self, perplexity: Tensor, steps: int) -> list[int]:
        """Note a measurement (1 + K,) that stands for the last ``steps`` steps; returns the rows to warn of now.

        Where the whole codebook has collapsed, its scales are not named one by one.
        """
        below = perplexity < self.limits
        self.low = torch.where(below, self.low + steps, 0)
        new = (self.low >= self.after) & ~self.warned
        self.warned = (self.warned | new) & below
        return [row for row in new.nonzero()[:, 0].tolist() if row == 0 or not self.warned[0]]

    def to_mend(self) -> list[int]:
        """The rows that have collapsed; each is given ``after`` steps before it is named again."""
        rows = self.low >= self.after
        self.low[rows] = 0
        return rows.nonzero()[:, 0].tolist()
