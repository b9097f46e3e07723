"""Near copies of training images are found, and nothing else is taken for one."""

from __future__ import annotations

import torch

from nextscale.measures.nearest import NEIGHBOURS, Neighbours


def test_training_images_themselves_are_all_near_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    training, heldout = torch.randn(27, 8, generator=generator), torch.randn(36, 8, generator=generator)
    near = Neighbours.of(training, heldout, training)
    assert near.copies.all()
    assert near.rows[:, 0].tolist() == list(range(27))
    assert not Neighbours.of(5 + heldout[:20], heldout, training).copies.any()


def test_fewer_training_images_have_fewer_neighbours() -> None:
    features = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    assert Neighbours.of(features, features, features).rows.shape == (9, NEIGHBOURS)
    assert Neighbours.of(features, features, features[:2]).rows.shape == (9, 2)
