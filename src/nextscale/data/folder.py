"""Reading images for training and evaluation: a built emoji set, or any folder of images.

Everything is decoded once and kept in memory as bytes (``N`` images, 3 channels, ``H W`` pixels, 0 to 255): the Noto
emoji at 64 pixels are 45 MB.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from nextscale.data.emoji import FORMAT_VERSION
from nextscale.errors import InputError

SPLITS = ("train", "heldout", "all")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})
RESIZE = 1.125  # shorter side before the crop, relative to the resolution: VAR's (arXiv 2404.02905) preparation


@dataclass(frozen=True)
class ImageData:
    """Images in memory with their labels.

    ``images`` is uint8 ``(N, 3, H, W)``, ``labels`` int64 ``(N,)`` with entries below ``len(classes)``; ``names`` says
    what each image shows (an emoji's name, a file's name). ``hash`` is that of the pixels, labels and classes: equal
    hashes are equal data. ``unreadable`` lists the files that were left out because they are damaged.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: list[str]
    split: str
    names: list[str]
    hash: str
    unreadable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def load_data(path: Path | str, resolution: int, split: str = "train") -> ImageData:
    """Read a data set: an emoji set where the folder holds ``dataset.json``, else a folder of images.

    Args:
        split: ``train``, ``heldout`` or ``all``.

    Raises:
        InputError: as ``load_emoji`` and ``load_folder``; also an emoji set drawn at another resolution.
    """
    folder = _existing_folder(path)
    if not (folder / "dataset.json").exists():
        return load_folder(folder, resolution, split)
    drawn = read_description(folder)["recipe"]["resolution"]
    if drawn != resolution:
        raise InputError(
            f"the emoji set {folder} is drawn at {drawn} pixels; expected {resolution}: "
            f"build another with --resolution {resolution}"
        )
    return load_emoji(folder, split)


def read_description(folder: Path | str) -> dict[str, Any]:
    """``dataset.json`` of a built emoji set.

    Raises:
        InputError: it is missing, damaged, or of a format this version does not know.
    """
    path = Path(folder) / "dataset.json"
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        version = description["recipe"]["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as the description of an emoji set; build the set again") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}; expected {FORMAT_VERSION}: build the set again")
    return dict(description)


def read_metadata(folder: Path | str) -> list[dict[str, Any]]:
    """The records of a built emoji set, one per image, in order; docs/data.md describes their fields.

    Raises:
        InputError: ``metadata.jsonl`` is missing or damaged.
    """
    path = Path(folder) / "metadata.jsonl"
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as the records of an emoji set; build the set again") from error


def load_emoji(folder: Path | str, split: str = "train", style: str | None = None) -> ImageData:
    """Read a set that ``build_emoji`` built.

    Args:
        split: ``train``, ``heldout`` or ``all``.
        style: only the drawings of this style; all styles of the set by default.

    Raises:
        InputError: the folder holds no such set, style or split, or an image of the set is damaged.
    """
    _check_split(split)
    folder = _existing_folder(folder)
    description = read_description(folder)
    styles, resolution, classes = description["recipe"]["styles"], description["recipe"]["resolution"], description["classes"]
    if style is not None and style not in styles:
        raise InputError(f"{folder} holds no style {style!r}; expected one of {', '.join(styles)}")
    records = [
        record
        for record in read_metadata(folder)
        if split in ("all", record["split"]) and style in (None, record["style"])
    ]
    if not records:
        raise InputError(f"{folder} holds no image of the split {split!r}; build the set again")
    number = {name: i for i, name in enumerate(classes)}
    pixels = np.empty((len(records), 3, resolution, resolution), np.uint8)
    for i, record in enumerate(records):
        try:
            with Image.open(folder / record["file"]) as picture:
                pixels[i] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{folder / record['file']} is missing or damaged; build the set again") from error
    labels = [number[record["class"]] for record in records]
    return _image_data(pixels, labels, classes, split, [record["name"] for record in records], [])


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
    _check_split(split)
    if not 0 <= held_out < 1:
        raise InputError(f"held_out is {held_out}; expected a share from 0 to below 1")
    root, files = _files_of_split(_existing_folder(folder), split, held_out)
    nested = any(path.parent != root for path in files)
    classes = sorted({_class_of(path, root) for path in _all_files(root)}) if nested else [root.name]
    _check_memory(root, len(files), resolution)
    kept, pixels, unreadable, small = [], [], [], []
    for path in files:
        picture = _read(path)
        if picture is None:
            unreadable.append(str(path))
        elif min(picture.size) < resolution:
            small.append(f"{path} ({picture.width} x {picture.height})")
        else:
            kept.append(path)
            pixels.append(np.asarray(_fit(picture, resolution)).transpose(2, 0, 1))
    if small:
        raise InputError(
            f"{len(small)} of {len(files)} images are smaller than {resolution} pixels, for instance {small[0]}; "
            "take them out or choose a lower resolution"
        )
    if not kept:
        raise InputError(f"none of the {len(files)} images in {folder} can be read, for instance {unreadable[0]}")
    if unreadable:
        text = f"{len(unreadable)} of {len(files)} images cannot be read and are left out, for instance {unreadable[0]}"
        warnings.warn(text, stacklevel=2)
    labels = [classes.index(_class_of(path, root)) if nested else 0 for path in kept]
    names = [str(path.relative_to(root)) for path in kept]
    return _image_data(np.stack(pixels), labels, classes, split, names, unreadable)
