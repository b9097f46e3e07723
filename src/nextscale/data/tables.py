"""Labels from a table beside the images, as the hub's ImageFolder has them: ``metadata.jsonl`` or ``metadata.csv``.

Each row names a file, by its path from the table's folder, and may give it a label.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nextscale.data.found import composed
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


def read_labels(tables: Sequence[tuple[Path, str]], names: Sequence[str]) -> Labels:
    """The labels of images in ``tables``, each given with its path within the set.

    names: all images, by their paths within the set.

    Raises:
        InputError: a table is damaged, names none of the images, or gives one image two labels.
    """
    found, known = Labels(), {composed(name): name for name in names}
    for path, within in tables:
        rows = list(_rows(path))
        columns = list(dict.fromkeys(column for _, row in rows for column in row))
        file_column, label_column = _column(columns, FILE_COLUMNS), _column(columns, LABEL_COLUMNS)
        if label_column is None or file_column is None:
            missing = "label" if label_column is None else "file_name"
            listed = ", ".join(str(column)[:40] for column in columns[:8]) or "none"
            found.notes.append(f"{path} is not used: it has no column {missing} (its columns: {listed})")
            continue
        _read_rows(path, posixpath.dirname(within), rows, (file_column, label_column), known, found)
        split = _column(columns, SPLIT_COLUMNS)
        if split is not None:
            found.notes.append(f"the column {split} of {path} is not used; a split is given by folders train and val")
    return found


def _read_rows(
    path: Path,
    folder: str,
    rows: list[tuple[int, dict[str, Any]]],
    columns: tuple[str, str],
    known: Mapping[str, str],
    found: Labels,
) -> None:
    """Add the labels in ``rows`` of the table at ``path``, whose files lie in ``folder`` of the set."""
    unknown, unlabelled, named = list[str](), 0, 0
    for line, row in rows:
        file, label = row.get(columns[0]), _label(row.get(columns[1]))
        if not isinstance(file, str) or not file.strip():
            raise InputError(
                f"line {line} of {path} has {quoted(file)} in the column {columns[0]}; expected a file name"
            )
        name = known.get(_place(folder, file))
        if name is None:
            unknown.append(file)
        elif label is None:
            unlabelled += 1
        elif found.of.setdefault(name, label) != label:
            both = f"{quoted(found.of[name])} and {quoted(label)}"
            raise InputError(f"line {line} of {path} gives {name} a second label ({both}); expected one")
        named += name is not None
    if rows and not named:
        raise InputError(
            f"{path} names {len(rows)} files, none of which is an image of the set, for instance {quoted(unknown[0])}; "
            "expected their paths from the folder that the table lies in"
        )
    if unknown:
        found.notes.append(
            f"{len(unknown)} of {len(rows)} files named in {path} are no images of the set, for instance "
            f"{quoted(unknown[0])}"
        )
    if unlabelled and unlabelled == named:
        found.notes.append(f"{path} is not used: none of its rows has a name or a number in the column {columns[1]}")
    if unlabelled < named:
        found.used.setdefault(columns[1], []).append(str(path))


def _place(folder: str, file: str) -> str:
    return composed(posixpath.normpath(posixpath.join(folder, file.strip().replace("\\", "/"))))


def _column(columns: Sequence[str], names: Sequence[str]) -> str | None:
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


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
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
                raise InputError(
                    f"line {number} of {path} is {quoted(line)}, which is no JSON; expected "
                    '{"file_name": "1.png", "label": "cat"}'
                ) from error
            if not isinstance(row, dict):
                raise InputError(f"line {number} of {path} is {quoted(row)}; expected a JSON object with file_name")
            yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    head = text.split("\n", 1)[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), restkey="more")
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} of {path} cannot be read ({error}); expected CSV") from error
