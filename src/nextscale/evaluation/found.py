"""Pictures held against the drawings of an emoji set, in a classifier's features: which ones they are taken for.

Shape letters: ``S`` seeds, ``P`` prompts, ``N`` pictures, ``M`` drawings, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.evaluation.drawings import Drawings, Kin
from nextscale.measures.distances import nearest, usual_distance
from nextscale.measures.nearest import Neighbours
from nextscale.measures.retrieval import FIVE, Share, nearest_alone, places

SIDE = 64
"""Pixels of the pictures that are judged."""


@dataclass(frozen=True)
class Found:
    """How often pictures are taken for the right drawings.

    first, five: the right one is the nearest of its gallery, or among the five nearest; own: among the five, and nearer
    than the same emoji in any other style; new: the same, and no near copy of a training picture; style: the
    classifier names the right style. None where there are no other styles, where copies are not looked for, or where
    the classifier does not know the styles.
    """

    five: Share
    first: Share
    own: Share | None = None
    new: Share | None = None
    style: Share | None = None


@dataclass(frozen=True)
class Retrieval:
    """What was found of the pictures of some prompts, and of their controls, by what they are.

    copies: share of near copies among the drawn pictures; threshold: the distance they are told by, as a share of the
    usual distance of two drawings. None where copies are not looked for.
    """

    name: str
    prompts: int
    rows: Mapping[str, Found]
    copies: Share | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class Copies:
    """Which pictures are near copies of training pictures, by ``measures/nearest.py``.

    training: features (M, D); heldout: distances of held-out drawings to the nearest of them.
    """

    training: Tensor
    heldout: Tensor

    def near(self, features: Tensor) -> Neighbours:
        """The nearest training picture of each of ``features`` (N, D)."""
        return Neighbours(*nearest(features, self.training), self.heldout)


@dataclass(frozen=True)
class Galleries:
    """All drawings, and their features (M, D) in the order of their rows."""

    drawings: Drawings
    features: Tensor

    @property
    def unit(self) -> float:
        """The usual distance of two drawings."""
        return usual_distance(self.features)

    def copies(self, row: int) -> Copies:
        """What tells near copies from what was drawn of the side of a drawing that is held out."""
        sides = self.drawings.sides
        training = self.features[[row for row, found in enumerate(sides) if found == "train"]]
        return Copies(training, nearest(self.features[self.drawings.asked(sides[row])], training)[0][:, 0])

    def found(self, features: Tensor, rows: Sequence[int], copies: Copies | None = None) -> Found:
        """What pictures (S, P, D) are taken for; rows: the right drawings."""
        seeds, drawings = len(features), self.drawings
        flat, right = features.flatten(0, 1), torch.tensor(rows).repeat(seeds)
        at = places(flat, right, self.features, drawings.gallery(rows).repeat(seeds, 1)).view(seeds, -1)
        found = Found(Share.of(at < FIVE), Share.of(at == 0))
        if len(drawings.styles) < 2:
            return found
        elsewhere = drawings.elsewhere(rows).repeat(seeds, 1)
        own = (at < FIVE) & nearest_alone(flat, right, self.features, elsewhere).view(seeds, -1)
        new = None if copies is None else Share.of(own & ~copies.near(flat).copies.view(seeds, -1))
        return replace(found, own=Share.of(own), new=new)

    def controls(self, kind: Kin, rows: Sequence[int], seeds: int) -> tuple[Tensor, list[int]]:
        """Features (S, P', D) of real drawings that belong to those of ``rows``, another one for each seed where there
        are several, and the P' of ``rows`` that have one.
        """
        kin = {row: found for row in rows if (found := self.drawings.kin(row, kind))}
        others = [[found[seed % len(found)] for found in kin.values()] for seed in range(seeds)]
        return self.features[torch.tensor(others, dtype=torch.int64)], list(kin)

    def nearer(self, features: Tensor, rows: Sequence[int], others: Sequence[int]) -> Tensor:
        """Whether each picture (S, P, D) is nearer to its own drawing, of ``rows``, than to that of ``others``: (S, P)
        bool.
        """
        among = torch.zeros(len(rows), len(self.drawings), dtype=torch.bool)
        among[torch.arange(len(rows)), torch.tensor(others)] = True
        right = torch.tensor(rows).repeat(len(features))
        found = nearest_alone(features.flatten(0, 1), right, self.features, among.repeat(len(features), 1))
        return found.view(len(features), -1)

    def nearest(self, features: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The places of the right drawings, and the rows of the nearest ones, of pictures (N, D); rows: the right
        drawings (N).
        """
        gallery = self.drawings.gallery(rows)
        distances = torch.cdist(features, self.features).masked_fill(~gallery, torch.inf)
        return places(features, torch.tensor(rows), self.features, gallery), distances.argmin(1)


def brought(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) at the size they are judged at, by area."""
    return images if images.shape[2:] == (SIDE, SIDE) else F.interpolate(images, (SIDE, SIDE), mode="area")
