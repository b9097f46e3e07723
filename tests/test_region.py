"""What a model sees of a picture that is edited, and what comes back of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nextscale.errors import InputError
from nextscale.region import Region, region_of


def noise(width: int = 12, height: int = 10, mode: str = "RGB") -> Image.Image:
    shape = (height, width, len(mode))
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8).squeeze(), mode)


def boxed(picture: Image.Image, *box: int) -> Region:
    return region_of(picture, box=box)


@pytest.mark.parametrize(
    ("size", "box", "window"),
    [
        ((16, 16), (3, 3, 2, 2), (0, 0, 16, 16)),  # the model's size: all of it
        ((100, 80), (40, 30, 12, 12), (26, 36, 20, 20)),  # a third of 12 on each side
        ((100, 80), (40, 30, 12, 6), (23, 36, 20, 20)),  # around the longer side
        ((100, 80), (0, 74, 12, 6), (60, 0, 20, 20)),  # moved into the picture
        ((100, 80), (0, 0, 90, 6), (-10, 0, 100, 100)),  # never larger than around the picture
        ((30, 40), (0, 0, 30, 40), (0, -5, 40, 40)),
        ((30, 40), (4, 5, 1, 1), (4, 3, 2, 2)),
    ],
)
def test_the_window_is_the_smallest_square_with_context(
    size: tuple[int, int], box: tuple[int, ...], window: tuple[int, ...]
) -> None:
    """Windows are (top, left, height, width), boxes (x, y, width, height)."""
    assert boxed(Image.new("RGB", size), *box).window((16, 16)) == window


def test_what_would_be_too_large_to_be_seen_is_refused_before_it_is_made() -> None:
    """A line of pixels stands in a square of which only the line is there."""
    line = Image.new("RGB", (100_000, 1))
    with pytest.raises(InputError, match=r"would have to see 100,000x100,000 pixels, .* expected at most 80,000,000"):
        boxed(line, 0, 0, 100_000, 1).window((16, 16))
    assert boxed(line, 500, 0, 60, 1).window((16, 16)) == (-49, 480, 100, 100)


def test_the_window_has_the_shape_of_the_model() -> None:
    assert boxed(Image.new("RGB", (100, 100)), 40, 40, 12, 12).window((16, 32)) == (36, 26, 20, 40)


def test_the_whole_picture_is_seen_where_that_is_asked_for_and_its_middle_has_the_shape_of_a_model() -> None:
    small = boxed(Image.new("RGB", (31, 17)), 0, 0, 3, 3)
    assert small.window((16, 32)) == (0, 0, 5, 10)
    assert small.window((16, 32), whole=True) == (0, -1, 17, 34)
    assert small.middle((16, 16)) == (0, 7, 17, 17)
    assert small.middle((4, 62)) == (7, 0, 2, 31)
    assert small.middle((1, 1000)) == (8, 0, 1, 31)


def test_colours_go_on_into_a_blanked_region() -> None:
    """A mask between black and white is dark beside the one and bright beside the other, and white in white."""
    picture = Image.new("L", (24, 12))
    picture.paste(255, (12, 0, 24, 12))
    cut = np.asarray(boxed(picture, 8, 3, 8, 6).cut((0, 0, 12, 24), (12, 24), True)[0])[3:9, 8:16, 0].astype(int)
    assert (np.diff(cut, axis=1) >= 0).all()
    assert cut[:, 0].max() < 80
    assert cut[:, -1].min() > 175
    white = boxed(Image.new("RGB", (13, 7), "white"), 1, 1, 9, 5)
    assert (np.asarray(white.cut((0, 0, 7, 13), (7, 13), True)[0]) == 255).all()


def test_outside_of_the_picture_the_edge_goes_on() -> None:
    picture = noise(2, 4)
    region = region_of(picture, mask_image=np.array([[False, True]] * 4))
    cut, mask = region.cut(region.window((8, 8)), (4, 4), blank=False)
    columns = np.asarray(picture)[:, [0, 0, 1, 1]]
    assert np.array_equal(np.asarray(cut), columns)
    assert np.array_equal(mask, [[False, False, True, True]] * 4)


def test_a_blanked_region_leaks_nothing() -> None:
    """Whatever is masked, the model sees the same, also where the window is resized."""
    one, other = noise(30, 30), noise(30, 30)
    other.paste((255, 0, 0), (10, 10, 20, 20))
    regions = [boxed(picture, 10, 10, 10, 10) for picture in (one, other)]
    window = regions[0].window((16, 16))
    for blank in (True, False):
        first, second = (np.asarray(region.cut(window, (16, 16), blank)[0]) for region in regions)
        assert np.array_equal(first, second) == blank
    kept = np.ones((30, 30), dtype=bool)
    kept[10:20, 10:20] = False
    cut = np.asarray(regions[0].cut((0, 0, 30, 30), (30, 30), True)[0])
    assert np.array_equal(cut[kept], np.asarray(one)[kept])
    everything = boxed(one, 0, 0, 30, 30)
    assert np.asarray(everything.cut(everything.window((16, 16)), (16, 16), True)[0]).std() == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("box", [(3, 2, 4, 5), (0, 0, 12, 1), (11, 9, 1, 1), (0, 0, 12, 10)])
def test_pasted_pictures_change_nowhere_else(mode: str, box: tuple[int, ...]) -> None:
    picture = noise(mode=mode)
    region = boxed(picture, *box)
    painted, window = Image.new("RGB", (8, 8), (1, 2, 3)), region.window((8, 8))
    wanted = np.array(picture.convert("RGBA" if mode[-1] == "A" else "RGB"))
    x, y, width, height = box
    wanted[y : y + height, x : x + width, :3] = (1, 2, 3)
    assert np.array_equal(np.asarray(region.put_back(painted, window, paste=True)), wanted)
    unpasted = np.asarray(region.put_back(painted, window, paste=False))
    assert unpasted.shape == wanted.shape
    assert (unpasted[y : y + height, x : x + width, :3] == (1, 2, 3)).all()
    assert np.array_equal(unpasted[..., 3:], wanted[..., 3:])


def test_a_model_sees_transparency_on_white() -> None:
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    with pytest.warns(UserWarning, match="transparent wherever it is painted anew"):
        region = boxed(picture, 0, 0, 4, 4)
    assert (np.asarray(region.cut((0, 0, 8, 8), (8, 8), False)[0]) == 255).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_outpainting_adds_what_is_painted_and_keeps_the_rest(mode: str) -> None:
    picture = noise(mode=mode)
    region = region_of(picture, outpaint={"left": 3, "bottom": 2})
    assert region.size == (12, 15)
    assert np.array_equal(np.asarray(region.picture)[:10, 3:], np.asarray(picture))
    assert not region.mask[:10, 3:].any()
    assert region.mask.sum() == 15 * 12 - 12 * 10
    added = np.asarray(region.picture)[region.mask]
    assert (added[:, 3:] == 255).all()
    seen = np.asarray(region.cut((0, 0, 12, 15), (12, 15), False)[0])
    assert (seen[:10, :3] == seen[:10, 3:4]).all()  # the edge goes on


MASK = np.zeros((10, 12), dtype=bool)
MASK[2:5, 4:6] = True


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK.astype(np.uint8),
        MASK.astype(np.uint8) * 255,
        MASK.astype(np.float32) * 0.6,
        torch.from_numpy(MASK),
        torch.from_numpy(MASK).bfloat16(),
        Image.fromarray(MASK),
        Image.fromarray(MASK.astype(np.uint8) * 200),
        Image.fromarray(MASK.astype(np.uint8) * 255).convert("RGB"),
    ],
    ids=["bool", "0-1", "0-255", "float", "tensor", "bfloat16", "1", "L", "RGB"],
)
def test_a_mask_is_white_where_it_is_painted(mask: Any) -> None:
    found = region_of(noise(), mask_image=mask)
    assert np.array_equal(found.mask, MASK)
    assert found.source["mask_image"] == region_of(noise(), mask_image=MASK).source["mask_image"]


def test_a_picture_has_the_same_digest_in_every_file(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    noise().save(tmp_path / "b.bmp")
    digests = {region_of(tmp_path / name, box=(0, 0, 1, 1)).source["image"] for name in ("a.png", "b.bmp")}
    assert digests == {boxed(noise(), 5, 5, 1, 1).source["image"]}
    assert boxed(noise(10, 12), 5, 5, 1, 1).source["image"] not in digests


def test_a_photo_is_turned_before_its_box_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    noise().save(tmp_path / "turned.png", exif=exif)
    assert region_of(tmp_path / "turned.png", box=(0, 11, 10, 1)).size == (12, 10)


def test_of_several_frames_the_first_is_taken_which_is_said(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (12, 10))])
    with pytest.warns(UserWarning, match="hold several frames or pages, of which the first is taken"):
        assert np.asarray(region_of(tmp_path / "a.gif", box=(0, 0, 1, 1)).picture).any()
    with Image.open(tmp_path / "a.gif") as opened:
        opened.seek(1)
        with pytest.warns(
            UserWarning, match="the picture holds several frames or pages, of which the one that it stands at"
        ):
            assert not np.asarray(region_of(opened, box=(0, 0, 1, 1)).picture).any()


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "nothing says where to paint; expected one of mask_image, box, outpaint and refine_image"),
        (
            {"box": (0, 0, 1, 1), "outpaint": {"left": 1}},
            "box and outpaint were given; expected one of them",
        ),
        ({"box": (1, 2, 3)}, r"box is \(1, 2, 3\); expected four whole numbers, x, y, width and height in pixels"),
        ({"box": "1,2,3,4"}, "box is '1,2,3,4'; expected four whole numbers"),
        ({"box": (5, 5, 8, 5)}, r"box is \[5, 5, 8, 5\]; expected .* part of the picture, which has 12x10 pixels"),
        ({"box": (-1, 0, 2, 2)}, "part of the picture, which has 12x10 pixels"),
        ({"box": (0, 0, 0, 2)}, "part of the picture, which has 12x10 pixels"),
        ({"mask_image": np.ones((12, 10))}, "the mask has 10x12 pixels and the picture 12x10 .width x height."),
        ({"mask_image": Image.new("L", (6, 5))}, "the mask has 6x5 pixels and the picture 12x10"),
        ({"mask_image": np.full((10, 12), -1.0)}, "the mask has numbers from -1 to -1; expected 0 to 1, or to 255"),
        ({"mask_image": np.full((10, 12), np.nan)}, "the mask has numbers from nan to nan; expected 0 to 1"),
        ({"mask_image": "none.png"}, "there is no file none.png; expected a picture"),
        ({"mask_image": 5}, "the mask is 5; expected a PIL image, the name of a file, or an array .height, width."),
        ({"mask_image": torch.ones(1, 10, 12)}, r"the mask is an array \(1, 10, 12\); expected a PIL image"),
        ({"mask_image": np.ones((10, 12, 3))}, r"a picture is an array \(10, 12, 3\) of float64"),
        ({"outpaint": 16}, "outpaint is 16; expected a table of pixels to add left, right, top, bottom"),
        ({"outpaint": {"up": 16}}, "outpaint is {'up': 16}; expected a table of pixels"),
        ({"outpaint": {"left": -1}}, "outpaint is {'left': -1}; expected a table of pixels"),
        ({"outpaint": {"left": 0}}, "outpaint is {'left': 0}, which adds no pixel; expected at least one"),
        ({"outpaint": {"left": 999_999}}, "outpaint is {'left': 999999}; expected at most 8,944 pixels on a side"),
        (
            {"outpaint": {"left": 8_944, "top": 8_944}},
            "outpaint makes a picture of 8,956x8,954 pixels; expected at most 80,000,000",
        ),
    ],
)
def test_what_says_no_region_is_refused(asked: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        region_of(noise(), **asked)


def test_an_empty_mask_is_said() -> None:
    with pytest.warns(UserWarning, match="the mask is empty, so nothing is painted anew"):
        region = region_of(noise(30, 20), mask_image=np.zeros((20, 30)))
    assert region.window((8, 8)) == (-5, 0, 30, 30)
