"""How pictures are laid out and saved: grids, scale strips, animations, and the recipe that every PNG carries.

Works on PIL images; whoever has tensors converts them first. No file is ever half there, and none is replaced unasked.
"""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from nextscale.decoding import DAMAGE, decode, reason, visible
from nextscale.documents import parse_json
from nextscale.errors import InputError, quoted
from nextscale.files import free_name, written_aside
from nextscale.values import is_whole, plain

RECIPE_KEY = "nextscale"  # the PNG text chunk that holds the recipe as JSON
BACKGROUND, INK = "white", "#444444"
ENLARGING = Image.Resampling.LANCZOS  # drawings have soft edges, which larger pixels would break into steps
GAP = 8  # pixels between pictures, and around them
TEXT = 14  # height of a label's letters in pixels
LEADING = 3  # pixels above every line of a label, and below the last
MOST_LINES = 6  # of a label
MOST_PIXELS = 80_000_000  # of a page; what is larger Pillow takes for an attack when it is read again
ANIMATIONS: Mapping[str, Mapping[str, Any]] = {
    ".webp": {"format": "WEBP", "lossless": True},
    ".gif": {"format": "GIF"},
}
"""Endings of animations, and how Pillow writes them."""
PAUSE, LAST_PAUSE = 400, 2000  # milliseconds that a picture of an animation is shown, and the last one


def factor_for(image: Image.Image, side: int = 192) -> int:
    """By how much to enlarge small pictures so that they are about ``side`` pixels wide on a page: 1 to 4."""
    return _factor(image.width, side)


def page_scale(size: tuple[int, int], count: int, least: int = 1) -> int:
    """By how much to enlarge ``count`` pictures of ``size`` (height, width) on one page: 1 to 4, or ``least`` if that
    is more; less where the page would have more than ``MOST_PIXELS``, and 0 where it has too many all the same.
    """
    height, width = size

    def pixels(scale: int) -> int:
        return count * (width * scale + GAP) * (height * scale + _foot(1) + GAP)

    return next((scale for scale in range(max(_factor(width), least), 0, -1) if pixels(scale) <= MOST_PIXELS), 0)


