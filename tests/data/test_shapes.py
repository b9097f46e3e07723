"""Images that keep their aspect ratios belong to the nearest shape, cover it, and are read in batches of one shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.data.emoji import build_emoji
from nextscale.data.emoji_sources import Package
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.scales import Size

SHAPES = [(32, 32), (48, 32), (24, 48)]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))


def save(folder: Path, sizes: list[Size]) -> Path:
    """Pictures of these sizes (height, width) whose red rises downwards and whose green rises to the right."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (height, width) in enumerate(sizes):
        rows, columns = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
        Image.fromarray(np.stack([rows, columns, rows * 0], -1).astype(np.uint8)).save(folder / f"{i:02}.png")
    return folder


@pytest.mark.parametrize("memory", [None, 0])
def test_every_image_has_the_nearest_shape_and_covers_it(tmp_path: Path, memory: int | None) -> None:
    sizes = [(100, 100), (150, 100), (50, 100), (124, 100), (126, 100), (74, 100), (76, 100), (400, 100)]
    data = load_data(save(tmp_path / "d", sizes), None, "all", memory, shapes=SHAPES)
    assert data.shapes == tuple(SHAPES)
    assert data.shape_labels.dtype == torch.int64
    assert data.shape_labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    for place, shape in enumerate(SHAPES):
        rows = (data.shape_labels == place).nonzero()[:, 0]
        assert data.read(rows).shape == (len(rows), 3, *shape)
    whole = data.read(torch.tensor([1]))[0]  # nothing of it is cropped
    assert (int(whole[0, 0].max()) < 8, int(whole[0, -1].min()) > 247) == (True, True)
    assert (int(whole[1, :, 0].max()) < 8, int(whole[1, :, -1].min()) > 247) == (True, True)
    tall = data.read(torch.tensor([7]))[0].float()  # 400 x 100 in 48 x 32: the middle, all of its width
    assert int(tall[1, :, 0].max()) < 8
    assert float(tall[0].mean()) == pytest.approx(127.5, abs=2)
    assert float(tall[0, 0].mean()) == pytest.approx(255 * (0.5 - 48 / 32 / 8), abs=4)


def test_places_move_what_is_cropped(tmp_path: Path) -> None:
    data = load_data(save(tmp_path / "d", [(100, 25)]), None, "all", shapes=[(20, 20)])
    ends = [data.read(torch.tensor([0]), torch.tensor([[y, 0.5]]))[0, 0] for y in (0.0, 1 - 2**-24)]
    assert int(ends[0][0].max()) < 8
    assert int(ends[1][-1].min()) > 247


def test_rows_of_two_shapes_are_refused(tmp_path: Path) -> None:
    data = load_data(save(tmp_path / "d", [(50, 50), (75, 50)]), None, "all", shapes=SHAPES)
    with pytest.raises(InputError, match="2 images have 32 x 32 and 48 x 32 pixels; expected one"):
        data.read(torch.tensor([0, 1]))
    with pytest.raises(InputError, match="images in 32 x 32 and 48 x 32 and 24 x 48 pixels have no one resolution"):
        _ = data.resolution


def test_images_smaller_than_their_shape_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", [(50, 50), (47, 32), (24, 48), (20, 30)])
    with pytest.raises(
        InputError, match=r"2 of 4 images are smaller than the shapes nearest .*01\.png \(32 x 47\); .*sh"
    ):
        load_data(folder, None, "all", shapes=SHAPES)
    with pytest.warns(UserWarning, match="2 of 4 images are smaller than the shapes nearest to them and left out"):
        data = load_data(folder, None, "all", skip_small=True, shapes=SHAPES)
    assert (data.names, data.shape_labels.tolist()) == (["00.png", "02.png"], [0, 2])


def test_shapes_are_part_of_what_the_data_are(tmp_path: Path) -> None:
    folder = save(tmp_path / "d", [(50, 50)])
    ways = [(32, None), (None, [(32, 32)]), (None, SHAPES), (None, SHAPES[::-1])]
    assert len({load_data(folder, side, "all", shapes=shapes).hash for side, shapes in ways}) == 4
    plain = load_data(folder, 32, "all")
    assert (plain.shapes, plain.shape_labels.tolist()) == ((), [0])


@pytest.mark.parametrize("shapes", [[], [(32, 0)], [(32, 32), (32,)], [(32, 32.0)]])
def test_shapes_that_cannot_be(tmp_path: Path, shapes: list[Size]) -> None:
    with pytest.raises(InputError, match=r"shapes are .*; expected one or more \(height, width\) in whole pixels"):
        load_data(save(tmp_path / "d", [(50, 50)]), None, shapes=shapes)


def test_a_resolution_and_shapes_exclude_each_other(tmp_path: Path) -> None:
    for resolution, shapes in ((32, SHAPES), (None, None)):
        with pytest.raises(InputError, match=r"resolution is .* and shapes are .*; expected one of the two"):
            load_data(save(tmp_path / "d", [(50, 50)]), resolution, shapes=shapes)


def test_emoji_have_the_square_shape(tmp_path: Path, packages: dict[str, Package]) -> None:
    folder = build_emoji(tmp_path / "set", ("noto",), 16, packages=packages).folder
    data = load_data(folder, None, "all", shapes=[(24, 8), (16, 16)])
    assert (data.shape_labels.tolist(), data.shapes) == ([1] * len(data), ((24, 8), (16, 16)))
    assert torch.equal(data.read(torch.arange(3)), load_data(folder, 16, "all").images[:3])
    with pytest.raises(
        InputError, match="drawn at 16 pixels; expected a square among the shapes, but the nearest is 24"
    ):
        load_data(folder, None, "all", shapes=[(24, 8)])
