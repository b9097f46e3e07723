"""Samples stand beside their nearest training images, none picked."""

from __future__ import annotations

from pathlib import Path

import torch

from nextscale.data.folder import load_data
from nextscale.evaluation.nearest import NearestPictures
from nextscale.measures.nearest import Neighbours


def test_samples_and_neighbours_stand_side_by_side(emoji: Path) -> None:
    """Nothing is picked; the tile beside a sample that is a training image shows the same pixels."""
    train = load_data(emoji, 16, "train")
    training = torch.randn(27, 8, generator=torch.Generator().manual_seed(0))
    near = Neighbours.of(training, training[:9] + 1, training)
    pictures = NearestPictures(train.images, tuple(train.names), near, train)
    assert pictures.shown().tolist() == [i * 27 // 24 for i in range(24)]
    page, factor, gap = pictures.picture(), 4, 8
    sample = page.crop((gap, gap, gap + 16 * factor, gap + 16 * factor))
    left = gap + 16 * factor + gap
    beside = page.crop((left, gap, left + 16 * factor, gap + 16 * factor))
    assert sample.tobytes() == beside.tobytes()
    assert page.width == gap + 10 * (16 * factor + gap)  # two samples in a row, four neighbours each
    assert pictures.curve().width > 500
