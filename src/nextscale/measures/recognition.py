"""How often a classifier recognises generated images, relative to real ones of the same labels.

Shape letters: ``N`` generated images, ``M`` real ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

WIDE = 3
"""Held-out families from which on a class counts: accuracy says little about a class of one or two things."""


@dataclass(frozen=True)
class Rate:
    """A share of ``images`` images, with its standard error."""

    value: float
    error: float
    images: int

    @classmethod
    def of(cls, hits: Tensor) -> Rate:
        """The share of ``hits`` (N,) bool, N at least 1, that are True; images count as independent."""
        value = float(hits.double().mean())
        return cls(value, (value * (1 - value) / len(hits)) ** 0.5, len(hits))


@dataclass(frozen=True)
class Ratio:
    """How often generated images are recognised, how often real ones are, and the one divided by the other."""

    generated: Rate
    real: Rate
    value: float
    error: float


def recognition(
    hits: Tensor, labels: Tensor, real_hits: Tensor, real_labels: Tensor, families: Sequence[str]
) -> Ratio | None:
    """Compare generated images, hits (N,) bool and labels (N,), with real ones, (M,) both and their families.

    Real images are weighted so that every label counts as often as among the generated ones; those of other labels do
    not count. Their standard error takes families as independent, not images. None where there is nothing to compare.
    """
    if not len(hits):
        return None
    asked, there = torch.bincount(labels), torch.bincount(real_labels, minlength=int(labels.max()) + 1)
    assert bool((there[: len(asked)] > 0)[asked > 0].all()), "a label of the generated images has no real image"
    asked = torch.nn.functional.pad(asked, (0, len(there) - len(asked))).double()
    weights = (asked / len(hits) / there.clamp_min(1))[real_labels]
    right = torch.zeros(len(there), dtype=torch.float64).index_add(0, real_labels, real_hits.double())
    real = float((weights * real_hits).sum())
    if not real:
        return None
    apart = weights * (real_hits.double() - (right / there.clamp_min(1))[real_labels])
    generated, real_error = Rate.of(hits), error_by_family(apart, families)
    value = generated.value / real
    error = (generated.error**2 + (value * real_error) ** 2) ** 0.5 / real
    return Ratio(generated, Rate(real, real_error, int((weights > 0).sum())), value, error)


def error_by_family(apart: Tensor, families: Sequence[str]) -> float:
    """The standard error of a sum of numbers whose deviations are ``apart`` (N,), with families as independent."""
    numbers = {family: i for i, family in enumerate(dict.fromkeys(families))}
    of_family = torch.tensor([numbers[family] for family in families])
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add(0, of_family, apart.double())
    return float(sums.square().sum()) ** 0.5


def wide_classes(labels: Tensor, families: Sequence[str]) -> Tensor:
    """Ids of the classes of which ``WIDE`` or more families are among images with ``labels`` (M,) and ``families``."""
    known: dict[int, set[str]] = {}
    for label, family in zip(labels.tolist(), families, strict=True):
        known.setdefault(label, set()).add(family)
    return torch.tensor([label for label, found in sorted(known.items()) if len(found) >= WIDE], dtype=torch.int64)
