"""Reading a built emoji set: its description, its records, its images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nextscale.data.captions import Captions
from nextscale.data.emoji import FORMAT_VERSION, STYLES
from nextscale.data.emoji_captions import captions_of
from nextscale.data.emoji_cells import CELLS, FAMILIES, sides
from nextscale.data.emoji_families import HELD_OUT_SHARE
from nextscale.data.images import ImageData, InMemory, check_split, existing_folder
from nextscale.documents import read_json
from nextscale.errors import InputError, quoted

FIELDS = {
    **dict.fromkeys(("file", "split", "style", "family", "class", "name"), str),
    **dict.fromkeys(("keywords", "tones"), list),
}
"""What is read of a record."""
LICENCE = ("name", "author", "licence", "url")
WORDS = {
    **{"name": "Names and keywords of emojibase-data", "author": "Miles Johnson"},
    **{"licence": "MIT", "url": "https://emojibase.dev"},
}
"""Of whom classes and captions are."""
BASE, TONED = 3, 1
"""How often an epoch of a text model draws a base emoji and a skin-tone variant."""


def holds_emoji(folder: Path | str) -> bool:
    """Whether ``folder`` is a built emoji set, be it a damaged one; other tools write a ``dataset.json``, too."""
    path = Path(folder) / "dataset.json"
    if not path.is_file():
        return False
    try:
        description = read_json(path)
        return description.get("kind") == "emoji" or "format_version" in description["recipe"]
    except (AttributeError, LookupError, TypeError):
        return False
    except InputError:
        return any((path.parent / "images" / style).is_dir() for style in STYLES)


def read_description(folder: Path | str) -> dict[str, Any]:
    """``dataset.json`` of a built emoji set.

    Raises:
        InputError: it is missing, damaged, or of a format this version does not know.
    """
    path = Path(folder) / "dataset.json"
    try:
        description = read_json(path)
        version, resolution = (description["recipe"][key] for key in ("format_version", "resolution"))
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read as the description of an emoji set; build the set again") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{path} has format version {quoted(version)}; expected {FORMAT_VERSION}: build the set again")
    if type(resolution) is not int or not 8 <= resolution <= 1024:
        raise InputError(f"{path} has resolution {quoted(resolution)}; expected 8 to 1024 pixels: build the set again")
    return dict(description)


def read_licences(folder: Path | str) -> list[dict[str, str]]:
    """The licences of an emoji set: of its drawings, and of its words; empty for every other folder."""
    try:
        described = read_json(Path(folder) / "dataset.json")
        found = [{key: str(of[key]) for key in LICENCE} for of in described["licences"].values()]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []
    return [*found, WORDS] if found else []


def read_metadata(folder: Path | str) -> list[dict[str, Any]]:
    """The records of a built emoji set, one per image, in order; docs/data.md describes their fields.

    Raises:
        InputError: ``metadata.jsonl`` is missing or damaged.
    """
    path = Path(folder) / "metadata.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as the records of an emoji set; build the set again") from error
    for line, record in enumerate(records, 1):
        if not isinstance(record, dict) or any(not isinstance(record.get(key), kind) for key, kind in FIELDS.items()):
            raise InputError(
                f"line {line} of {path} is no record of an emoji set: {quoted(record)}; build the set again"
            )
    return records


def families_of(folder: Path | str, data: ImageData) -> list[str]:
    """The family of every image, the drawings of one thing; outside emoji sets each image is one of its own."""
    records = read_metadata(folder) if holds_emoji(folder) else []
    families = {record["name"]: str(record["family"]) for record in records}
    return [families.get(name, name) for name in data.names]


def records_of(folder: Path | str, data: ImageData) -> list[dict[str, Any]]:
    """The record of every image of an emoji set, in the order of ``data``, which was read from ``folder``."""
    records = {(record["style"], record["name"]): record for record in read_metadata(folder)}
    return [records[data.styles[style], name] for style, name in zip(data.style_labels, data.names, strict=True)]


def _names(folder: Path, description: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Styles and classes."""
    styles: Any = description["recipe"].get("styles")
    classes: Any = description.get("classes")
    for names in (styles, classes):
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"{folder / 'dataset.json'} has {quoted(names)} for styles or classes; expected names: "
                "build the set again"
            )
    return styles, classes


def load_emoji(folder: Path | str, split: str = "train", style: str | None = None, captions: bool = False) -> ImageData:
    """Read a set that ``build_emoji`` built.

    Args:
        split: ``train``, ``heldout`` or ``all``.
        style: only the drawings of this style; all styles of the set by default.
        captions: whether it is read for a text model: with its captions (else they are the names), split by cells (see
            ``emoji_cells``), and with skin-tone variants drawn a third as often as base emoji.

    Raises:
        InputError: the folder holds no such set, style or split, or an image of the set is damaged.
    """
    check_split(split)
    folder = existing_folder(folder)
    description = read_description(folder)
    resolution, styles, classes = description["recipe"]["resolution"], *_names(folder, description)
    if style is not None and style not in styles:
        raise InputError(f"{folder} holds no style {style!r}; expected one of {', '.join(styles)}")
    every = read_metadata(folder)
    on = sides(every) if captions else [record["split"] for record in every]
    records = [
        record
        for record, side in zip(every, on, strict=True)
        if split in ("all", "train" if side == "train" else "heldout") and style in (None, record["style"])
    ]
    if not records:
        raise InputError(f"{folder} holds no image of the split {split!r}; build the set again")
    number = {name: i for i, name in enumerate(classes)}
    for record in records:
        if record["class"] not in number or record["style"] not in styles:
            raise InputError(
                f"{folder} holds {quoted(record['name'])} of the class {quoted(record['class'])} in the style "
                f"{quoted(record['style'])}, which its description does not name; build the set again"
            )
    pixels = np.empty((len(records), 3, resolution, resolution), np.uint8)
    for i, record in enumerate(records):
        try:
            with Image.open(folder / record["file"]) as picture:
                pixels[i] = np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"{folder}/{record['file'][:200]} is missing or damaged; build the set again") from error
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
        split_by=_split_by(captions),
        notes=("skin-tone variants are drawn a third as often as other emoji",) if captions else (),
        captions=tuple(captions_of(record) if captions else Captions(record["name"]) for record in records),
        times=torch.tensor([TONED if record["tones"] else BASE for record in records]) if captions else None,
    )


def _split_by(captions: bool) -> str:
    if not captions:
        return f"families, {HELD_OUT_SHARE:.0%} of which are held out"
    return (
        f"cells and families: {CELLS:.0%} of the families that all styles draw are held out in one style (in both of "
        f"Fluent), and {FAMILIES:.0%} of those that class models do not see in all"
    )
