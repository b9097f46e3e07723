"""A small emoji set for models of texts: cells and families that are held out, twins, a "no", skin tones, a flag."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from nextscale.data.emoji import FORMAT_VERSION
from nextscale.data.emoji_cells import sides
from nextscale.data.sides import hash_of

STYLES = ("noto", "twemoji", "openmoji")
CLASSES = ("animal", "tool", "country-flag")
SEEN = ("fox", "no fox", "left saw right", "right saw left", "hammer", "drill")
CELLS = {"noto": "cat", "twemoji": "dog", "openmoji": "axe"}
FAMILIES = ("owl", "pick")


def draw_cells(folder: Path, side: int = 16, styles: Sequence[str] = STYLES) -> Path:
    """Every emoji has a pattern that its styles share, on a ground of their own. Each cell's family has two emoji."""
    records = list[dict[str, object]]()
    for name in SEEN:
        records += of_family(name, [name], styles, "train", {"train"})
    for style in styles:
        name = CELLS[style]
        records += of_family(
            name, [name, f"{name} face", f"{name}: dark skin tone"], styles, "train", {"train", "cell"}, style
        )
    for name in FAMILIES:
        records += of_family(name, [name], styles, "heldout", {"family"})
    records += of_family("flag: Norway", ["flag: Norway"], styles, "train", {"train"})
    (folder / "images").mkdir(parents=True)
    for record in records:
        Image.fromarray(pattern(str(record["name"]), str(record["style"]), side)).save(folder / str(record["file"]))
    description = {"recipe": {"format_version": FORMAT_VERSION, "resolution": side, "styles": list(styles)}}
    (folder / "dataset.json").write_text(json.dumps({**description, "classes": CLASSES}))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def of_family(
    first: str, names: Sequence[str], styles: Sequence[str], split: str, found: set[str], lost: str | None = None
) -> list[dict[str, object]]:
    """Records of a family, under a key whose hash puts them on the sides ``found``; lost: the style of its cell."""
    flag, animal = first.startswith("flag"), first in ("fox", "no fox", "cat", "dog", "owl")
    for i in count():
        family = f"{first} {i}"
        records = [
            {
                **{
                    "id": f"{style}/{name}",
                    "file": f"images/{hash_of(style + name)}.png",
                    "name": name,
                    "style": style,
                },
                **{"class": CLASSES[2] if flag else CLASSES[0 if animal else 1], "family": family, "split": split},
                **{"keywords": ["a", "b", "c"], "tones": [5] if "skin" in name else []},
            }
            for style in styles
            for name in names
        ]
        on = sides(records)
        cell = {str(record["style"]) for record, side in zip(records, on, strict=True) if side == "cell"}
        if set(on) == found and cell == ({lost} if lost else set()):
            return records
    raise AssertionError


def pattern(name: str, style: str, side: int) -> np.ndarray:
    """The pattern of an emoji, uint8 (side, side, 3), mixed with a colour of the style."""
    of_emoji = np.random.default_rng(hash_of(name) % 2**32).integers(0, 256, (4, 4, 3))
    of_style = np.random.default_rng(hash_of(style) % 2**32).integers(0, 256, 3)
    return np.kron((of_emoji + of_style) // 2, np.ones((side // 4, side // 4, 1))).astype(np.uint8)
