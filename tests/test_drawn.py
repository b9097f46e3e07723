"""A picture carries its recipe into every PNG as long as its pixels are those that were drawn, and no longer."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from nextscale.drawn import DrawnImage
from nextscale.errors import InputError
from nextscale.pictures import read_recipe, save_png

RECIPE = {"class_label": "café", "seed": 3}


def picture() -> DrawnImage:
    image = Image.new("RGB", (8, 6), "red")
    image.putpixel((2, 1), (1, 2, 3))
    return DrawnImage(image, RECIPE)


def carried(image: Image.Image, path: Path) -> Any:
    """The recipe of a picture once it is saved as a PNG, None if it has none."""
    image.save(path)
    try:
        return read_recipe(path)
    except InputError:
        return None


def test_a_saved_picture_has_the_pixels_and_the_recipe(tmp_path: Path) -> None:
    assert carried(picture(), tmp_path / "a.png") == RECIPE
    with Image.open(tmp_path / "a.png") as again:
        assert again.tobytes() == picture().tobytes()


@pytest.mark.parametrize(
    "same",
    [copy.copy, copy.deepcopy, lambda image: image.copy(), lambda image: pickle.loads(pickle.dumps(image))],
    ids=["copy", "deepcopy", "its copy", "pickled"],
)
def test_the_same_picture_elsewhere_carries_it_too(same: Callable[[Any], Any], tmp_path: Path) -> None:
    assert same(picture()) == picture()
    assert carried(same(picture()), tmp_path / "a.png") == RECIPE


def painted(image: Image.Image) -> Image.Image:
    ImageDraw.Draw(image).line((0, 0, 5, 5), fill="blue")
    return image


def smaller(image: Image.Image) -> Image.Image:
    image.thumbnail((4, 4))
    return image


def pasted(image: Image.Image) -> Image.Image:
    image.paste("blue", (0, 0, 2, 2))
    return image


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.crop((0, 0, 4, 4)),
        lambda image: image.resize((16, 12)),
        lambda image: image.rotate(90),
        lambda image: image.convert("L"),
        lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        painted,
        smaller,
        pasted,
        lambda image: pasted(image.copy()),
        lambda image: copy.copy(painted(image)),
        lambda image: pickle.loads(pickle.dumps(painted(image))),
    ],
)
def test_a_changed_picture_carries_no_recipe(change: Callable[[Any], Any], tmp_path: Path) -> None:
    assert carried(change(picture()), tmp_path / "a.png") is None


def test_all_ways_to_write_a_png_carry_it(tmp_path: Path) -> None:
    picture().save(str(tmp_path / "a.PNG"))
    picture().save(tmp_path / "b", format="png")
    with (tmp_path / "c.png").open("wb") as file:
        picture().save(file)
    memory = BytesIO()
    picture().save(memory, "PNG")
    (tmp_path / "d.png").write_bytes(memory.getvalue())
    (tmp_path / "e.png").write_bytes(picture()._repr_png_() or b"")
    for name in ("a.PNG", "b", "c.png", "d.png", "e.png"):
        assert read_recipe(tmp_path / name) == RECIPE


def test_texts_of_the_user_stay_and_a_recipe_that_was_given_goes_first(tmp_path: Path) -> None:
    texts = PngInfo()
    texts.add_text("Author", "me")
    picture().save(tmp_path / "a.png", pnginfo=texts)
    with Image.open(tmp_path / "a.png") as image:
        assert set(image.text) == {"Author", "nextscale"}  # type: ignore[attr-defined]
    assert len(texts.chunks) == 1
    save_png(picture(), tmp_path / "b.png", {"seed": 9})
    assert read_recipe(tmp_path / "b.png") == {"seed": 9}


def test_other_formats_are_written_as_ever(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.webp", "a.gif", "a.bmp"):
        picture().save(tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.size == (8, 6)
