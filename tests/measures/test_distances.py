"""Distances obey their closed forms; copies are found; two sets of distances are compared as they should be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextscale.measures.distances import (
    ROWS,
    farther,
    features_of,
    frechet_distance,
    named_by,
    nearest,
    usual_distance,
)
from tests.evaluation.conftest import tiny_classifier

values = st.lists(st.integers(0, 6), min_size=1, max_size=20).map(
    lambda found: torch.tensor(found, dtype=torch.float32)
)


def some(count: int, seed: int = 0, width: int = 8) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_are_those_a_plain_search_finds() -> None:
    features, among = some(ROWS + 3), some(50, 1)
    distances, rows = nearest(features, among, 3)
    every = (features[:, None].double() - among.double()).norm(dim=-1)
    assert torch.equal(rows, every.argsort(1)[:, :3])
    assert torch.allclose(distances.double(), every.sort(1).values[:, :3], atol=1e-5)


def test_a_copy_lies_at_no_distance_however_large_its_features() -> None:
    """A matrix product would lose the small distances of near copies under the features' size."""
    among = some(40) + 1000
    assert nearest(among, among)[0].flatten().tolist() == [0.0] * 40
    beside = among + 1e-2 * torch.nn.functional.one_hot(torch.zeros(40, dtype=torch.int64), 8)
    assert nearest(beside, among)[0].flatten().tolist() == pytest.approx([1e-2] * 40, rel=0.01)


def test_the_unit_is_the_root_mean_square_distance_of_two_images() -> None:
    features = some(30)
    pairs = (features[:, None] - features).square().sum(-1)
    assert usual_distance(features) == pytest.approx(float(pairs.mean().sqrt()), rel=1e-5)


@given(values, values)
def test_the_chance_to_be_farther_counts_pairs_and_half_of_the_ties(a: Tensor, b: Tensor) -> None:
    pairs = (a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()
    assert farther(a, b) == pytest.approx(float(pairs.mean()))
    assert farther(a, b) + farther(b, a) == pytest.approx(1)


def test_the_frechet_distance_of_shifted_and_of_stretched_sets() -> None:
    a, shift = some(200), torch.arange(8.0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + shift) == pytest.approx(float(shift.square().sum()), rel=1e-5)
    centred = a - a.mean(0)
    trace = float(centred.double().var(0).sum())
    assert frechet_distance(centred, 3 * centred) == pytest.approx(4 * trace, rel=1e-5)
    assert frechet_distance(a, some(200, 1)) == pytest.approx(frechet_distance(some(200, 1), a), rel=1e-6)


def test_fewer_images_than_features_have_a_frechet_distance() -> None:
    assert frechet_distance(some(3), some(4, 1)) > 0


def test_batches_are_put_together_in_order() -> None:
    network = tiny_classifier(("a", "b"), ("x", "y", "z"))
    images = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(features_of(network, images.split(3)), network.features(images), atol=1e-5)
    said, expected = named_by(network, images.split(3)), network(images)
    assert torch.equal(said.classes, expected.classes.argmax(-1))
    assert torch.equal(said.styles, expected.styles.argmax(-1))
    assert named_by(tiny_classifier(("a", "b")), images.split(3)).styles.tolist() == [-1] * 7
