"""The toy's lesson: the squared error of every bit's probability, from the true coarser scales."""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.tokenizers.base import Encoded
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.order import SampleNoise


def squared_error(
    model: Pupil, encoded: Encoded, features: Features, noise: SampleNoise
) -> tuple[Tensor, dict[str, Tensor]]:
    """Brier's score of the bits, and how far each is from certain."""
    logits = model(encoded.inputs, model.condition(features), encoded.canvas.schedule)
    truth = torch.cat([tokens.flatten(1, 2) for tokens in encoded.tokens], 1)
    chance = logits.softmax(-1)[..., 1]
    return (chance - truth).square().mean(), {"certainty": (chance - 0.5).abs().mean().detach()}
