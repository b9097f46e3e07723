"""Tables beside the images, as the hub's ImageFolder has them (``metadata.jsonl`` or ``metadata.csv``), and labels.

Each row names a file, by its path from the table's folder, and may give it a label. What it says in words is read by
``caption_files``.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nextscale.data.found import TABLES, composed
from nextscale.errors import InputError, quoted

FILE_COLUMNS = ("file_name", "filename", "file", "path", "image", "image_path", "filepath")
LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "class_name",
    "category",
    "target",
    "label_name",
    "label_id",
    "class_id",
    "category_id",
)
SPLIT_COLUMNS = ("split", "subset", "fold")


@dataclass
class Labels:
    """What tables say: the label of each image by its name (none of those it has no row for), and notes for people."""

    of: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    used: dict[str, list[str]] = field(default_factory=dict)
    """The tables that labels come from, by the names of their columns."""


def read_labels(tables: Sequence[tuple[Path, str]], names: Sequence[str], captioned: Collection[Path] = ()) -> Labels:
    """The labels of images in ``tables``, each given with its path within the set.

    names: all images, by their paths within the set; captioned: tables that give captions, so that they are of use
    without labels.

    Raises:
        InputError: a table is damaged, names none of the images, or gives one image two labels.
    """
    found, known = Labels(), {composed(name): name for name in names}
    for path, within in tables:
        rows = list(rows_of(path))
        columns = list(dict.fromkeys(column for _, row in rows for column in row))
        file_column, label_column = column_of(columns, FILE_COLUMNS), column_of(columns, LABEL_COLUMNS)
        if label_column is None or file_column is None:
            if path in captioned:
                continue
            missing = "label" if label_column is None else "file_name"
            listed = ", ".join(str(column)[:40] for column in columns[:8]) or "none"
            found.notes.append(f"{path} is not used: it has no column {missing} (its columns: {listed})")
            continue
        named = named_rows(path, within, rows, file_column, known, found.notes)
        _read_rows(path, named, label_column, found)
        found.notes += split_note(path, columns)
    return found


def split_note(path: Path, columns: Sequence[str]) -> list[str]:
    """Says that a table's column of sides is not used, if it has one."""
    split = column_of(columns, SPLIT_COLUMNS)
    if split is None:
        return []
    return [f"the column {split} of {path} is not used; a split is given by folders train and val"]


def _read_rows(path: Path, named: Sequence[tuple[int, dict[str, Any], str]], column: str, found: Labels) -> None:
    """Add the labels in rows of the table at ``path``, each given with its line and the image that it names."""
    unlabelled = 0
    for line, row, name in named:
        label = _label(row.get(column))
        if label is None:
            unlabelled += 1
        elif found.of.setdefault(name, label) != label:
            both = f"{quoted(found.of[name])} and {quoted(label)}"
            raise InputError(f"line {line} of {path} gives {name} a second label ({both}); expected one")
    if unlabelled and unlabelled == len(named):
        found.notes.append(f"{path} is not used: none of its rows has a name or a number in the column {column}")
    if unlabelled < len(named):
        found.used.setdefault(column, []).append(str(path))


def named_rows(
    path: Path,
    within: str,
    rows: Sequence[tuple[int, dict[str, Any]]],
    column: str,
    known: Mapping[str, str],
    notes: list[str],
) -> list[tuple[int, dict[str, Any], str]]:
    """The rows of a table that name an image of the set, each with its line and the image's name.

    within: the table's path within the set; column: that of files; known: the images' names by their paths; notes:
    where rows of other files are counted, for people.

    Raises:
        InputError: a row names no file, or none names an image of the set.
    """
    unknown, named = list[str](), []
    for line, row in rows:
        file = file_of(row, column, line, path)
        name = known.get(place_of(posixpath.dirname(within), file))
        if name is None:
            unknown.append(file)
        else:
            named.append((line, row, name))
    if rows and not named:
        raise InputError(
            f"{path} names {len(rows)} files, none of which is an image of the set, for instance {quoted(unknown[0])}; "
            "expected their paths from the folder that the table lies in"
        )
    if unknown:
        notes.append(
            f"{len(unknown)} of {len(rows)} files named in {path} are no images of the set, for instance "
            f"{quoted(unknown[0])}"
        )
    return named


def file_of(row: Mapping[str, Any], column: str, line: int, path: Path) -> str:
    """The file that a row names in ``column``. line, path: where the row stands.

    Raises:
        InputError: it names none.
    """
    file = row.get(column)
    if not isinstance(file, str) or not file.strip():
        raise InputError(f"line {line} of {path} has {quoted(file)} in the column {column}; expected a file name")
    return file


def place_of(folder: str, file: str) -> str:
    """The path within the set of a file that a table in ``folder`` of the set names."""
    return composed(posixpath.normpath(posixpath.join(folder, file.strip().replace("\\", "/"))))


def column_of(columns: Sequence[str], names: Sequence[str]) -> str | None:
    """The first of ``names`` that is a column, in any case; for files also one that ends in _file_name."""
    lower = {column.strip().lower(): column for column in reversed(columns)}
    longer = [column for column in columns if column.lower().endswith("_file_name")] if names is FILE_COLUMNS else []
    return next((lower[name] for name in names if name in lower), next(iter(longer), None))


def _label(value: Any) -> str | None:
    """A label as a class name; None for what is none: nothing, several, or something nested."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool | int) or (isinstance(value, float) and value == value):
        value = str(value)
    return composed(value).strip() or None if isinstance(value, str) else None


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a table, each with the number of its line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); expected a table in UTF-8") from error
    if path.suffix == ".csv":
        yield from _csv_rows(path, text)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                example = {"file_name": "1.png", "label": "cat"}
                if path.name not in TABLES:
                    example = {"image_path": "1.png", "text": "a cat"}
                raise InputError(
                    f"line {number} of {path} is {quoted(line)}, which is no JSON; expected {json.dumps(example)}"
                ) from error
            if not isinstance(row, dict):
                column = "file_name" if path.name in TABLES else "image_path"
                raise InputError(f"line {number} of {path} is {quoted(row)}; expected a JSON object with {column}")
            yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    head = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), restkey="more")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} of {path} cannot be read ({error}); expected CSV") from error
