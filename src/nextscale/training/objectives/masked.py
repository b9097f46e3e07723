"""Masked tokens inside scales: what a further pass over a scale has to draw (arXiv 2506.04421, the second stage).

All scales are gone over at once. Of every scale after the first the same share is masked, at the same random places in
all images; what is not masked is given, beside the canvas of the coarser scales.

Shape letters: ``B`` batch, ``L`` tokens of all scales, ``l`` of one, ``V`` choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.models.base import Again, NextScaleModel
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Encoded, Tokenizer
from nextscale.training.objectives.base import Metrics
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.order import SampleNoise

HELD_OUT = 0.5
"""The share that is masked of held-out images."""


@dataclass(frozen=True)
class MaskedLesson:
    """tokenizer: frozen, draws what a pass is told of a scale's own tokens; label_smoothing: of the cross-entropy."""

    tokenizer: Tokenizer
    label_smoothing: float = 0.0

    def __call__(
        self, model: Pupil, encoded: Encoded, features: Features, noise: SampleNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, the mean over all masked tokens of the batch, which weigh the same."""
        share = noise.shared()
        masks = masks_of(encoded.canvas.schedule, float(share), noise.shared)
        logits, tokens = self._masked(model, encoded, features, masks)
        loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), label_smoothing=self.label_smoothing)
        accuracy = (logits.detach().argmax(-1) == tokens).float().mean()
        return loss, {"accuracy": accuracy, "masked": share}

    @torch.no_grad()
    def measure(self, model: NextScaleModel, batches: Iterable[tuple[Encoded, Features]]) -> Metrics:
        """Cross-entropy and accuracy of held-out images of which half of every scale is masked, at the same places
        whenever it is measured; per scale from the second on, and over all.
        """
        device, images = next(model.parameters()).device, 0
        sums: dict[int, Tensor] = {}
        for encoded, features in batches:
            generator = torch.Generator().manual_seed(0)
            masks = masks_of(encoded.canvas.schedule, HELD_OUT, partial(torch.rand, generator=generator))
            logits, tokens = self._masked(model, encoded, features.to(device), masks)
            losses = F.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none")
            found = torch.stack([losses, (logits.argmax(-1) == tokens).to(losses)]).sum(1).double().cpu()
            parts = found.split([int(mask.sum()) for mask in masks], 1)
            sums = {k: sums.get(k, 0) + part for k, part in enumerate(parts, 1)}
            images += features.images
        every = {"": torch.cat([*sums.values()], 1)} | {f"_{k}": part for k, part in sums.items()}
        means = {name: (part.mean(1) / images).tolist() for name, part in every.items()}
        losses_of = {f"loss{name}": loss for name, (loss, _) in means.items()}
        return losses_of | {f"accuracy{name}": accuracy for name, (_, accuracy) in means.items()}

    def _masked(self, model: Any, encoded: Encoded, features: Features, masks: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, m, V) of the m masked tokens of all scales, and what these are, (B, m)."""
        schedule, tokens = encoded.canvas.schedule, encoded.tokens
        device, told = tokens[0].device, list[Again | None]([None])
        placed = [mask.to(device) for mask in masks]
        for k, masked in enumerate(placed, 1):
            own = self.tokenizer.own_input(tokens[k], k, schedule, masked if model.hides_masked else None)
            told.append(Again(tokens[k], own, masked, 1))
        condition = model.condition(features, schedule=schedule)
        logits = model(encoded.inputs, condition, schedule, again=told).float()
        first = torch.zeros(1, schedule.lengths[0], dtype=torch.bool, device=device)
        places = torch.cat([first, *placed], 1)[0]
        return logits[:, places], torch.cat([one.flatten(1) for one in tokens], 1)[:, places]


def masks_of(schedule: ScaleSchedule, share: float, numbers: Callable[[int], Tensor]) -> list[Tensor]:
    """Of every scale after the first the places that are masked, (1, l) bool: a share, rounded up, and one at least.
    numbers: gives so many random ones.
    """
    masks = []
    for length in schedule.lengths[1:]:
        chosen = numbers(length).argsort()[: max(1, math.ceil(share * length))]
        masks.append(torch.zeros(1, length, dtype=torch.bool).index_fill(1, chosen, True))
    return masks
