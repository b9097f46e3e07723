"""Names for the classes of a converted model: ImageNet's, which travel with the package, or those of a user's file.

A class of ImageNet is also known by its WordNet ID (n01443537), which is how the folders of its pictures are called.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from nextscale.conditions.classes import ClassVocabulary, Thing
from nextscale.documents import parse_json, read_text
from nextscale.errors import CheckpointError, InputError, quoted

IMAGENET = "imagenet-1k"
"""What stands for ImageNet's names where a file of names is asked for."""
TABLE = Path(__file__).parent / "imagenet_classes.txt"
WNID, BEGINS = re.compile(r"n[0-9]{8}"), re.compile(r"n[0-9]{8}(?!\S)")
SPLITS = {"train", "val", "valid", "validation", "dev", "test", "heldout"}
LARGEST = 1 << 24
"""Bytes of a file of names; that of ImageNet's 21,841 classes has a million."""

Names = tuple[str, ...]
"""What one class is called: its name, and then further words for it."""


@cache
def imagenet() -> ClassVocabulary:
    """The 1000 classes of ImageNet in the order of their WordNet IDs, which is that of their numbers."""
    return _vocabulary(_of_lines(TABLE.read_text(encoding="utf-8").splitlines(), TABLE))


def read_class_names(source: Path | str) -> ClassVocabulary:
    """Names of classes in the order of their numbers, from a file or folder.

    source: ``imagenet-1k``; a text file with a name a line, or ``n01440764 tench, Tinca tinca`` as ``synset_words.txt``
    has it; JSON such as ``imagenet_class_index.json`` (number to name, or to WordNet ID and name), ``id2label``, name
    to number, or a list; ``classes.json`` of a checkpoint; a folder with a folder per class, counted by name as
    torchvision counts them. Raises ``InputError`` for anything else.
    """
    path = Path(source)
    if source and path.is_dir():
        return _vocabulary(_of_folder(path))
    if str(source) == IMAGENET and not path.exists():
        return imagenet()
    if not path.is_file():
        raise InputError(
            f"there is no file or folder {quoted(str(source))} with the names of classes; expected one, or {IMAGENET}"
        )
    text = read_text(path, InputError, LARGEST)
    if path.suffix == ".json":
        return _of_json(parse_json(text, str(path)), path)
    return _vocabulary(_of_lines(_lines(text), path))


def called_as(vocabulary: ClassVocabulary, names: Iterable[str]) -> ClassVocabulary:
    """The same classes, each called by its WordNet ID where that is among ``names``, as folders of pictures call it."""
    ids = {word: thing.class_id for thing in vocabulary.things for word in thing.keywords if WNID.fullmatch(word)}
    renamed = list(vocabulary.names)
    for name in names:
        if name in ids and name not in vocabulary.names:
            renamed[ids[name]] = name
    old = dict(zip(vocabulary.names, renamed, strict=True))
    missing = frozenset((style, old[name]) for style, name in vocabulary.missing)
    return replace(vocabulary, names=tuple(renamed), missing=missing)


def _lines(text: str) -> list[str]:
    """Lines as an editor shows them, without the empty ones at the end."""
    return text.replace("\r\n", "\n").rstrip("\n ").split("\n")


def _of_lines(lines: Sequence[str], path: Path) -> list[Names]:
    listed = [line.strip() for line in lines]
    if not all(BEGINS.match(line) for line in listed):
        return [(line,) for line in listed]
    ids = [line[:9] for line in listed]
    _check_order(ids, path)
    return [_of_wnid(wnid, line[9:]) for wnid, line in zip(ids, listed, strict=True)]


def _check_order(ids: Sequence[str], path: Path) -> None:
    """Lists of WordNet IDs come in several orders; models count their classes in that of the IDs."""
    wrong = next((i for i, (a, b) in enumerate(pairwise(ids)) if a >= b), None)
    if wrong is not None:
        raise InputError(
            f"{path} lists {ids[wrong]} before {ids[wrong + 1]}; models number classes in the order of these IDs, so "
            "sort the lines, or give JSON with the numbers"
        )


