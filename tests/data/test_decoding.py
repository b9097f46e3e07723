"""One reader of pictures: what training sees of a file is what ``reconstruct`` and a pipeline see of it."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nextscale.data.folder import load_data
from nextscale.decoding import BYTES, FRAMES, UNITS, WORDS, decode
from nextscale.errors import InputError
from nextscale.pictures import fit, open_picture

SIDE = 18
GREY = np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8) % 200 + 50


def red_corner() -> Image.Image:
    """A picture whose turned and mirrored copies all differ."""
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    picture.paste("red", (0, 0, 5, 9))
    return picture


def seen_by_all(path: Path) -> np.ndarray:
    """The picture as every reader sees it, (H, W, 3); whole, at its own size."""
    opened = open_picture(path)
    with Image.open(path) as held:
        fitted = [fit(picture, opened.size[::-1]) for picture in (opened, held, held.copy())]
    assert all(picture.tobytes() == opened.tobytes() for picture in fitted)
    trained = load_data(path.parent, 16, "all").images[0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(opened)[1:17, 1:17], trained)
    return np.asarray(opened)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_every_reader_turns_pictures_alike(tmp_path: Path, orientation: int, suffix: str) -> None:
    backwards = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose, the other way round
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = red_corner() if orientation == 1 else red_corner().transpose(Image.Transpose(backwards[orientation]))
    more: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    stored.save(tmp_path / f"1.{suffix}", exif=exif, **more)
    assert np.array_equal(seen_by_all(tmp_path / f"1.{suffix}"), np.asarray(red_corner()))


STORED: dict[str, tuple[np.ndarray, str, str | None]] = {
    "uint16": (GREY.astype(np.uint16) * 257, "png", None),
    "uint16 of bytes": (GREY.astype(np.uint16), "png", BYTES),
    "tiff of 16 bits": (GREY.astype(np.uint16) * 256, "tif", None),
    "int32": (GREY.astype(np.int32) * 257, "tif", None),
    "int32 of bytes": (GREY.astype(np.int32), "tif", BYTES),
    "floats of units": (GREY.astype(np.float32) / 255, "tif", UNITS),
    "floats of bytes": (GREY.astype(np.float32), "tif", BYTES),
    "floats of words": (GREY.astype(np.float32) * 257, "tif", WORDS),
    "pfm": (GREY.astype(np.float32) / 255, "pfm", UNITS),
}


@pytest.mark.filterwarnings("ignore:.*read")
@pytest.mark.parametrize("kind", STORED)
def test_pictures_of_more_bits_are_those_of_eight(tmp_path: Path, kind: str) -> None:
    values, suffix, remark = STORED[kind]
    Image.fromarray(values).save(tmp_path / f"1.{suffix}")
    assert np.array_equal(seen_by_all(tmp_path / f"1.{suffix}"), np.stack([GREY] * 3, 2))
    assert decode((tmp_path / f"1.{suffix}").read_bytes()).remarks == (() if remark is None else (remark,))


ODD = {
    "below 0": GREY.astype(np.float32) - 100,
    "far above": GREY.astype(np.float32) * 1e6,
    "nan": np.where(GREY < 60, np.nan, GREY).astype(np.float32),
    "large": GREY.astype(np.int32) * 10_000,
    "negative": GREY.astype(np.int32) - 300,
}


@pytest.mark.parametrize("kind", ODD)
def test_pictures_that_do_not_say_what_is_white_are_named(tmp_path: Path, kind: str) -> None:
    Image.fromarray(ODD[kind]).save(tmp_path / "1.tif")
    Image.fromarray(GREY).save(tmp_path / "2.png")
    with pytest.warns(
        UserWarning, match=r"1 of 2 images cannot be read .*1\.tif \(its values go from .* what is white"
    ):
        assert len(load_data(tmp_path, 16, "all")) == 1
    with pytest.raises(InputError, match=r"1\.tif cannot be read as a picture \(its values go from"):
        open_picture(tmp_path / "1.tif")
    with pytest.raises(InputError, match=r"the picture cannot be used \(its values go from"):
        fit(Image.fromarray(ODD[kind]), (16, 16))


MODES: dict[str, tuple[str, Any, tuple[int, int, int]]] = {
    "CMYK": ("jpg", (0, 255, 255, 0), (255, 0, 0)),
    "LA": ("png", (0, 51), (204, 204, 204)),
    "RGBA": ("png", (255, 0, 0, 0), (255, 255, 255)),
    "1": ("png", 1, (255, 255, 255)),
    "L": ("png", 7, (7, 7, 7)),
    "YCbCr": ("tif", (255, 128, 128), (255, 255, 255)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_colour_on_white(tmp_path: Path, mode: str) -> None:
    suffix, value, expected = MODES[mode]
    Image.new(mode, (SIDE, SIDE), value).save(tmp_path / f"1.{suffix}")
    assert np.abs(seen_by_all(tmp_path / f"1.{suffix}")[5, 5].astype(int) - expected).max() <= 2


def test_a_palette_with_transparency_is_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (SIDE, SIDE), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.paste(1, (0, 0, 9, SIDE))
    picture.save(tmp_path / "1.png", transparency=0)
    assert [tuple(seen_by_all(tmp_path / "1.png")[5, x]) for x in (2, 15)] == [(255, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / f"1.{suffix}", save_all=True, append_images=frames[1:])
    for memory in (None, 0):
        with pytest.warns(UserWarning, match=f"1 of 1 images {FRAMES}, for instance .*1.{suffix}"):
            data = load_data(tmp_path, 16, "all", memory=memory)
    assert data.read(data.labels)[0, :, 4, 4].tolist() == pytest.approx([255, 0, 0], abs=4)
    with pytest.warns(UserWarning, match=FRAMES):
        assert open_picture(tmp_path / f"1.{suffix}").getpixel((4, 4)) == pytest.approx((255, 0, 0), abs=4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["avif", "dds", "gif", "jpeg", "jpeg2000", "png", "sgi", "tga", "tiff", "webp"])
def test_a_damaged_picture_is_left_out_whatever_is_damaged(tmp_path: Path, form: str) -> None:
    content, rng = io.BytesIO(), np.random.default_rng(0)
    red_corner().save(content, form)
    whole = np.frombuffer(content.getvalue(), np.uint8)
    Image.fromarray(GREY).save(tmp_path / "1.png")
    for _ in range(60):
        damaged = whole.copy()
        places = rng.integers(0, rng.choice([40, len(whole)]), rng.integers(1, 6))
        damaged[places % len(whole)] = rng.integers(0, 256, len(places))
        (tmp_path / "2.png").write_bytes(damaged.tobytes()[: rng.integers(1, 2 * len(whole))])
        assert len(load_data(tmp_path, 16, "all", skip_small=True)) in (1, 2)


def test_a_program_is_never_started_to_read_a_picture() -> None:
    content = io.BytesIO()
    red_corner().save(content, "EPS")
    with pytest.raises(OSError, match="cannot identify"):
        decode(content.getvalue())


def test_what_is_no_regular_file_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="no regular file"):
        open_picture(tmp_path / "pipe.png")
