"""Reading images for training and evaluation: any folder of images, or a built emoji set.

Everything is decoded once and kept in memory as bytes: the Noto emoji at 64 pixels are 45 MB.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from nextscale.data.emoji_reader import load_emoji, read_description
from nextscale.data.images import ImageData, check_split, existing_folder, image_data
from nextscale.errors import InputError

__all__ = ["ImageData", "load_data", "load_folder"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
RESIZE = 1.125  # shorter side before the crop, relative to the resolution: VAR's (arXiv 2404.02905) preparation


def load_data(path: Path | str, resolution: int, split: str = "train") -> ImageData:
    """Read a data set: an emoji set where the folder holds ``dataset.json``, else a folder of images.

    Args:
        split: ``train``, ``heldout`` or ``all``.

    Raises:
        InputError: as ``load_emoji`` and ``load_folder``; also an emoji set drawn at another resolution.
    """
    folder = existing_folder(path)
    if not (folder / "dataset.json").exists():
        return load_folder(folder, resolution, split)
    drawn = read_description(folder)["recipe"]["resolution"]
    if drawn != resolution:
        raise InputError(
            f"the emoji set {folder} is drawn at {drawn} pixels; expected {resolution}: "
            f"build another with --resolution {resolution}"
        )
    return load_emoji(folder, split)


def load_folder(folder: Path | str, resolution: int, split: str = "train", held_out: float = 0.1) -> ImageData:
    """Read a folder of images: one sub-folder per class (ImageNet's layout), or all images in one folder (one class).

    Where the folder has ``train`` and ``val`` sub-folders these are the splits; elsewhere the share ``held_out`` of
    the images, chosen by a hash of their paths, is. Near copies on both sides are not looked for.

    The shorter side is resized to 1.125 times the resolution (Lanczos), then the centre is cropped; transparency is
    put on white. Damaged files are left out, listed in ``unreadable``, and warned about with their number.

    Args:
        resolution: height and width of the result.
        split: ``train``, ``heldout`` or ``all``.
        held_out: between 0 and 1.

    Raises:
        InputError: no folder, no image in it, images smaller than the resolution, or more than fits into memory.
    """
    check_split(split)
    if not 0 <= held_out < 1:
        raise InputError(f"held_out is {held_out}; expected a share from 0 to below 1")
    folder = existing_folder(folder)
    listing = _listing(folder, held_out)
    classes = sorted({class_name for _, class_name, _ in listing})
    wanted = [(path, class_name) for path, class_name, side in listing if split in ("all", side)]
    if not wanted:
        raise InputError(f"{folder} holds {len(listing)} images, but none of the split {split!r}; expected one or more")
    _check_memory(folder, len(wanted), resolution)
    pixels, kept, unreadable, small = _decode([path for path, _ in wanted], resolution)
    if small:
        raise InputError(
            f"{len(small)} of {len(wanted)} images are smaller than {resolution} pixels, for instance {small[0]}; "
            "take them out or choose a lower resolution"
        )
    if not kept:
        raise InputError(f"none of the {len(wanted)} images in {folder} can be read, for instance {unreadable[0]}")
    if unreadable:
        seen = f"{len(unreadable)} of {len(wanted)} images cannot be read and are left out"
        warnings.warn(f"{seen}, for instance {unreadable[0]}", stacklevel=2)
    labels = [classes.index(wanted[i][1]) for i in kept]
    names = [wanted[i][0].relative_to(folder).as_posix() for i in kept]
    return image_data(pixels, labels, classes, split, names, unreadable)


def _decode(paths: list[Path], resolution: int) -> tuple[np.ndarray, list[int], list[str], list[str]]:
    """Pixels (N 3 H W) of the images that can be used, their places in ``paths``; the damaged and the small ones."""
    pixels = np.empty((len(paths), 3, resolution, resolution), np.uint8)
    kept: list[int] = []
    unreadable, small = [], []
    for i, path in enumerate(paths):
        picture = _read(path)
        if picture is None:
            unreadable.append(str(path))
        elif min(picture.size) < resolution:
            small.append(f"{path} ({picture.width} x {picture.height})")
        else:
            pixels[len(kept)] = np.asarray(_fit(picture, resolution)).transpose(2, 0, 1)
            kept.append(i)
    return pixels[: len(kept)], kept, unreadable, small


def _listing(folder: Path, held_out: float) -> list[tuple[Path, str, str]]:
    """Every image file below ``folder`` with its class and its side of the split, in a fixed order."""
    official = {"train": folder / "train", "heldout": folder / "val"}
    if all(root.is_dir() for root in official.values()):
        found = [(path, root, side) for side, root in official.items() for path in _image_files(root)]
    else:
        found = [(path, folder, _side(path.relative_to(folder), held_out)) for path in _image_files(folder)]
    if not found:
        raise InputError(
            f"{folder} holds no image; expected {', '.join(sorted(SUFFIXES))} files or class folders of them"
        )
    parents = [path.relative_to(root).parts[:-1] for path, root, _ in found]
    if any(parents) and not all(parents):
        raise InputError(f"{folder} holds both single images and folders of images; expected one of the two")
    return [
        (path, parts[0] if parts else folder.resolve().name, side) for (path, _, side), parts in zip(found, parents)
    ]


def _image_files(root: Path) -> list[Path]:
    found = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted(path for path in found if path.is_file())


def _side(path: Path, held_out: float) -> str:
    """The side of an image whose path has this hash; adding other images moves none."""
    number = int.from_bytes(hashlib.sha256(path.as_posix().encode()).digest()[:8], "big")
    return "heldout" if number < held_out * 2**64 else "train"


def _read(path: Path) -> Image.Image | None:
    """The picture as it is to be seen (turned as its metadata say, on white), or None if the file is damaged."""
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened)
            if picture.mode == "F":
                return None  # a float image says nowhere what is white
            if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip
                picture = Image.fromarray((np.asarray(picture) / 256).clip(0, 255).astype(np.uint8))
            if picture.mode not in ("RGB", "L") or "transparency" in picture.info:
                picture = picture.convert("RGBA")
                white = Image.new("RGBA", picture.size, "white")
                picture = Image.alpha_composite(white, picture)
            return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _fit(picture: Image.Image, resolution: int) -> Image.Image:
    """Resize the shorter side to ``RESIZE`` times the resolution, then crop the centre."""
    scale = max(round(RESIZE * resolution), resolution) / min(picture.size)
    width, height = (max(resolution, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return picture.crop((left, top, left + resolution, top + resolution))


def _check_memory(folder: Path, count: int, resolution: int) -> None:
    """Refuse what this machine cannot hold, instead of being killed half-way."""
    needed = count * 3 * resolution**2
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present / 2:
        raise InputError(
            f"{count} images of {folder} at {resolution} pixels need {needed / 2**30:.1f} GiB of memory; "
            f"expected at most half of this machine's {present / 2**30:.1f} GiB: use fewer images or a lower resolution"
        )