def _of_wnid(wnid: str, words: str = "") -> Names:
    """Names and ID of a class: those given behind the ID, else ImageNet's, else the ID alone."""
    given = tuple(word.strip() for word in words.split(",") if word.strip())
    return (*(given or _known().get(wnid, ())), wnid)


@cache
def _known() -> Mapping[str, Names]:
    """ImageNet's names by WordNet ID."""
    rows = (line.split(" ", 1) for line in TABLE.read_text(encoding="utf-8").splitlines())
    return {wnid: tuple(words.split(", ")) for wnid, words in rows}


def _of_folder(path: Path) -> list[Names]:
    """The folders in a folder, sorted by name, as ``torchvision.datasets.ImageFolder`` numbers them."""
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if "train" in folders and SPLITS.issuperset(folders):
        raise InputError(f"{path} holds the splits {', '.join(folders)}; give the folder of classes, {path / 'train'}")
    if not folders:
        raise InputError(f"{path} holds no folders; expected one for every class")
    return [_of_wnid(name) if WNID.fullmatch(name) else (name,) for name in folders]


def _of_json(data: Any, path: Path) -> ClassVocabulary:
    if isinstance(data, Mapping) and "names" in data:
        try:
            return ClassVocabulary.from_dict(data)
        except CheckpointError as error:
            raise InputError(f"{path}: {error}") from None
    if isinstance(data, Mapping) and isinstance(data.get("id2label"), Mapping):
        data = data["id2label"]
    rows = data
    if isinstance(data, Mapping):
        turned = data and all(isinstance(value, int) for value in data.values())
        pairs = [(str(value), key) for key, value in data.items()] if turned else list(data.items())
        numbered = dict(pairs)
        expected = [str(i) for i in range(len(data))]
        if set(numbered) != set(expected):
            odd = next((key for key, _ in pairs if key not in expected), "a number twice")
            raise InputError(f"{path} has {quoted(odd)}; expected the numbers 0 to {len(data) - 1}, one for each class")
        rows = [numbered[i] for i in expected]
    if not isinstance(rows, list):
        raise InputError(f"{path} holds a {type(data).__name__}; expected a list of names, or names by number")
    return _vocabulary([_of_row(row, path) for row in rows])


def _of_row(row: Any, path: Path) -> Names:
    """One class in JSON: its name, its WordNet ID, or both, as ``imagenet_class_index.json`` has them."""
    words = [row] if isinstance(row, str) else row
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise InputError(f"{path} calls a class {quoted(row)}; expected a name")
    if WNID.fullmatch(words[0]):
        return (*(words[1:] or _known().get(words[0], ())), words[0])
    return tuple(words)


def _vocabulary(rows: Sequence[Names]) -> ClassVocabulary:
    """The classes; a name that several have gets their WordNet ID or number behind it, so that they differ."""
    plain = [tuple(unicodedata.normalize("NFC", word) for word in row) for row in rows]
    for i, row in enumerate(plain):
        if not row[0].strip() or not all(word.isprintable() for word in row):
            raise InputError(f"class {i} is called {quoted(row[0])}; expected a name of letters, for every class")
    times = Counter(row[0] for row in plain)
    names = list(_told_apart(plain, times))
    things = [Thing(row[0], i, tuple(row[1:])) for i, row in enumerate(plain) if len(row) > 1 or row[0] != names[i]]
    return ClassVocabulary(tuple(names), tuple(things))


def _told_apart(rows: Sequence[Names], times: Mapping[str, int]) -> Iterator[str]:
    for i, row in enumerate(rows):
        ids = [word for word in row[1:] if WNID.fullmatch(word)]
        yield row[0] if times[row[0]] == 1 else f"{row[0]} ({ids[0] if ids else i})"
