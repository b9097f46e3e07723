"""Reading a built emoji set: its description, its records, its images."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nextscale.data.emoji import FORMAT_VERSION
from nextscale.data.images import ImageData, InMemory, check_split, existing_folder
from nextscale.errors import InputError


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
    check_split(split)
    folder = existing_folder(folder)
    description = read_description(folder)
    styles, resolution = description["recipe"]["styles"], description["recipe"]["resolution"]
    classes = description["classes"]
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
    style_labels = [styles.index(record["style"]) for record in records]
    # The styles of a set of one say nothing about its content.
    known = [classes, labels] if len(styles) < 2 else [classes, labels, styles, style_labels]
    digest = hashlib.sha256(json.dumps(known).encode())
    digest.update(pixels.data)
    return ImageData(
        pictures=InMemory(torch.from_numpy(pixels), resolution),
        labels=torch.tensor(labels),
        classes=classes,
        split=split,
        names=[record["name"] for record in records],
        hash=digest.hexdigest(),
        style_labels=torch.tensor(style_labels),
        styles=styles,
    )
