"""Two numbers for each image, compared: the mean of their differences, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """A mean over ``images`` images, with its standard error, which takes families as independent, not images."""

    value: float
    error: float
    images: int
    families: int

    @classmethod
    def of(cls, differences: Tensor, families: Sequence[str]) -> Difference:
        """The mean of ``differences`` (N,), one for each image, whose families these are; N at least 1. The error of
        one family is 0.
        """
        values, numbers = differences.double(), {family: i for i, family in enumerate(dict.fromkeys(families))}
        of_family = torch.tensor([numbers[family] for family in families])
        apart = torch.zeros(len(numbers), dtype=torch.float64).index_add(0, of_family, values - values.mean())
        corrected = len(numbers) / max(1, len(numbers) - 1)
        error = (corrected * float(apart.square().sum())) ** 0.5 / len(values)
        return cls(float(values.mean()), error, len(values), len(numbers))
