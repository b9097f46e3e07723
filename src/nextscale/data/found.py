"""What lies in a set: its images, where they are, and all that is passed over, counted and named."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from nextscale.decoding import suffixes

PICTURES = "pictures (.jpg, .png, .webp or another suffix that Pillow reads)"
HIDDEN, SYSTEM = QUIET = "hidden", "of the system"
TABLES = ("metadata.jsonl", "metadata.csv")
LIST = re.compile(r"\d+(\.\d+)?_\d+\.jsonl")
"""Infinity's lists of images with captions, named by height / width and number of images."""
_LABELS = re.compile(r".*\.(csv|tsv|jsonl|parquet)|.*(label|class|annot|categor|metadata|synset|dataset).*\.\w+", re.I)
_SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


@dataclass
class PassedOver:
    """Files that are not read: how many of each kind (``.txt``, ``hidden``), and the first of each."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    """Those whose names say that labels may be in them."""

    def add(self, kind: str, name: str, count: int = 1) -> None:
        """Count a file, or ``count`` of them, of which ``name`` is the first."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        self.first.setdefault(kind, name)

    def add_file(self, name: str) -> None:
        """Count a file by its suffix."""
        self.add(os.path.splitext(name)[1].lower()[:20] or "without a suffix", name)
        if _LABELS.fullmatch(name.rsplit("/", 1)[-1]):
            self.labels.append(name)

    def update(self, other: PassedOver) -> None:
        """Count what ``other`` has counted as well."""
        for kind, count in other.counts.items():
            self.add(kind, other.first[kind], count)
        self.labels += other.labels

    def doubts(self) -> list[str]:
        """Says that labels may be in a file that is not read."""
        first, *more = self.labels or [""]
        also = f" and {len(more)} more files, which are" if more else ", which is"
        return [f"there may be labels in {first}{also} not read"] if first else []

    def __str__(self) -> str:
        """``12 files (10 .heic, 2 hidden), for instance cat/1.heic``; clutter comes last."""
        if not self.counts:
            return "nothing"
        kinds = sorted(self.counts, key=lambda kind: (kind in QUIET, -self.counts[kind]))
        shown = [f"{self.counts[kind]} {kind}" for kind in kinds[:8]]
        shown += [f"{len(kinds) - 8} kinds more"] if len(kinds) > 8 else []
        count = sum(self.counts.values())
        return f"{count} {'file' if count == 1 else 'files'} ({', '.join(shown)}), for instance {self.first[kinds[0]]}"


@dataclass
class Found:
    """The images below a folder, each with its path within it, in a fixed order; tables; and the rest.

    Where captions are looked for, also the lists of images with captions and the texts beside images of their names.
    """

    images: list[tuple[Path, str]]
    tables: list[tuple[Path, str]]
    passed_over: PassedOver
    lists: list[tuple[Path, str]] = field(default_factory=list)
    texts: list[tuple[Path, str]] = field(default_factory=list)


def in_utf8(text: str) -> str:
    """``text``, where bytes of a file name that are not UTF-8 are written out, so that it can be hashed and shown."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def composed(text: str) -> str:
    """``text`` in Unicode's composed form (NFC), so that what looks the same is the same."""
    return unicodedata.normalize("NFC", text)


def look_into(root: Path, known: Collection[Path] = (), captions: bool = False) -> Found:
    """All below ``root`` but the files ``known``. Links are followed; what is hidden or no picture is passed over.

    captions: also look for lists and texts, which are passed over otherwise.
    """
    found, read = Found([], [], PassedOver()), suffixes()
    at = os.stat(root)
    folders = [(root, "", frozenset({(at.st_dev, at.st_ino)}))]
    while folders:
        folder, within, above = folders.pop()
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            found.passed_over.add("folders that cannot be read", in_utf8(within))
            continue
        stems = {stem for stem, suffix in map(os.path.splitext, names if captions else ()) if suffix.lower() in read}
        for name in names:
            path, inside = folder / name, f"{within}/{name}" if within else name
            kind = _kind(path, above, read) if path not in known else "known"
            if captions and kind == "file":
                kind = _caption_kind(path, stems)
            if kind == "folder":
                at = os.stat(path)
                folders.append((path, inside, above | {(at.st_dev, at.st_ino)}))
            elif kind == "image":
                found.images.append((path, inside))
            elif kind == "table":
                found.tables.append((path, in_utf8(inside)))
            elif kind == "list":
                found.lists.append((path, in_utf8(inside)))
            elif kind == "text":
                found.texts.append((path, in_utf8(inside)))
            elif kind == "file":
                found.passed_over.add_file(in_utf8(inside))
            elif kind != "known":
                found.passed_over.add(kind, in_utf8(inside))
    found.images.sort(key=lambda image: image[1].split("/"))
    found.images = [(path, in_utf8(inside)) for path, inside in found.images]
    found.tables.sort(key=lambda table: table[1].split("/"))
    return found


def _caption_kind(path: Path, stems: Collection[str]) -> str:
    """Whether a file is a list, or a text beside one of the images called ``stems``."""
    if LIST.fullmatch(path.name):
        return "list"
    stem, suffix = os.path.splitext(path.name)
    return "text" if suffix.lower() == ".txt" and stem in stems else "file"


def _kind(path: Path, above: Collection[tuple[int, int]], read: Collection[str]) -> str:
    """What lies at ``path``: a folder, image, table or file, or why it is passed over. above: ids of its folders."""
    if path.name.startswith("."):
        return HIDDEN
    if path.name in _SYSTEM:
        return SYSTEM
    try:
        at = os.stat(path)
    except OSError:
        return "links to nowhere" if path.is_symlink() else "files that cannot be read"
    if os.path.isdir(path):
        return "links that go in circles" if (at.st_dev, at.st_ino) in above else "folder"
    if not os.path.isfile(path):
        return "no regular files"
    if path.suffix.lower() in read:
        return "image"
    return "table" if path.name in TABLES else "file"
