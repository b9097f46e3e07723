"""Paired differences have the error of their families."""

from __future__ import annotations

import pytest
import torch

from nextscale.measures.paired import Difference


def test_families_count_as_independent_and_not_their_images() -> None:
    differences = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    alone = Difference.of(differences, ["a", "b", "c", "d"])
    assert (alone.value, alone.images, alone.families) == (4.0, 4, 4)
    assert alone.error == pytest.approx(float(differences.std()) / 2)
    again = Difference.of(differences.repeat(5), ["a", "b", "c", "d"] * 5)
    assert (again.value, again.images, again.families) == (4.0, 20, 4)
    assert again.error == pytest.approx(alone.error)
    assert Difference.of(differences, ["a"] * 4).error == pytest.approx(0)
