"""Classes: their names, in the order of their ids."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from nextscale.data.found import composed
from nextscale.errors import InputError, quoted

MOST_CLASSES = 100_000  # that ids may mean without a list of names
LONGEST_NAME = 1000
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def folders_as_classes(names: Sequence[str], where: str, alone: str) -> list[str]:
    """The class of each path in ``names``: the folder it begins with, or ``alone`` where no image is in a folder.

    Raises:
        InputError: some are in folders and some are not.
    """
    parents = [name.split("/")[0] if "/" in name else None for name in names]
    if any(parents) and not all(parents):
        single = [name for name, parent in zip(names, parents, strict=True) if parent is None]
        inside = next(name for name, parent in zip(names, parents, strict=True) if parent is not None)
        raise InputError(
            f"{where} holds both single images and folders of images ({len(single)} such as {single[0]}, and "
            f"{len(names) - len(single)} such as {inside}); expected one of the two"
        )
    return [composed(parent or alone) for parent in parents]


def named(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names of the classes in the order of their ids, and the id of each image, of which ``texts`` are the names.

    The order is that of the names; where all are numbers, that of the numbers.

    Raises:
        InputError: a name is empty, or longer than ``LONGEST_NAME`` characters.
    """
    classes = in_order(set(texts))
    longest = max(classes, key=len)
    if "" in classes:
        raise InputError(f"{texts.count('')} images have an empty class; expected a name or a number")
    if len(longest) > LONGEST_NAME:
        raise InputError(f"a class is called {quoted(longest)}; expected a name of at most {LONGEST_NAME} characters")
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[text] for text in texts]


def in_order(names: Iterable[str]) -> list[str]:
    """``names`` sorted; by their value where all are numbers."""
    names = sorted(names)
    return sorted(names, key=Decimal) if all(map(NUMBER.fullmatch, names)) else names


def all_numbers(texts: Iterable[str]) -> bool:
    """Whether all are written in the digits 0 to 9."""
    return all(text.isascii() and text.isdecimal() for text in texts)


def numbered(where: str, names: Path, texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names of the classes and the id of each image, where ``texts`` are ids; ``names`` is the file of names.

    Raises:
        InputError: an id is too large, or the file cannot be used.
    """
    listed = class_names(names) if names.is_file() else None
    count = MOST_CLASSES if listed is None else len(listed)
    largest = max(texts, key=lambda text: (len(text.lstrip("0")), text.lstrip("0")))
    if len(largest) > 18 or int(largest) >= count:
        shown = largest if len(largest) <= 18 else f"{largest[:18]}..."
        if listed is not None:
            raise InputError(f"{names} names {count} classes, but an image of {where} has class {shown}")
        raise InputError(f"an image of {where} has class {shown}; expected ids below {count}")
    return listed or [str(i) for i in range(int(largest) + 1)], [int(text) for text in texts]


def class_names(file: Path) -> list[str]:
    """The lines of ``classnames.txt``.

    Raises:
        InputError: it is not UTF-8, or names a class twice.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); expected the name of a class a line, in UTF-8") from error
    listed = [composed(line) for line in text.splitlines()]
    name, times = Counter(listed).most_common(1)[0] if listed else ("", 0)
    if times > 1:
        raise InputError(
            f"{file} holds the name {quoted(name)} {times} times; expected a different name for each class"
        )
    return listed


def doubts(classes: Sequence[str], ids: Sequence[int], sides: Sequence[str]) -> list[str]:
    """What a person should know of the classes: that no image of one is trained on, that some look alike, or that
    numbers are not their ids.

    ids, sides: of each image.
    """
    pairs = set(zip(ids, sides, strict=True))
    unseen = [name for i, name in enumerate(classes) if (i, "heldout") in pairs and (i, "train") not in pairs]
    notes = [f"{len(unseen)} of {len(classes)} classes have no image to train on: {some(unseen)}"] if unseen else []
    alike = _alike(classes)
    if alike:
        notes.append(f"{' and '.join(map(quoted, alike))} are different classes, though their names look alike")
    if all(map(NUMBER.fullmatch, classes)) and any(Decimal(name) != i for i, name in enumerate(classes)):
        notes.append(
            f"the classes are called {some(classes)}, but their ids are 0 to {len(classes) - 1}, in this order"
        )
    return notes


def _alike(names: Iterable[str]) -> list[str]:
    """The first names that differ in capitals, spaces, joined or invisible letters alone."""
    forms: dict[str, list[str]] = {}
    for name in names:
        shown = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
        forms.setdefault(" ".join(shown.casefold().split()), []).append(name)
    return next((alike for alike in forms.values() if len(alike) > 1), [])


def some(names: Sequence[str]) -> str:
    """The first few of ``names``, for a message."""
    return ", ".join(name[:40] for name in names[:5]) + (", ..." if len(names) > 5 else "")
