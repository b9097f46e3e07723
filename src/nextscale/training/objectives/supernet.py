"""A supernet: one model that draws its fine scales through any of several subsets of its blocks (arXiv 2511.16546).

A step runs all blocks everywhere, or a subnet after the first scales; the share of steps that run one grows while the
model is trained. The coarse scales, which always run all blocks, keep every block in training: what a subnet's scales
see of them was made by all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.measures.generator import Scores, score_batches
from nextscale.models.base import Blocks, NextScaleModel
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Encoded
from nextscale.training.objectives.base import Metrics
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.order import SampleNoise

LOOKED_AT = 2000
"""Steps, evenly spread over a run, by which its price is estimated."""


@dataclass(frozen=True)
class ShareOfSubnets:
    """How many of the steps run a subnet: ``first`` of them in the beginning, all of them at the end; in between the
    share grows in a line, from ``joint`` to ``alone``, shares of the run.
    """

    first: float = 0.2
    joint: float = 1 / 6
    alone: float = 2 / 3

    def __call__(self, done: float) -> float:
        """At this share of the run."""
        if done >= self.alone:
            return 1.0
        if done <= self.joint:
            return self.first
        return self.first + (1 - self.first) * (done - self.joint) / (self.alone - self.joint)


@dataclass(frozen=True)
class SupernetLesson:
    """inner: the lesson at a depth, called with ``blocks``, those of every scale; full_scales: how many scales run all
    blocks at any depth; subnets: the blocks that may run after them, of ``depth``; share: how many of the steps run a
    subnet, all of which are drawn alike.
    """

    inner: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    depth: int
    full_scales: int
    subnets: tuple[tuple[int, ...], ...]
    share: ShareOfSubnets

    def __call__(
        self, model: Pupil, encoded: Encoded, features: Features, noise: SampleNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The inner lesson's loss at the depth that this step draws, which is logged."""
        subnet = self.drawn(noise)
        blocks = None if subnet is None else self.blocks(subnet, encoded.canvas.schedule)
        loss, parts = self.inner(model, encoded, features, noise, blocks=blocks)
        return loss, {**parts, "depth": torch.tensor(float(self.depth if subnet is None else len(subnet)))}

    def drawn(self, noise: SampleNoise) -> tuple[int, ...] | None:
        """The subnet of a step, the same in all of its parts; None: all blocks."""
        chance, which = noise.shared(2).tolist()
        return self.subnets[int(which * len(self.subnets))] if chance < self.share(noise.done) else None

    def blocks(self, subnet: tuple[int, ...], schedule: ScaleSchedule) -> list[Blocks]:
        """Which blocks run at each scale."""
        return [None if k < self.full_scales else subnet for k in range(len(schedule))]

    def trials(self, seed: int, steps: int) -> list[tuple[int, float]]:
        """A step of every depth that a run of so many draws, and how many of the steps are of that depth."""
        found = dict[tuple[int, ...] | None, list[int]]()
        for step in range(0, steps, max(1, steps // LOOKED_AT)):
            found.setdefault(self.drawn(SampleNoise(seed, step, 1, slice(None), step / steps)), []).append(step)
        looked_at = sum(map(len, found.values()))
        return [(of_depth[0], len(of_depth) / looked_at) for of_depth in found.values()]

    def measure(self, model: NextScaleModel, batches: Iterable[tuple[Encoded, Features]]) -> Metrics:
        """Held-out loss and accuracy at every depth, and their means over all depths."""
        every, images = dict[int, list[Scores]](), list[int]()
        for encoded, features in batches:
            images.append(features.images)
            for subnet in (tuple(range(self.depth)), *self.subnets):
                blocks = self.blocks(subnet, encoded.canvas.schedule)
                scores = score_batches(model, [(encoded, features)], blocks=blocks)
                every.setdefault(len(subnet), []).append(scores)
        totals = {depth: Scores.mean(parts, images).total for depth, parts in every.items()}
        found: dict[str, Any] = {}
        for name in ("loss", "accuracy"):
            found[name] = sum(getattr(score, name) for score in totals.values()) / len(totals)
            found |= {f"{name}_depth_{depth}": getattr(score, name) for depth, score in totals.items()}
        return found
