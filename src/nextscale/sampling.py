"""From logits to tokens: temperature, top-k, top-p, the draw, and where its noise comes from.

Shape letters: ``B`` images, ``l`` tokens of one scale, ``d`` draws of a token, ``V`` choices of a draw (codes, or a
bit's two values). The last axis is always the distribution, all before it are places. The semantics of ties and of
the order of top-k and top-p are the official VAR sampler's. One draw of ``torch.multinomial`` is an exponential race,
argmax(p / E) with E ~ Exp(1), so a sampler with given noise can be compared with it token by token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nextscale.errors import InputError, quoted

ORDER = ("temperature", "top_k", "top_p")
FURTHER_PASS = 2**63
"""Added to the number of a pass, so that no position has the same number."""
CULL = 2**62
"""The stream that culls draw from, hashed into the key of their scale."""


def filter_logits(
    logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 0.0, order: Sequence[str] = ORDER
) -> Tensor:
    """Logits (..., V) with -inf where a token may not be drawn.

    top_k: tokens strictly below the k-th largest go, ties stay; top_p: ascending, tokens whose cumulative probability
    is at most 1 - top_p go, the best one always stays; 0 switches either off. ``order``: the order the three are
    applied in.
    """
    for step in order:
        if step == "temperature" and temperature != 1:
            logits = logits / temperature
        elif step == "top_k" and 0 < top_k < logits.shape[-1]:
            kth = logits.topk(top_k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
            logits = logits.masked_fill(logits < kth, -torch.inf)
        elif step == "top_p" and top_p > 0:
            ascending, index = logits.sort(dim=-1)
            drop = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
            drop[..., -1] = False
            logits = logits.masked_fill(torch.zeros_like(drop).scatter(-1, index, drop), -torch.inf)
    return logits


def smooth_weights(filtered: Tensor, gumbel: Tensor, sharpen: float, temperature: float) -> Tensor:
    """Weights over the codes (..., V) of VAR's "more smooth" sampling: softmax((filtered * sharpen + g) /
    temperature).
    """
    return ((filtered * sharpen + gumbel) / temperature).softmax(-1)


def smooth_settings(progress: float) -> tuple[float, float]:
    """The official (sharpen, temperature) at rho = k / (K - 1): (1 + rho, max(0.27 (1 - 0.95 rho), 0.005))."""
    return 1 + progress, max(0.27 * (1 - 0.95 * progress), 0.005)


Uniform = Callable[[int], Tensor]
"""``uniform(count)`` gives (count,) float64 numbers, strictly between 0 and 1; a smaller count gives the first ones."""


class Noise(ABC):
    """Where the randomness of a generation comes from."""

    @abstractmethod
    def pick(self, probs: Tensor, k: int, p: int = 0) -> Tensor:
        """Draw at every place of scale k in pass p: probabilities (B, l, V) or (B, l, d, V) to int64 without V."""

    @abstractmethod
    def gumbel(self, like: Tensor, k: int, p: int = 0) -> Tensor:
        """Standard Gumbel noise (B, l, V) of scale k in pass p, for tokens of one draw, asked for after ``pick``;
        ``like`` gives shape and device.
        """

    @abstractmethod
    def for_cull(self, k: int, row: int) -> Uniform:
        """Noise to choose with among the candidates of one prompt after scale k; row: the first of them."""

    @abstractmethod
    def select(self, rows: Tensor) -> Noise:
        """The noise after images were kept, repeated or reordered: rows (B',) int64."""


class OfficialNoise(Noise):
    """One torch generator for the whole batch, used exactly as the published code uses it."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def labels(self, count: int, classes: int) -> Tensor:
        """Class ids (count,) drawn as the official sampler draws them if none are given; call before anything else."""
        weights = torch.ones((1, classes), device=self.generator.device) / classes
        return torch.multinomial(weights, count, replacement=True, generator=self.generator).flatten()

    def pick(self, probs: Tensor, k: int, p: int = 0) -> Tensor:
        return race(probs, self._exponential(probs))

    def gumbel(self, like: Tensor, k: int, p: int = 0) -> Tensor:
        return -self._exponential(like).log()

    def _exponential(self, like: Tensor) -> Tensor:
        drawn = torch.empty(like.shape, dtype=torch.float32, device=self.generator.device)
        return drawn.exponential_(generator=self.generator).to(like.device)

    def for_cull(self, k: int, row: int) -> Uniform:
        device = self.generator.device
        return lambda count: torch.rand(count, generator=self.generator, dtype=torch.float64, device=device)

    def select(self, rows: Tensor) -> Noise:
        return self


class GivenNoise(Noise):
    """Stored noise, one (B, l, V) or (B, l, d, V) tensor per scale, for the images that live there in their order:
    Exp(1) for the draw, Gumbel for smooth sampling. passes: Exp(1) by scale and later pass, from 1 on; culls: uniform
    numbers (B, count) per scale, of which a prompt takes its first image's.
    """

    def __init__(
        self,
        exponential: Mapping[int, Tensor],
        gumbel: Mapping[int, Tensor] | None = None,
        culls: Mapping[int, Tensor] | None = None,
        passes: Mapping[tuple[int, int], Tensor] | None = None,
    ) -> None:
        self._exponential, self._gumbel, self._culls = exponential, gumbel or {}, culls or {}
        self._passes = passes or {}

    def pick(self, probs: Tensor, k: int, p: int = 0) -> Tensor:
        return race(probs, (self._passes[k, p] if p else self._exponential[k]).to(probs.device))

    def gumbel(self, like: Tensor, k: int, p: int = 0) -> Tensor:
        return self._gumbel[k].to(like.device)

    def for_cull(self, k: int, row: int) -> Uniform:
        return lambda count: self._culls[k][row, :count]

    def select(self, rows: Tensor) -> Noise:
        return self


class IndependentNoise(Noise):
    """Noise keyed by (image seed, lineage, scale, pass, position, draw): an image's noise depends on nothing else,
    neither on the batch it is drawn in nor on the number of processes. A further copy of an image gets a lineage of its
    own, hence new noise; copies: how many each image has had so far.
    """

    def __init__(
        self, seeds: Sequence[int], lineage: Sequence[int] | None = None, copies: Sequence[int] | None = None
    ) -> None:
        for seed in seeds:
            if not 0 <= seed < 2**63:
                raise InputError(
                    f"a seed of {quoted(seed)} is out of range; seeds are whole numbers from 0 to 2^63 - 1"
                )
        self.seeds = list(seeds)
        self.lineage = list(lineage) if lineage is not None else [0] * len(seeds)
        self.copies = list(copies) if copies is not None else [0] * len(seeds)

    def pick(self, probs: Tensor, k: int, p: int = 0) -> Tensor:
        draws = probs.shape[2:-1].numel()
        u = self._uniform(k, 0, p, probs.shape[1], draws).reshape(probs.shape[:-1])
        return inverse_cdf(probs, torch.from_numpy(u).to(probs.device))

    def gumbel(self, like: Tensor, k: int, p: int = 0) -> Tensor:
        u = self._uniform(k, 1, p, like.shape[1], like.shape[2])
        return torch.from_numpy(-np.log(-np.log(u))).to(like)

    def for_cull(self, k: int, row: int) -> Uniform:
        key = _hash(_hash(_hash(self.seeds[row], 0), np.uint64(2 * k)), np.uint64(CULL))

        def uniform(count: int) -> Tensor:
            bits = _hash(key, np.arange(count, dtype=np.uint64))
            return torch.from_numpy(_between_0_and_1(bits))

        return uniform

    def select(self, rows: Tensor) -> IndependentNoise:
        chosen, copies, lineage = rows.tolist(), list(self.copies), []
        further = [row in chosen[:place] for place, row in enumerate(chosen)]
        for row, again in zip(chosen, further, strict=True):
            copies[row] += again
            lineage.append(int(_hash(self.lineage[row], copies[row])) if again else self.lineage[row])
        had = [0 if again else copies[row] for row, again in zip(chosen, further, strict=True)]
        return IndependentNoise([self.seeds[row] for row in chosen], lineage, had)

    def _uniform(self, k: int, stream: int, p: int, positions: int, numbers: int) -> np.ndarray:
        """(B, positions, numbers) float64, strictly between 0 and 1. stream: 0 for draws, 1 for Gumbel noise."""
        key = _hash(
            _hash(np.array(self.seeds, np.uint64), np.array(self.lineage, np.uint64)), np.uint64(2 * k + stream)
        )
        if p > 0:  # the first pass has the noise of models that have no other
            key = _hash(key, np.uint64(FURTHER_PASS + p))
        at = _hash(key[:, None], np.arange(positions, dtype=np.uint64)[None])
        bits = _hash(at[..., None], np.arange(numbers, dtype=np.uint64)[None, None])
        return _between_0_and_1(bits)


def race(probs: Tensor, exponential: Tensor) -> Tensor:
    """argmax(p / E) over the last dimension: one draw of ``torch.multinomial`` with the noise E."""
    return (probs / exponential).argmax(-1)


def inverse_cdf(probs: Tensor, u: Tensor) -> Tensor:
    """The token (...) at which the cumulative probability of (..., V) passes u (...) in (0, 1), never one of
    probability 0.
    """
    cumulative = probs.double().cumsum(-1)
    target = u[..., None] * cumulative[..., -1:]
    return torch.searchsorted(cumulative, target, right=True)[..., 0].clamp_max(probs.shape[-1] - 1)


def _hash(key: np.ndarray | int, value: np.ndarray | np.uint64 | int) -> np.ndarray:
    """A 64-bit mix of two numbers: SplitMix64's finaliser (Steele et al., OOPSLA 2014), applied to key and value in
    turn.
    """
    with np.errstate(over="ignore"):
        z = np.asarray(key, np.uint64) * np.uint64(0x9E3779B97F4A7C15) + _finalise(np.asarray(value, np.uint64))
        return _finalise(z)


def _between_0_and_1(bits: np.ndarray) -> np.ndarray:
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _finalise(z: np.ndarray) -> np.ndarray:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
