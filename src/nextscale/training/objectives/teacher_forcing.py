"""Teacher forcing: every scale is predicted from the true coarser ones, all at once (arXiv 2404.02905).

Shape letters: ``B`` batch, ``L`` tokens of all scales, ``d`` draws of a token, ``V`` choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.errors import InputError
from nextscale.models.base import Blocks
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Encoded
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.order import SampleNoise

Weights = Literal["balanced", "lognorm", "equal"] | Sequence[float] | None
"""How much a token of each scale counts: see ``GeneratorLoss``."""


def teacher_forcing(
    model: Pupil,
    encoded: Encoded,
    features: Features,
    noise: SampleNoise,
    *,
    label_smoothing: float = 0.0,
    scale_weights: Weights = None,
    blocks: Sequence[Blocks] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy, the mean over all draws of all tokens. The keywords are as in ``GeneratorLoss``; blocks: which run
    at each scale.
    """
    schedule = encoded.canvas.schedule
    logits = model(encoded.inputs, model.condition(features, schedule=schedule), schedule, blocks=blocks).float()
    targets = torch.cat([tokens.flatten(1, 2) for tokens in encoded.tokens], 1)  # (B, L) or (B, L, d)
    losses = F.cross_entropy(
        logits.flatten(0, -2), targets.flatten(), reduction="none", label_smoothing=label_smoothing
    ).view_as(targets)
    weights = token_weights(scale_weights, schedule).to(losses.device)
    accuracy = (logits.detach().argmax(-1) == targets).float().mean()
    return (losses * weights.view(-1, *[1] * (losses.ndim - 2))).mean(), {"accuracy": accuracy}


def token_weights(scale_weights: Weights, schedule: ScaleSchedule) -> Tensor:
    """How much each token (L,) counts in a loss; the mean is 1. Of more weights than scales the first are taken."""
    if scale_weights is None:
        return torch.ones(schedule.tokens)
    if isinstance(scale_weights, str):
        shares = {"balanced": roots, "equal": equal, "lognorm": lognorm}[scale_weights](schedule)
        scale_weights = [share / length for share, length in zip(shares, schedule.lengths, strict=True)]
    weights = torch.tensor(scale_weights[: len(schedule)])
    repeated = weights.repeat_interleave(torch.tensor(schedule.lengths))
    return repeated / repeated.mean()


def roots(schedule: ScaleSchedule) -> list[float]:
    """Shares of the loss (arXiv 2412.04431): a token weighs in inverse proportion to the root of its scale's tokens."""
    return [length**0.5 for length in schedule.lengths]


def equal(schedule: ScaleSchedule) -> list[float]:
    """The same share for every scale. The authors of arXiv 2506.04421 let these add up to the number of scales, and
    ours to 1.
    """
    return [1.0] * len(schedule)


def lognorm(schedule: ScaleSchedule) -> list[float]:
    """Shares of a bell over scales (arXiv 2506.04421): the normal density at the sides of the maps, relative to the
    last one, in reversed order, standardised (sample deviation).
    """
    sides = torch.tensor([math.sqrt(length) for length in schedule.lengths], dtype=torch.float64)
    ratios = sides / sides[-1]
    density = torch.exp(-(((ratios.flip(0) - ratios.mean()) / ratios.std()) ** 2) / 2)
    found: list[float] = (density / density.sum()).tolist()
    return found


def check_weights(scale_weights: Weights, schedule: ScaleSchedule) -> None:
    """Raises ``InputError`` where there are not as many weights as scales, or the scales are too alike for a bell."""
    if scale_weights == "lognorm" and len(set(schedule.lengths)) < 2:
        raise InputError(f"loss.scale_weights is lognorm, but the scales {schedule} are of one size; leave it out")
    if scale_weights is not None and not isinstance(scale_weights, str) and len(scale_weights) != len(schedule):
        raise InputError(
            f"loss.scale_weights has {len(scale_weights)} numbers; expected one for each of the tokenizer's "
            f"{len(schedule)} scales"
        )
