"""What of a picture is painted anew: the mask, the part of the picture that a model sees, and the way back.

Shape letters: ``H W`` the picture. Windows are (top, left, height, width) in pixels and may leave the picture.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nextscale.decoding import DAMAGE, has_frames, reason, visible
from nextscale.errors import InputError, quoted, warn_user
from nextscale.pictures import MOST_PIXELS
from nextscale.scales import Size
from nextscale.tokenfile import picture_of
from nextscale.values import is_whole, listed, plain

CONTEXT = 1 / 3
"""How much is seen on each side of what is repainted, as a share of its side."""
GREY = 127
MOST_ADDED = math.isqrt(MOST_PIXELS)
"""Pixels of a new margin: a model that draws squares sees one that holds it."""
SIDES = ("left", "right", "top", "bottom")
Window = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Region:
    """picture: RGB, or RGBA where it may have transparent parts; mask: (H, W) bool, True where it is painted anew;
    source: what a recipe says of the two.
    """

    picture: Image.Image
    mask: np.ndarray
    source: Mapping[str, Any]

    @property
    def size(self) -> Size:
        """Height and width of the picture."""
        return self.picture.height, self.picture.width

    def box(self) -> Window:
        """The smallest window around the mask; the picture where the mask is empty."""
        if not self.mask.any():
            return (0, 0, *self.size)
        (top, bottom), (left, right) = (np.flatnonzero(self.mask.any(axis))[[0, -1]] for axis in (1, 0))
        return int(top), int(left), int(bottom - top + 1), int(right - left + 1)

    def window(self, size: Size, whole: bool = False) -> Window:
        """What a model of this size (height, width) sees: the whole picture where it has that size, else the smallest
        window of that shape around the mask and a third of context on each side, or around the whole picture where that
        is smaller, or asked for. It leaves the picture only where it is larger. Raises ``InputError`` where it is too
        large.
        """
        if self.size == size:
            return (0, 0, *size)
        top, left, high, wide = self.box()
        around = max(side * (1 + 2 * CONTEXT) / model for side, model in zip((high, wide), size, strict=True))
        every = max(side / model for side, model in zip(self.size, size, strict=True))
        height, width = (math.ceil(model * (every if whole else min(around, every)) - 1e-6) for model in size)
        if height * width > MOST_PIXELS:
            raise InputError(
                f"the model would have to see {width:,}x{height:,} pixels, what is painted anew and around it in the "
                f"shape of what it draws; expected at most {MOST_PIXELS:,}, so paint a smaller part at a time"
            )
        return _start(top, high, height, self.size[0]), _start(left, wide, width, self.size[1]), height, width

    def middle(self, size: Size) -> Window:
        """The largest window of the shape of ``size`` (height, width) in the middle of the picture."""
        scale = min(side / model for side, model in zip(self.size, size, strict=True))
        height, width = (max(1, round(model * scale)) for model in size)
        return (self.size[0] - height) // 2, (self.size[1] - width) // 2, height, width

    def cut(self, window: Window, size: Size, blank: bool) -> tuple[Image.Image, np.ndarray]:
        """The picture in a window at this size (height, width), on white, and the mask there, (h, w) bool at its own.
        Where the window leaves the picture both go on as at the edge.

        blank: colours of what is not masked go on into what is, so that nothing of that is seen.
        """
        top, left, height, width = window
        rows, columns = (
            np.arange(start, start + count).clip(0, most - 1)
            for start, count, most in ((top, height, self.size[0]), (left, width, self.size[1]))
        )
        pixels = np.asarray(visible(self.picture).picture)[rows][:, columns]
        mask = self.mask[rows][:, columns]
        if blank:
            pixels = _blanked(pixels, mask)
        return _resized(Image.fromarray(pixels), size), mask

    def put_back(self, painted: Image.Image, window: Window, paste: bool) -> Image.Image:
        """The picture with what a model painted in a window; transparency is the picture's own.

        paste: only what is masked is taken, and every other pixel is the picture's.
        """
        top, left, height, width = window
        new = np.asarray(_resized(painted, (height, width)))
        inside = np.s_[max(0, top) : top + height, max(0, left) : left + width]
        new = new[max(0, -top) :, max(0, -left) :][: self.size[0], : self.size[1]]
        pixels = np.array(self.picture)
        taken = self.mask[inside] if paste else np.ones_like(self.mask[inside])
        pixels[inside][..., :3][taken] = new[taken]
        return Image.fromarray(pixels)


def region_of(
    image: Any, mask_image: Any = None, box: Any = None, outpaint: Any = None, refine_image: bool = False
) -> Region:
    """The region that a user names; :meth:`nextscale.edit.Editor.edit` says how.

    Raises ``InputError`` for what is no picture or no mask, a mask of another size, a box that leaves the picture, and
    anything but one of the four. Warns where nothing would be seen of what is painted.
    """
    ways = {"mask_image": mask_image, "box": box, "outpaint": outpaint, "refine_image": refine_image or None}
    named = [name for name, value in ways.items() if value is not None]
    if len(named) != 1:
        if named:
            raise InputError(f"{' and '.join(named)} were given; expected one of them")
        raise InputError("nothing says where to paint; expected one of mask_image, box, outpaint and refine_image")
    picture = _read(image, "picture")
    source: dict[str, Any] = {"image": _digest(np.asarray(picture))}
    if refine_image:
        source["refine_image"] = True
        picture, mask = visible(picture).picture, np.ones((picture.height, picture.width), dtype=bool)
    elif mask_image is not None:
        mask = _mask(mask_image, picture)
        source["mask_image"] = _digest(mask)
    elif box is not None:
        x, y, width, height = source["box"] = _box(box, picture)
        mask = np.zeros((picture.height, picture.width), dtype=bool)
        mask[y : y + height, x : x + width] = True
    else:
        source["outpaint"] = _outpaint(outpaint, picture)
        picture, mask = _grown(picture, **source["outpaint"])
    if not mask.any():
        warn_user("the mask is empty, so nothing is painted anew")
    elif picture.mode == "RGBA" and not np.asarray(picture)[mask][:, 3].any():
        warn_user("the picture is transparent wherever it is painted anew, so nothing of that will be seen")
    return Region(picture, mask, source)


def _blanked(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels (h, w, 3) uint8 in which the colours around a mask (h, w) go on smoothly inside; grey if all is masked."""
    if mask.all():
        return np.full_like(pixels, GREY)
    colours = torch.tensor(pixels).permute(2, 0, 1)[None].float()
    filled = _filled(colours, torch.tensor(~mask)[None, None])
    return filled[0].permute(1, 2, 0).round().byte().numpy()


