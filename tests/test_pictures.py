"""Pictures are laid out where they should be, carry their recipe, and are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence, PngImagePlugin

from nextscale.errors import InputError
from nextscale.pictures import (
    GAP,
    MOST_LINES,
    MOST_PIXELS,
    enlarged,
    factor_for,
    grid,
    open_picture,
    page_scale,
    read_recipe,
    save_animation,
    save_beside,
    save_png,
    strip,
)

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour: tuple[int, int, int], side: int = 16) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def noise(side: int) -> Image.Image:
    return Image.effect_noise((side, side), 100).convert("RGB")


def test_a_grid_shows_every_picture_in_reading_order() -> None:
    page = grid([plain(RED), plain(GREEN), plain(BLUE)], columns=2, scale=2)
    cell = 2 * 16 + GAP
    assert page.size == (GAP + 2 * cell, GAP + 2 * cell)
    centres = [(GAP + x * cell + 16, GAP + y * cell + 16) for y in (0, 1) for x in (0, 1)]
    assert [page.getpixel(at) for at in centres] == [RED, GREEN, BLUE, (255, 255, 255)]


def test_a_grid_of_sixteen_is_square() -> None:
    page = grid([plain(RED)] * 16)
    assert page.width == page.height == GAP + 4 * (16 + GAP)


def test_labels_stand_under_their_pictures_and_inside_their_width() -> None:
    bare, labelled = grid([plain(RED, 64)] * 2), grid([plain(RED, 64)] * 2, labels=["a", "a very long name indeed"])
    foot = labelled.height - bare.height
    assert foot > 0
    below = labelled.crop((0, bare.height - GAP, labelled.width, labelled.height))
    ink = [x for x in range(below.width) if any(below.getpixel((x, y)) != (255, 255, 255) for y in range(below.height))]
    assert min(ink) > GAP
    assert max(ink) <= labelled.width - GAP


def ink_of(page: Image.Image) -> int:
    """How many pixels of a page are not white."""
    return sum(page.convert("L").point(lambda level: level < 255).histogram()[1:])


def test_long_labels_are_written_whole_on_several_lines() -> None:
    """All their words are there: as much ink as the words need one by one, under as many lines as they take."""
    words = ["a", "cool", "smiling", "face", "with", "sunglasses,", "in", "the", "style", "of", "twemoji"]
    labelled, bare = grid([plain((255, 255, 255), 96)], labels=[" ".join(words)]), grid([plain((255, 255, 255), 96)])
    alone = [grid([plain((255, 255, 255), 96)], labels=[word]) for word in words]
    assert ink_of(labelled) == pytest.approx(sum(map(ink_of, alone)), rel=0.02)
    line = alone[0].height - bare.height
    assert labelled.height - bare.height > 4 * (line - 3)
    beyond = grid([plain(RED, 96)], labels=["endless " * 1000])
    assert beyond.height - bare.height == MOST_LINES * (line - 3) + 3


def test_letters_that_the_font_lacks_lose_their_accents() -> None:
    """Composed or not; a box would say nothing."""
    for label, written in (("piñata", "pinata"), ("pin\u0303ata", "pinata"), ("“man’s” …", "“man’s” …")):
        pages = [grid([plain(RED, 64)], labels=[text]) for text in (label, written)]
        assert pages[0].tobytes() == pages[1].tobytes()


def test_only_rows_with_long_labels_are_higher() -> None:
    short, long = "cat", "a cat on a mat in a house by the sea"
    both, first = (grid([plain(RED, 64)] * 2, 1, labels=[long, last]) for last in (long, short))
    none = grid([plain(RED, 64)] * 2, 1, labels=[short, short])
    assert both.height - first.height == first.height - none.height > 0


@pytest.mark.parametrize("label", ["", " ", "x" * 500, "two\nlines", "tab\there", "…", "猫 " * 90])
def test_a_label_may_be_any_text(label: str) -> None:
    page = grid([plain(RED, 32)], labels=[label])
    below = page.crop((0, GAP + 32, page.width, page.height))
    ink = [x for x in range(below.width) if any(below.getpixel((x, y)) != (255, 255, 255) for y in range(below.height))]
    assert not ink or (min(ink) >= GAP - 1 and max(ink) <= page.width - GAP)


def test_labels_give_way_where_a_page_would_be_too_large_to_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, labels = [plain(RED, 64)] * 100, ["a very long name for so small a picture"] * 100
    room = grid(pictures, labels=["cat"] * 100).size
    assert grid(pictures, labels=labels).height > room[1]
    monkeypatch.setattr("nextscale.pictures.MOST_PIXELS", room[0] * room[1] + 20_000)
    assert grid(pictures, labels=labels).size == room


def test_pictures_that_grow_are_shown_at_the_size_of_the_largest() -> None:
    small = plain(RED)
    large = plain(GREEN).resize((small.width * 3, small.height * 3))
    assert strip([[small, large]]).size == strip([[large, large]]).size


def test_a_strip_has_one_row_per_picture_and_one_column_per_scale() -> None:
    page = strip([[plain(RED), plain(GREEN)], [plain(BLUE), plain(RED)], [plain(RED), plain(BLUE)]])
    cell = 16 + GAP
    assert page.size == (GAP + 2 * cell, GAP + 3 * cell)
    assert page.getpixel((GAP + cell + 8, GAP + 8)) == GREEN
    assert page.getpixel((GAP + 8, GAP + cell + 8)) == BLUE


@pytest.mark.parametrize("rows", [[], [[]], [[plain(RED)], [plain(RED), plain(RED)]]])
def test_a_strip_of_uneven_or_no_rows_is_refused(rows: list[list[Image.Image]]) -> None:
    with pytest.raises(InputError, match="rows of one length"):
        strip(rows)


def test_an_empty_grid_and_wrong_labels_are_refused() -> None:
    with pytest.raises(InputError, match="0 pictures"):
        grid([])
    with pytest.raises(InputError, match="1 labels for 2 pictures"):
        grid([plain(RED)] * 2, labels=["one"])
    with pytest.raises(InputError, match="3 labels for 2 scales"):
        strip([[plain(RED)] * 2], labels=["1", "2", "3"])


@pytest.mark.parametrize(("side", "factor"), [(16, 4), (64, 3), (128, 1), (512, 1)])
def test_small_pictures_are_enlarged_on_a_page(side: int, factor: int) -> None:
    assert factor_for(plain(RED, side)) == factor


@pytest.mark.parametrize("factor", [0, -2, 1.0, True, "2", None, 10**30])
def test_pictures_are_enlarged_by_whole_factors_alone(factor: Any) -> None:
    image = noise(16)
    assert enlarged(image, 1) is image
    assert enlarged(image, 3).size == (48, 48)
    with pytest.raises(
        InputError, match=r"16x16 pixels cannot be enlarged by .*; expected a whole number from 1 to 559"
    ):
        enlarged(image, factor)


@pytest.mark.parametrize("name", ["a.webp", "a.gif", "new/A.WEBP"])
def test_an_animation_shows_pictures_one_after_another(tmp_path: Path, name: str) -> None:
    """Smaller ones at the size of the largest; those of a WebP keep their pixels."""
    pictures = [plain(RED, 8), noise(16), plain(BLUE)]
    path = save_animation(pictures, tmp_path / name)
    with Image.open(path) as file:
        assert (file.size, file.info["loop"]) == ((16, 16), 0)
        shown = [frame.convert("RGB") for frame in ImageSequence.Iterator(file)]
    assert len(shown) == 3
    assert shown[0].getpixel((15, 15)) == RED
    if path.suffix.lower() == ".webp":
        assert shown[1].tobytes() == pictures[1].tobytes()
    with pytest.raises(InputError, match="exists; choose another name"):
        save_animation(pictures, path)
    save_animation(pictures[:1], path, overwrite=True)
    with Image.open(path) as file:
        assert file.n_frames == 1  # type: ignore[attr-defined]
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_what_is_no_animation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.png is no name of an animation; expected one that ends in .webp or .gif"):
        save_animation([plain(RED)], tmp_path / "a.png")
    with pytest.raises(InputError, match="0 pictures; expected at least 1"):
        save_animation([], tmp_path / "a.webp")
    assert list(tmp_path.iterdir()) == []


def test_a_picture_keeps_its_pixels_and_its_recipe(tmp_path: Path) -> None:
    recipe = {"model": "emoji", "seed": 3, "words": "Grüße 🐱", "plan": {"rows": [{"size": [1, 1]}]}}
    image = noise(32)
    path = save_png(image, tmp_path / "new" / "picture.png", recipe)
    assert read_recipe(path) == recipe
    assert open_picture(path).tobytes() == image.tobytes()
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_picture_that_exists_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    path = save_png(plain(RED), tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png exists"):
        save_png(plain(BLUE), path)
    assert save_beside(plain(BLUE), path) == tmp_path / "a-2.png"
    assert open_picture(path).getpixel((0, 0)) == RED
    save_png(plain(GREEN), path, overwrite=True)
    assert open_picture(path).getpixel((0, 0)) == GREEN


def test_two_programs_that_write_one_name_keep_both_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program takes the free name between its choice and the writing."""
    taken = iter([tmp_path / "a.png", tmp_path / "a-2.png"])

    def chosen(path: Path) -> Path:
        free = next(taken)
        if free.name == "a.png":
            free.write_text("theirs")
        return free

    monkeypatch.setattr("nextscale.pictures.free_name", chosen)
    assert save_beside(plain(RED), tmp_path / "a.png") == tmp_path / "a-2.png"
    assert (tmp_path / "a.png").read_text() == "theirs"


