"""Near copies are found and marked; samples stand beside their nearest training images, none picked."""

from __future__ import annotations

from pathlib import Path

import torch

from nextscale.data.folder import load_data
from nextscale.evaluation.nearest import Neighbours
from nextscale.evaluation.subject import Judge


def test_training_images_themselves_are_all_near_copies(judge: Judge, emoji: Path) -> None:
    train = load_data(emoji, 16, "train")
    generator = torch.Generator().manual_seed(0)
    training, heldout = torch.randn(27, 8, generator=generator), torch.randn(36, 8, generator=generator)
    near = Neighbours.of(train.images, train.names, training, heldout, training, train)
    assert near.copies.all()
    assert near.rows[:, 0].tolist() == list(range(27))
    fresh = Neighbours.of(train.images[:20], train.names[:20], 5 + heldout[:20], heldout, training, train)
    assert not fresh.copies.any()


def test_samples_and_neighbours_stand_side_by_side(judge: Judge, emoji: Path) -> None:
    """Nothing is picked; the tile beside a sample that is a training image shows the same pixels."""
    train = load_data(emoji, 16, "train")
    training = torch.randn(27, 8, generator=torch.Generator().manual_seed(0))
    near = Neighbours.of(train.images, train.names, training, training[:9] + 1, training, train)
    assert near.shown().tolist() == [i * 27 // 24 for i in range(24)]
    page, factor, gap = near.picture(), 4, 8
    sample = page.crop((gap, gap, gap + 16 * factor, gap + 16 * factor))
    left = gap + 16 * factor + gap
    beside = page.crop((left, gap, left + 16 * factor, gap + 16 * factor))
    assert sample.tobytes() == beside.tobytes()
    assert page.width == gap + 10 * (16 * factor + gap)  # two samples in a row, four neighbours each
    assert near.curve().width > 500
