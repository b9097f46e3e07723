"""Whether pictures are the drawings that were asked for: their places in galleries, by the features of a network.

Distances are Euclidean. Shape letters: ``N`` pictures, ``M`` drawings, ``D`` features, ``S`` seeds, ``P`` prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.measures.distances import ROWS

FIVE = 5
"""A drawing among so many nearest ones is found."""


@dataclass(frozen=True)
class Share:
    """A share of ``images`` pictures. spread: over seeds, the standard deviation (over S - 1) of their shares; None
    where there is one.
    """

    value: float
    spread: float | None
    images: int

    @classmethod
    def of(cls, hits: Tensor) -> Share:
        """The share of ``hits`` (S, P) bool that are True."""
        shares = hits.double().mean(1)
        return cls(float(shares.mean()), float(shares.std()) if len(hits) > 1 else None, hits.numel())


def places(features: Tensor, right: Tensor, drawings: Tensor, gallery: Tensor) -> Tensor:
    """How many drawings of its gallery are nearer to each picture than the right one is, (N,) int64: 0 where that is
    the first. A drawing that is as near as the right one, as a second copy of it is, does not count against it.

    features: (N, D); right: (N,) int64, rows of ``drawings`` (M, D); gallery: (N, M) bool, which of these count.
    """
    return _count(features, right, drawings, gallery, ties=False)


def nearest_alone(features: Tensor, right: Tensor, drawings: Tensor, others: Tensor) -> Tensor:
    """Whether each picture is nearer to the right drawing than to every one of ``others`` (N, M) bool; (N,) bool. A tie
    is no. Arguments as of :func:`places`.
    """
    return _count(features, right, drawings, others, ties=True) == 0


def _count(features: Tensor, right: Tensor, drawings: Tensor, among: Tensor, ties: bool) -> Tensor:
    needed = among.any(0).index_fill(0, right, True)  # the others' distances would be for nothing
    drawings, among, right = drawings[needed], among[:, needed], (needed.cumsum(0) - 1)[right]
    found = []
    for part, row, counted in zip(features.split(ROWS), right.split(ROWS), among.split(ROWS), strict=True):
        distances = torch.cdist(part, drawings, compute_mode="donot_use_mm_for_euclid_dist")
        own = distances.gather(1, row[:, None])
        found.append(((distances <= own if ties else distances < own) & counted).sum(1))
    return torch.cat(found)
