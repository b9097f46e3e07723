"""A world of four drawings per style, packed like the real npm packages, so that a build needs no network."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from nextscale.data.emoji_sources import Package

GROUPS = {
    "groups": {"0": "smileys-emotion", "1": "people-body", "2": "component", "3": "animals-nature"},
    "subgroups": {"12": "cat-face", "25": "person-role", "32": "skin-tone", "34": "animal-mammal"},
}


def _base(hexcode: str, label: str, group: int, subgroup: int, order: int, **more: Any) -> dict[str, Any]:
    character = "".join(chr(int(part, 16)) for part in hexcode.split("-"))
    entry = {"hexcode": hexcode, "label": label, "group": group, "subgroup": subgroup, "order": order}
    return {**entry, "emoji": character, "tags": label.split(), **more}


EMOJIBASE = [
    _base("1F9D1-200D-2695-FE0F", "health worker", 1, 25, 20),
    _base(
        "1F469-200D-2695-FE0F",
        "woman health worker",
        1,
        25,
        21,
        skins=[
            {"hexcode": "1F469-1F3FF-200D-2695-FE0F", "label": "woman health worker: dark", "emoji": "x", "tone": 5}
        ],
    ),
    _base("1F63A", "grinning cat", 0, 12, 10),
    _base("1F415", "dog", 3, 34, 30),
    _base("1F3FB", "light skin tone", 2, 32, 5),
    {"hexcode": "1F1E6", "label": "regional indicator A", "emoji": "A", "order": 1},
]

BODIES = {
    "health-worker": '<rect width="8" height="8" fill="#ff0000"/>',
    "woman-health-worker": '<rect width="4" height="8" fill="#0000ff"/>',
    "grinning-cat": '<rect width="8" height="8" fill="#000000" fill-opacity="0.5"/>',
}
CHARS = {
    "1f9d1-200d-2695": "health-worker",
    "1f469-200d-2695": "woman-health-worker",
    "1f469-1f3ff-200d-2695": "mirrored-worker",
    "1f63a": "grinning-cat",
    "1f415": "wide-dog",
    "1f3fb": "health-worker",
    "1f1e6": "health-worker",
}
ICONS = {
    "width": 8,
    "height": 8,
    "icons": {
        **{name: {"body": body} for name, body in BODIES.items()},
        "wide-dog": {"body": '<rect width="8" height="4" fill="#00ff00"/>', "height": 4},
    },
    "aliases": {"mirrored-worker": {"parent": "woman-health-worker", "hFlip": True}},
}
INFO = {
    "name": "Tiny",
    "author": {"name": "A. Painter", "url": "https://example.org"},
    "license": {"spdx": "CC0-1.0"},
}


def pack(path: Path, files: Mapping[str, Any]) -> str:
    """Write a tarball as ``npm pack`` does; returns its sha256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache, and no npm to fill it."""
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    return tmp_path / "cache" / "npm"


@pytest.fixture
def packages(cache: Path) -> dict[str, Package]:
    """The tiny packages, in the cache: two styles, of which the second has no ``chars.json``."""
    contents: dict[str, dict[str, Any]] = {
        "emojibase": {"en/data.json": EMOJIBASE, "meta/groups.json": GROUPS},
        "noto": {"icons.json": ICONS, "info.json": INFO, "chars.json": CHARS},
        "fluent-emoji-flat": {"icons.json": ICONS, "info.json": INFO, "chars.json": CHARS},
        "fluent-emoji": {"icons.json": ICONS, "info.json": INFO},
    }
    found = {}
    for name, files in contents.items():
        unpinned = Package(f"@tiny/{name}", "1.0.0", "")
        found[name] = Package(unpinned.name, unpinned.version, pack(cache / unpinned.file_name, files))
    return found
