"""The tale's second lesson: places that a later pass would draw, with noise of the step and of the images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.tokenizers.base import Encoded
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.order import SampleNoise


def masked(model: Pupil, encoded: Encoded, features: Features, noise: SampleNoise) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the places that are masked: a share of the step's own, at places of each image's."""
    share = noise.shared()
    logits = model(encoded.inputs, model.condition(features), encoded.canvas.schedule)
    truth = torch.cat([tokens.flatten(1) for tokens in encoded.tokens], 1)
    hidden = (noise.uniform(truth.shape[1]) <= share).to(truth.device)
    hidden[:, 0] = True
    losses = F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none").view_as(truth)
    return ((losses * hidden).sum(1) / hidden.sum(1)).mean(), {"share": share}
