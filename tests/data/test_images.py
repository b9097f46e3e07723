"""Squares are cropped where they are asked for, in memory and on demand alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.data.folder import load_folder
from nextscale.data.images import ImageData, InMemory, OnDemand
from nextscale.data.pictures import crop


def number(picture: Tensor) -> tuple[int, int]:
    """Row and column of the upper left corner, in a picture whose pixels say where they were."""
    return int(picture[0, 0, 0]), int(picture[1, 0, 0])


def chart(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows, columns, rows * 0]).to(torch.uint8)


def test_every_place_can_be_cropped_and_none_outside() -> None:
    tall = chart(20, 18)
    assert number(crop([tall], (16, 16))[0]) == (2, 1)
    grid = torch.tensor([[(y + 0.5) / 5, (x + 0.5) / 3] for y in range(5) for x in range(3)])
    found = [number(square) for square in crop([tall] * 15, (16, 16), grid)]
    assert found == [(y, x) for y in range(5) for x in range(3)]
    ends = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])
    assert [number(square) for square in crop([tall] * 2, (16, 16), ends)] == [(0, 0), (4, 2)]


def test_the_shorter_side_becomes_an_eighth_longer_than_the_resolution(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((100, 300, 3), np.uint8)).save(tmp_path / "wide.png")
    data = load_folder(tmp_path, 32, "all")
    assert isinstance(data.pictures, InMemory)
    assert data.pictures.pictures[0].shape == (3, 36, 108)
    assert data.read(torch.tensor([0])).shape == (1, 3, 32, 32)
    assert data.resolution == 32


def test_places_change_what_is_cropped(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    data, rows = load_folder(tmp_path, 32, "all"), torch.tensor([0])
    assert torch.equal(data.read(rows), data.read(rows, torch.tensor([[0.5, 0.5]])))
    assert torch.equal(data.read(rows), data.images)
    assert not torch.equal(data.read(rows), data.read(rows, torch.zeros(1, 2)))


def test_prefetched_rows_are_decoded_once() -> None:
    decoded: list[int] = []

    def decode(row: int) -> Tensor:
        decoded.append(row)
        return torch.full((3, 18, 18), row, dtype=torch.uint8)

    store = OnDemand(decode, 16)
    labels = torch.zeros(9, dtype=torch.int64)
    data = ImageData(store, labels, ["one"], "all", [str(i) for i in range(9)], "0", labels, [])
    data.prefetch(torch.tensor([5, 7]))
    data.prefetch(torch.tensor([7, 2]))
    rows = torch.tensor([7, 5, 7, 2])
    assert data.read(rows)[:, 0, 0, 0].tolist() == [7, 5, 7, 2]
    assert sorted(decoded) == [2, 5, 7]
    data.read(rows[:1])
    assert sorted(decoded) == [2, 5, 7, 7]  # nothing is kept longer than until it was read
