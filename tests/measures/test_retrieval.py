"""Places in a gallery are those of all distances sorted; what is equally near is counted as its words say."""

from __future__ import annotations

import pytest
import torch

from nextscale.measures.retrieval import Share, nearest_alone, places


def test_a_place_counts_the_nearer_drawings_of_the_gallery_alone() -> None:
    drawings, features = torch.randn(20, 5), torch.randn(300, 5)
    right, gallery = torch.randint(20, (300,)), torch.rand(300, 20) < 0.6
    gallery[torch.arange(300), right] = True
    found = places(features, right, drawings, gallery)
    for i in range(300):
        rows = gallery[i].nonzero()[:, 0].tolist()
        nearest_first = sorted(rows, key=lambda row: float((drawings[row] - features[i]).norm()))
        assert nearest_first[int(found[i])] == int(right[i])
    assert torch.equal(
        nearest_alone(features, right, drawings, gallery & (torch.arange(20) != right[:, None])), found == 0
    )


def test_a_second_copy_of_the_right_drawing_does_not_hide_it_but_is_no_other_style() -> None:
    drawings = torch.tensor([[0.0], [0.0], [3.0]])
    features, right, others = torch.tensor([[1.0]]), torch.tensor([0]), torch.tensor([[False, True, True]])
    assert places(features, right, drawings, torch.ones(1, 3, dtype=torch.bool)).tolist() == [0]
    assert nearest_alone(features, right, drawings, others).tolist() == [False]
    assert nearest_alone(features, right, drawings, others & torch.tensor([True, False, True])).tolist() == [True]


def test_the_spread_is_that_of_the_seeds() -> None:
    hits = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = Share.of(hits)
    assert (found.value, found.images) == (0.75, 8)
    assert found.spread == pytest.approx(0.5 / 2**0.5)
    assert Share.of(hits[:1]) == Share(0.5, None, 4)