@pytest.mark.parametrize(("side", "count", "scale"), [(64, 1, 3), (64, 10_000, 1), (256, 100, 1), (256, 10_000, 0)])
def test_a_page_is_never_too_large_to_be_opened(side: int, count: int, scale: int) -> None:
    assert page_scale((side, side), count) == scale
    if scale:
        assert count * (side * scale + GAP) ** 2 <= MOST_PIXELS


def test_a_transparent_picture_is_shown_on_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_pictures_without_a_readable_recipe_are_refused(tmp_path: Path) -> None:
    path = save_png(plain(RED), tmp_path / "plain.png")
    with pytest.raises(InputError, match="carries no recipe"):
        read_recipe(path)
    plain(RED).save(tmp_path / "plain.jpg")
    with pytest.raises(InputError, match="carries no recipe"):
        read_recipe(tmp_path / "plain.jpg")
    for text, message in [
        ("{half", "is not valid JSON"),
        ("[" * 100_000, "nested"),
        ("9" * 5000, "digits"),
        ("[1]", "is a list"),
    ]:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("nextscale", text)
        plain(RED).save(tmp_path / "odd.png", pnginfo=info)
        with pytest.raises(InputError, match=message):
            read_recipe(tmp_path / "odd.png")


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        open_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(InputError, match="cannot be read as a picture"):
        open_picture(tmp_path / "text.png")
    whole = save_png(noise(64), tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as a picture"):
        read_recipe(tmp_path / "half.png")


@pytest.mark.parametrize("read", [open_picture, read_recipe])
def test_only_regular_files_are_read(tmp_path: Path, read: Callable[[Any], Any]) -> None:
    """A pipe would never end, and a number would be a file of the process that is open already."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(InputError, match=f"{path} cannot be read as a picture .it is no regular file"):
            read(path)
    others: list[Any] = [0, None, b"x.png", BytesIO(), Image.new("RGB", (1, 1)), {}]
    for wrong in others:
        with pytest.raises(InputError, match=r"a picture's file is .*; expected its name"):
            read(wrong)
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(InputError, match="cannot be read as a picture"):
            read(name)


def test_a_recipe_that_is_not_plain_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not plain data"):
        save_png(plain(RED), tmp_path / "a.png", {"plan": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="file is a file; expected a folder"):
        save_png(plain(RED), tmp_path / "file" / "a.png")


FULL_DISK = """
import resource, sys
from PIL import Image
from nextscale.errors import InputError
from nextscale.pictures import save_png
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    save_png(Image.effect_noise((128, 128), 90).convert("RGB"), sys.argv[1], overwrite=True)
except InputError as error:
    sys.exit(f"refused: {error}")
"""


def test_a_full_disk_leaves_the_old_picture_and_nothing_else(tmp_path: Path) -> None:
    """In a process of its own, where no file may grow beyond 2,000 bytes: a limit here would hit the test log."""
    path = save_png(plain(RED), tmp_path / "a.png")
    command = [sys.executable, "-c", FULL_DISK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "refused" in done.stderr
    assert "cannot be written" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert open_picture(path).getpixel((0, 0)) == RED
