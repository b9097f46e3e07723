"""What the bits of a bitwise tokenizer lose while it is trained, and how evenly they are used (arXiv 2412.04431).

Shape letters: ``B`` batch, ``K`` scales, ``d`` channels of a latent position, ``D`` bits of a token, ``h w`` one token
map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from nextscale.measures.tokenizer import bit_balance
from nextscale.scales import ScaleSchedule
from nextscale.training.collapse import MEMORY
from nextscale.training.parallel import mean_over, sum_over
from nextscale.training.sections import Section, Share

SHARPNESS = 100
"""Inverse temperature of the probabilities that a bit is made of (the published value)."""
ENTROPY_UNIT = 100
"""What entropies are divided by in the loss (the published value)."""


class BitsSection(Section):
    """How the bits are trained and watched.

    scale_dropout: share of the images that a scale is left out of, each on its own, the last scale never; 0.5 is the
    "reg" variant, whose coarse scales say less and whose fine ones can say all.

    A bit is stuck where one of its values has less than 1 % at a scale. A collapse is a share of stuck bits above
    ``collapsed_above``, at all scales together or at one, for ``collapsed_after`` steps on end.
    """

    scale_dropout: Share = 0.0
    collapsed_above: Share = 0.5
    collapsed_after: int = Field(default=200, ge=1)


def commitment(units: Sequence[Tensor], codes: Sequence[Tensor]) -> Tensor:
    """Mean over scales () of the squared distance between unit vectors (B, D, h, w) and the codes of their bits, a mean
    over all numbers.
    """
    return torch.stack([F.mse_loss(z, code) for z, code in zip(units, codes, strict=True)]).mean()


def entropies(units: Sequence[Tensor], bits: int) -> tuple[Tensor, Tensor]:
    """Two means over scales (), in nats of a code: how undecided bits are, and how evenly they are used.

    A bit is 1 with probability sigmoid(4 * 100 z / sqrt(d)) for a number z of a unit vector (B, D, h, w), or of 2x2
    where patchified. The first is the mean of its entropy over images and latent positions, the second the entropy of
    its mean over them, both summed over the bits of a position. The images are those that are given here and in the
    other processes at the same time: where gradients are accumulated, one part of the batch. bits: d.
    """
    probabilities = [torch.sigmoid(4 * SHARPNESS / bits**0.5 * z.unflatten(1, (bits, -1))) for z in units]
    own = torch.stack([_entropy(p).sum(1).mean() for p in probabilities]).mean()
    here = torch.stack([p.mean((0, 2, 3, 4)) for p in probabilities])
    everywhere = here + (mean_over(here.detach()) - here).detach()  # the gradient of each process is its own share
    return own, _entropy(everywhere).sum(1).mean()


def _entropy(p: Tensor) -> Tensor:
    """Nats of a bit that is 1 with probability ``p``; its gradient is finite at 0 and 1."""
    p = p.clamp(1e-6, 1 - 1e-6)
    return -(p * p.log() + (1 - p) * (1 - p).log())


class BitWatch:
    """How often the bits have had each value of late: running means over about ``MEMORY`` steps, the same in every
    process.

    frequency: (K, D, 2) float32.
    """

    def __init__(self, bits: int, schedule: ScaleSchedule, device: torch.device) -> None:
        self.frequency = torch.zeros(len(schedule), bits, 2, device=device)
        self._now = torch.zeros_like(self.frequency, dtype=torch.int64)
        self._tokens = torch.tensor([h * w for h, w in schedule], device=device)

    def count(self, tokens: Sequence[Tensor]) -> None:
        """Note the bits of a part of the step's images: one token map (B, h, w, D) per scale."""
        for now, maps in zip(self._now, tokens, strict=True):
            ones = maps.flatten(0, -2).sum(0)
            now += torch.stack([maps[..., 0].numel() - ones, ones], 1)

    def end_step(self) -> None:
        """Take what was counted, in all processes, into the running means."""
        counts = sum_over(self._now).float()
        self.frequency.lerp_(counts / counts.sum(2, keepdim=True), 1 / MEMORY)
        self._now.zero_()

    def resume(self, frequency: Tensor) -> None:
        """Go on from what was saved, and forget what was counted since the last step ended."""
        self.frequency = frequency.to(self.frequency)
        self._now.zero_()

    def measure(self) -> tuple[Tensor, Tensor]:
        """Entropy of a bit, in bits, and share of stuck bits, each (1 + K,) on the CPU: over all scales, then of
        each.
        """
        scales = self.frequency / self.frequency.sum(2, keepdim=True)
        whole = (scales * (self._tokens / self._tokens.sum())[:, None, None]).sum(0)
        entropy, stuck = bit_balance(torch.cat([whole[None], scales])[..., 1])
        return entropy.cpu(), stuck.cpu()
