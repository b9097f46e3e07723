"""Pictures as files: what becomes of a worker's pixels, and what may be read of an upload.

An upload may come from anybody: what it costs to decode is read off its header, before anything is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from nextscale.decoding import DAMAGE, reason, visible
from nextscale.documents import parse_json
from nextscale.drawn import DrawnImage
from nextscale.errors import InputError
from nextscale.pictures import RECIPE_KEY, animation
from nextscale.recipe import write_recipe
from nextscale.serve.front import Asked, Front
from nextscale.serve.worker import Pixels

FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS, MOST_SCANS = 16_000_000, 64
"""Of an upload. A JPEG of many scans costs as much as so many pictures."""
TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp", "gif": "image/gif"}


def finished(pixels: Pixels, asked: Asked) -> Image.Image:
    """A picture as its client gets it; of an edit, the whole picture with what was painted in its place."""
    image = Image.fromarray(pixels)
    return image if asked.edit is None else asked.edit.put_back(image)


def recipe_of(asked: Asked, i: int, front: Front, device: str, dtype: str) -> dict[str, Any]:
    """What picture i says of itself."""
    edit = {} if asked.edit is None else {"edit": asked.edit.told}
    about = {"model": front.id, "revision": front.pipe.revision, "device": device.partition(":")[0], "dtype": dtype}
    return write_recipe(asked.plan, "", **about, entry=asked.entries[i], seed=asked.seeds[i], **edit)


def encoded(image: Image.Image, kind: str, quality: int = 100, recipe: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of a file; a PNG carries the recipe."""
    file = io.BytesIO()
    if kind == "png":
        drawn = image if recipe is None else DrawnImage(image, dict(recipe))
        drawn.save(file, "PNG")
    elif kind == "jpeg":
        visible(image).picture.save(file, "JPEG", quality=quality)
    else:
        image.save(file, kind.upper(), quality=quality)
    return file.getvalue()


def growing(frames: Sequence[Image.Image]) -> bytes:
    """A GIF of a picture after every scale."""
    return animation([visible(frame).picture for frame in frames], ".gif")


def opened(content: bytes, what: str) -> Image.Image:
    """An upload as it is to be seen, RGBA where it may have transparent parts. what: its field. Raises ``InputError``
    for what is no picture, or too large a one.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            _check(image, content, what)
            image.load()
            return visible(image, alpha=True).picture
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} cannot be read ({reason(error)}); expected a PNG, JPEG or WebP") from None


def carried_recipe(content: bytes) -> dict[str, Any]:
    """The recipe in an upload. Raises ``InputError`` where there is none."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            _check(image, content, "image")
            image.load()
            text = getattr(image, "text", {}).get(RECIPE_KEY)
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"image cannot be read ({reason(error)}); expected a PNG that nextscale wrote") from None
    if text is None:
        raise InputError("image carries no recipe; expected a PNG that nextscale wrote, as it was written")
    found = parse_json(text, "the recipe in image")
    if not isinstance(found, dict):
        raise InputError(f"the recipe in image is a {type(found).__name__}; expected a table of names and values")
    return found


def transparent(image: Image.Image) -> np.ndarray | None:
    """Where a picture's alpha is 0, (H, W) bool; None where it has no alpha."""
    return np.asarray(image)[..., 3] == 0 if image.mode == "RGBA" else None


def opaque_there(image: Image.Image, mask: np.ndarray) -> Image.Image:
    """The picture, opaque where it is painted anew, so that what is painted is seen."""
    if image.mode != "RGBA" or mask.shape != (image.height, image.width):
        return image
    pixels = np.array(image)
    pixels[mask, 3] = 255
    return Image.fromarray(pixels if (pixels[..., 3] < 255).any() else pixels[..., :3].copy())


def _check(image: Image.Image, content: bytes, what: str) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise InputError(f"{what} has {image.width:,}x{image.height:,} pixels; expected at most {MOST_PIXELS:,} in all")
    scans = content.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans > MOST_SCANS:
        raise InputError(f"{what} is a JPEG of {scans:,} scans; expected at most {MOST_SCANS}")