def _factor(width: int, side: int = 192) -> int:
    return max(1, min(4, side // width))


def grid(
    images: Sequence[Image.Image],
    columns: int | None = None,
    scale: int = 1,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """Pictures side by side, row after row.

    Args:
        images: at least one picture; all are shown at the size of the largest.
        columns: how many stand in a row; by default about as many as there are rows.
        scale: enlarge every picture by this factor.
        labels: a text to stand under each picture, in at most ``MOST_LINES`` lines; what is longer ends in dots.

    Raises:
        InputError: there is no picture, the labels are not one for each, or there cannot be so many columns.
    """
    if not images:
        raise InputError("a grid was asked for, but there are 0 pictures; expected at least 1")
    if labels is not None and len(labels) != len(images):
        raise InputError(f"there are {len(labels)} labels for {len(images)} pictures; expected one for each")
    columns = plain(columns)
    if columns is not None and not (is_whole(columns) and columns > 0):
        raise InputError(f"columns is {quoted(columns)}; expected a whole number of at least 1")
    columns = min(columns or math.ceil(math.sqrt(len(images))), len(images))
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    width, height = max(image.width for image in images) * scale, max(image.height for image in images) * scale
    across = GAP + columns * (width + GAP)
    room = (MOST_PIXELS // across // len(rows) - height - GAP - LEADING) // (TEXT + LEADING)
    lines = [_lines(label, width, max(1, min(room, MOST_LINES))) for label in labels or []]
    feet = [_foot(max(len(lines[i]) for i in row)) if lines else 0 for row in rows]
    page = Image.new("RGB", (across, GAP + sum(height + foot + GAP for foot in feet)), BACKGROUND)
    top = GAP
    for row, foot in zip(rows, feet, strict=True):
        for i in row:
            left = GAP + (i - row[0]) * (width + GAP)
            page.paste(images[i].convert("RGB").resize((width, height), ENLARGING), (left, top))
            if lines:
                _write(page, lines[i], left, top + height, width)
        top += height + foot + GAP
    return page


def strip(rows: Sequence[Sequence[Image.Image]], labels: Sequence[str] | None = None, scale: int = 1) -> Image.Image:
    """How pictures grow: one row per picture, one column per scale, coarse to fine.

    Args:
        rows: for every picture, what it looks like after each scale; all rows are of one length.
        labels: one short text per column, written under every row (``1x1``, ``2x2``, ...).
        scale: enlarge every picture by this factor.

    Raises:
        InputError: there is no picture, or rows and labels differ in length.
    """
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"a strip needs rows of one length, at least 1, but they have {sorted(lengths)} pictures")
    (columns,) = lengths
    if labels is not None and len(labels) != columns:
        raise InputError(f"there are {len(labels)} labels for {columns} scales; expected one for each")
    below = None if labels is None else [label for _ in rows for label in labels]
    return grid([image for row in rows for image in row], columns, scale, below)


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT)


@cache
def _written(sign: str) -> str:
    """A sign as the font has it: a letter that it lacks goes without its accent."""
    if bytes(_font().getmask(sign)) != bytes(_font().getmask("\uffff")):
        return sign
    return "".join(part for part in unicodedata.normalize("NFKD", sign) if not unicodedata.combining(part))


def _foot(lines: int) -> int:
    """The pixels that labels of so many lines take."""
    return lines * (TEXT + LEADING) + LEADING


def _lines(text: str, width: int, most: int) -> list[str]:
    """A label in at most so many lines, none wider than its picture: broken between words where one fits, and shortened
    with dots where it has more.
    """
    font, lines, rest = _font(), list[str](), "".join(map(_written, re.sub(r"\s", " ", text))).rstrip()
    while True:
        fits = max(1, bisect_right(range(1, len(rest) + 1), False, key=lambda n: font.getlength(rest[:n]) > width))
        if fits >= len(rest):
            return [*lines, rest]
        if len(lines) == most - 1:
            while fits > 1 and font.getlength(rest[:fits] + "…") > width:
                fits -= 1
            return [*lines, rest[:fits] + "…"]
        space = rest.rfind(" ", 1, fits + 1)
        lines.append(rest[: space if space > 0 else fits].rstrip())
        rest = rest[space if space > 0 else fits :].lstrip()


def _write(page: Image.Image, lines: Sequence[str], left: int, top: int, width: int) -> None:
    """The lines of a label, centred."""
    font, draw = _font(), ImageDraw.Draw(page)
    for i, line in enumerate(lines):
        at = (left + (width - font.getlength(line)) / 2, top + LEADING + i * (TEXT + LEADING))
        draw.text(at, line, fill=INK, font=font)


def enlarged(image: Image.Image, factor: int) -> Image.Image:
    """A picture enlarged by a whole factor, smoothly, as on pages.

    Raises:
        InputError: the factor is none, or makes a picture that could not be opened again.
    """
    check_enlarge(factor, (image.height, image.width))
    return image if factor == 1 else image.resize((image.width * factor, image.height * factor), ENLARGING)


def check_enlarge(factor: Any, size: tuple[int, int]) -> None:
    """Raises ``InputError`` unless pictures of ``size`` (height, width) can be enlarged by this factor."""
    height, width = size
    most = math.isqrt(MOST_PIXELS // (height * width))
    if not is_whole(factor) or not 1 <= factor <= most:
        raise InputError(
            f"pictures of {width}x{height} pixels cannot be enlarged by {quoted(factor)}; expected a whole number from "
            f"1 to {most}"
        )


def save_animation(frames: Sequence[Image.Image], path: Path | str, overwrite: bool = False) -> Path:
    """Write pictures one after another, as those of a stream, into an animated WebP or GIF, whole or not at all; it
    rests at its last picture and begins again. Returns the path.

    Raises:
        InputError: there is no picture, the name ends otherwise, there is such a file and no leave to ``overwrite`` it,
            or it cannot be written there.
    """
    check_animation(path)
    path = Path(path)
    content = animation(frames, path.suffix)
    try:
        with written_aside(path, overwrite) as aside:
            aside.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); expected a folder that can") from error
    return path


def animation(frames: Sequence[Image.Image], suffix: str) -> bytes:
    """The bytes of an animation, see :func:`save_animation`; suffix: its file's ending. Raises ``InputError`` where
    there is no picture.
    """
    if not frames:
        raise InputError("an animation was asked for, but there are 0 pictures; expected at least 1")
    size = (max(frame.width for frame in frames), max(frame.height for frame in frames))
    first, *others = [frame.convert("RGB").resize(size, ENLARGING) for frame in frames]
    pauses = [PAUSE] * len(others) + [LAST_PAUSE]
    file, settings = BytesIO(), ANIMATIONS[suffix.lower()]
    first.save(file, save_all=True, append_images=others, duration=pauses, loop=0, **settings)
    return file.getvalue()


def check_animation(path: Path | str) -> None:
    """Raises ``InputError`` for the name of a file that is no animation's."""
    if Path(path).suffix.lower() not in ANIMATIONS:
        raise InputError(f"{path} is no name of an animation; expected one that ends in {' or '.join(ANIMATIONS)}")


def save_png(
    image: Image.Image, path: Path | str, recipe: Mapping[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write a PNG whole or not at all, with ``recipe`` in its metadata; returns the path. Makes the folder if need be.

    Raises:
        InputError: there is such a file and no leave to ``overwrite`` it, the file cannot be written there (the message
            says why), or the recipe is not plain data.
    """
    path, info = Path(path), PngImagePlugin.PngInfo()
    if recipe is not None:
        try:
            info.add_itxt(RECIPE_KEY, json.dumps(recipe, ensure_ascii=False, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"the recipe of {path.name} is not plain data ({error})") from error
    try:
        with written_aside(path, overwrite) as aside, aside.open("wb") as file:
            image.save(file, "PNG", pnginfo=info)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); expected a folder that can") from error
    return path


def save_beside(image: Image.Image, path: Path | str, recipe: Mapping[str, Any] | None = None) -> Path:
    """As :func:`save_png`, under the next free name (``cat-2.png`` where there is a ``cat.png``); returns the path."""
    while True:
        free = free_name(Path(path))
        try:
            return save_png(image, free, recipe)
        except InputError:
            if not os.path.lexists(free):  # else another program was faster
                raise


def open_picture(path: Path | str, alpha: bool = False) -> Image.Image:
    """Read a picture file as training reads it: RGB, turned as its metadata say, transparent parts on white, or with
    ``alpha`` as they are, in RGBA.

    Warns of what of the file is not taken, such as further frames.

    Raises:
        InputError: there is no such file, or it is no picture.
    """
    content = _content(path)
    try:
        picture, remarks = decode(content, alpha)
    except DAMAGE as error:
        raise InputError(f"{path} cannot be read as a picture ({reason(error)})") from error
    for remark in remarks:
        warnings.warn(f"images such as {path} {remark}", stacklevel=2)
    return picture


def read_recipe(path: Path | str) -> dict[str, Any]:
    """The recipe a picture carries.

    Raises:
        InputError: no such file, no picture, or a picture without a recipe.
    """
    content = _content(path)
    try:
        image = Image.open(BytesIO(content))
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as a picture ({reason(error)})") from error
    text = getattr(image, "text", {}).get(RECIPE_KEY)
    if text is None:
        raise InputError(f"{path} carries no recipe; expected a PNG that nextscale wrote, as it was written")
    recipe = parse_json(text, f"the recipe in {path}")
    if not isinstance(recipe, dict):
        raise InputError(f"the recipe in {path} is a {type(recipe).__name__}; expected a table of names and values")
    return recipe


def _content(path: Path | str) -> bytes:
    """The bytes of a picture's file, which must be a regular one: a pipe or a device may never end."""
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"a picture's file is {quoted(path)}; expected its name")
    if os.path.lexists(path) and not os.path.isfile(path):
        raise InputError(f"{path} cannot be read as a picture (it is no regular file); expected a picture")
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}; expected a picture") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a zero in it
        raise InputError(f"{path} cannot be read as a picture ({getattr(error, 'strerror', None) or error})") from error


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture as training sees it, cropped around its centre to the shape of ``size`` (height, width) and resized.

    Raises:
        InputError: its pixels do not say what is white (floats from -1 to 5, say).
    """
    height, width = size
    try:
        flat = visible(image).picture
    except DAMAGE as error:
        raise InputError(f"the picture cannot be used ({reason(error)})") from error
    scale = min(flat.width / width, flat.height / height)
    w, h = round(width * scale), round(height * scale)
    left, top = (flat.width - w) // 2, (flat.height - h) // 2
    crop = flat.crop((left, top, left + w, top + h))
    return crop if crop.size == (width, height) else crop.resize((width, height), Image.Resampling.LANCZOS)