def _filled(colours: Tensor, kept: Tensor) -> Tensor:
    """Colours (1, 3, h, w) with those that are not kept, (1, 1, h, w) bool, from a picture of half the size in which
    every pixel is the mean of what is kept of four, filled likewise.
    """
    if kept.all():
        return colours
    counts = F.avg_pool2d(kept.float(), 2, ceil_mode=True)
    means = F.avg_pool2d(colours * kept, 2, ceil_mode=True) / counts.clamp(min=1e-9)
    coarse = F.interpolate(_filled(means, counts > 0), kept.shape[2:], mode="bilinear")
    return torch.where(kept, colours, coarse)


def _start(first: int, count: int, window: int, whole: int) -> int:
    """Where a window begins that stands around a line of pixels, and inside the picture where it can."""
    if window >= whole:
        return -((window - whole) // 2)
    return min(max(0, first + (count - window) // 2), whole - window)


def _resized(picture: Image.Image, size: Size) -> Image.Image:
    height, width = size
    same = picture.size == (width, height)
    return picture if same else picture.resize((width, height), Image.Resampling.LANCZOS)


def _read(given: Any, what: str, alpha: bool = True) -> Image.Image:
    if isinstance(given, Image.Image) and has_frames(given):
        warn_user(f"the {what} holds several frames or pages, of which the one that it stands at is taken")
    try:
        return visible(picture_of(given, alpha), alpha).picture
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"the {what} cannot be used ({reason(error)})") from error


def _digest(pixels: np.ndarray) -> str:
    """Of the pixels as they are seen, whatever file they stand in."""
    about = f"{pixels.dtype} {pixels.shape} ".encode()
    return f"sha256:{hashlib.sha256(about + np.ascontiguousarray(pixels).tobytes()).hexdigest()}"


def _mask(given: Any, picture: Image.Image) -> np.ndarray:
    """A mask (H, W) bool of a picture, a file, or an array of truth values or numbers; half and more is True."""
    values = given.detach().cpu().float().numpy() if isinstance(given, Tensor) else given
    shape = tuple(getattr(values, "shape", ()))
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.dtype.kind in "bfiu" and values.size:
        low, high = float(values.min()), float(values.max())
        white = 1 if high <= 1 else 255
        if not 0 <= low <= high <= white:
            raise InputError(f"the mask has numbers from {low:g} to {high:g}; expected 0 to 1, or to 255")
        mask = values >= white / 2
    elif isinstance(given, str | Path | Image.Image) or shape[2:] in ((3,), (4,)):
        mask = np.asarray(_read(given, "mask", alpha=False).convert("L")) >= 128
    else:
        raise InputError(
            f"the mask is {f'an array {shape}' if shape else quoted(given)}; expected a PIL image, the name of a file, "
            "or an array (height, width) of truth values or numbers"
        )
    if mask.shape != (picture.height, picture.width):
        raise InputError(
            f"the mask has {mask.shape[1]}x{mask.shape[0]} pixels and the picture {picture.width}x{picture.height} "
            "(width x height); expected a mask of the picture's size"
        )
    return mask


def _box(given: Any, picture: Image.Image) -> list[int]:
    box = listed(given) or []
    if len(box) != 4 or not all(map(is_whole, box)):
        raise InputError(f"box is {quoted(given)}; expected four whole numbers, x, y, width and height in pixels")
    x, y, width, height = box
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > picture.width or y + height > picture.height:
        raise InputError(
            f"box is {quoted(box)}; expected x, y, width and height of a part of the picture, which has "
            f"{picture.width}x{picture.height} pixels (width x height)"
        )
    return box


def _outpaint(given: Any, picture: Image.Image) -> dict[str, int]:
    """How many pixels are added on each side."""
    sides = {name: plain(count) for name, count in given.items()} if isinstance(given, Mapping) else {}
    if not sides or not set(sides) <= set(SIDES) or not all(is_whole(one) and one >= 0 for one in sides.values()):
        raise InputError(f"outpaint is {quoted(given)}; expected a table of pixels to add {', '.join(SIDES)}")
    added = {name: sides[name] for name in SIDES if sides.get(name)}
    if not added:
        raise InputError(f"outpaint is {quoted(given)}, which adds no pixel; expected at least one")
    if max(added.values()) > MOST_ADDED:
        raise InputError(f"outpaint is {quoted(given)}; expected at most {MOST_ADDED:,} pixels on a side")
    width, height = (
        side + added.get(before, 0) + added.get(after, 0)
        for side, before, after in zip(picture.size, SIDES[::2], SIDES[1::2], strict=True)
    )
    if width * height > MOST_PIXELS:
        raise InputError(f"outpaint makes a picture of {width:,}x{height:,} pixels; expected at most {MOST_PIXELS:,}")
    return added


def _grown(
    picture: Image.Image, left: int = 0, right: int = 0, top: int = 0, bottom: int = 0
) -> tuple[Image.Image, np.ndarray]:
    """A picture with more on each side, which continues the edge and is opaque, and the mask of that."""
    sides = ((top, bottom), (left, right))
    mask = np.pad(np.zeros((picture.height, picture.width), dtype=bool), sides, constant_values=True)
    pixels = np.pad(np.asarray(visible(picture).picture), (*sides, (0, 0)), mode="edge")
    if picture.mode == "RGBA":
        opaque = np.full((*mask.shape, 1), 255, np.uint8)
        pixels = np.concatenate([pixels, opaque], -1)
        pixels[~mask] = np.asarray(picture).reshape(-1, 4)
    return Image.fromarray(pixels), mask
