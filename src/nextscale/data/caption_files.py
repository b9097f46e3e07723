"""Reading captions: from tables and lists of images, and from the texts that lie beside images.

Infinity (arXiv 2412.04431) is trained from lists, ``{height / width}_{images}.jsonl``. A list is a table of captions
like any other and, in a folder without images of its own, says which images the set has.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nextscale.data.captions import Captions
from nextscale.data.found import TABLES, Found, composed, in_utf8
from nextscale.data.tables import FILE_COLUMNS, column_of, file_of, named_rows, place_of, rows_of, split_note
from nextscale.errors import InputError, quoted

TEXT_COLUMNS = ("text", "caption", "prompt", "description")
LONG_COLUMNS = ("long_caption", "long_text")


@dataclass
class Told:
    """The captions of images by their names, each with where it stands; tables they come from; notes for people."""

    of: dict[str, tuple[Captions, str]] = field(default_factory=dict)
    tables: dict[str, list[Path]] = field(default_factory=dict)
    """By the names of their columns."""
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, captions: Captions | None, where: str) -> None:
        """Note what ``where`` says of an image.

        Raises:
            InputError: something else is known to say otherwise.
        """
        if captions is None:
            return
        known, there = self.of.get(name, (captions, where))
        for one, other in ((known.text, captions.text), (known.long, captions.long)):
            if None not in (one, other) and one != other:
                raise InputError(
                    f"{name} has the caption {quoted(one)} in {there} and {quoted(other)} in {where}; expected one "
                    "caption an image"
                )
        self.of[name] = Captions(known.text, known.long or captions.long), there

    @property
    def paths(self) -> list[Path]:
        """All tables."""
        return [path for paths in self.tables.values() for path in paths]

    def captions(self, name: str) -> Captions | None:
        """The captions of an image, if there are any."""
        return self.of[name][0] if name in self.of else None


def read_captions(found: Found, images: Sequence[tuple[Path, str]]) -> Told:
    """The captions of ``images``, each given with its path within the set, from all that was found.

    Raises:
        InputError: a table or a text is damaged, a table names none of the images, a caption is no text, or an image
            has two.
    """
    told = Told()
    known = {composed(in_utf8(os.path.abspath(path))): name for path, name in images}
    known |= {composed(name): name for _, name in images}
    for path, within in [*found.tables, *found.lists]:
        _read_table(path, within, known, told)
    if not found.images:  # the lists say what the set holds, and ``listed_images`` has told what they lack
        told.notes.clear()
    for columns, (first, *more) in told.tables.items():
        told.notes.append(f"captions are {columns} of {first}{f' and {len(more)} more tables' if more else ''}")
    beside = {os.path.splitext(name)[0]: path for path, name in found.texts}
    used = set()
    for _, name in images:
        if (text := beside.get(os.path.splitext(name)[0])) is not None:
            where = in_utf8(str(text))
            told.add(name, text_captions(_content(text), where), where)
            used.add(text)
    if used:
        told.notes.append(f"captions are in {len(used)} .txt files beside the images")
    return told


def _read_table(path: Path, within: str, known: Mapping[str, str], told: Told) -> None:
    rows = list(rows_of(path))
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    file, text, long = (column_of(columns, names) for names in (FILE_COLUMNS, TEXT_COLUMNS, LONG_COLUMNS))
    if file is None or (text is None and long is None):
        if path.name not in TABLES:  # the reader of labels says so of those
            told.notes.append(f"{path} is not used: it has no column {'image_path' if file is None else 'text'}")
        return
    for line, row, name in named_rows(path, within, rows, file, known, told.notes):
        where = f"line {line} of {path}"
        told.add(name, row_captions(row, (text, long), where), where)
    used = [column for column in (text, long) if column is not None]
    told.tables.setdefault(f"the column{'s'[: len(used) - 1]} {' and '.join(used)}", []).append(path)
    told.notes += split_note(path, columns)


def row_captions(row: Mapping[str, Any], columns: tuple[str | None, str | None], where: str) -> Captions | None:
    """The captions in a row or an object, whose columns are given; None if it has none. A long one alone is both.

    Raises:
        InputError: one is no text.
    """
    text, long = (_text(row.get(column), column, where) if column is not None else None for column in columns)
    short = text or long
    return None if short is None else Captions(short, long)


def _text(value: Any, column: str, where: str) -> str | None:
    """A caption on one line; None for none and for an empty one."""
    if value is None or value != value:  # some libraries write NaN for nothing
        return None
    if isinstance(value, str) and in_utf8(value) == value:
        return " ".join(composed(value).split()) or None
    raise InputError(f"{where} has {quoted(value)} for {column}; expected a caption, as text")


def text_captions(content: bytes, where: str) -> Captions | None:
    """The caption that a ``.txt`` file is; None if it is empty.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} cannot be read ({error}); expected a caption in UTF-8") from error
    return row_captions({"the caption": text}, ("the caption", None), where)


def json_captions(content: bytes, where: str) -> Captions | None:
    """The captions in a ``.json`` file about one image; None if it has none.

    Raises:
        InputError: it is no JSON object, or a caption in it is no text.
    """
    try:
        about = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(f'{where} is no JSON; expected an object such as {{"text": "a red fox"}}') from error
    if not isinstance(about, dict):
        raise InputError(f'{where} holds {quoted(about)}; expected an object such as {{"text": "a red fox"}}')
    columns = column_of(list(about), TEXT_COLUMNS), column_of(list(about), LONG_COLUMNS)
    return row_captions(about, columns, where)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); expected a caption in UTF-8") from error


def listed_images(lists: Sequence[tuple[Path, str]]) -> tuple[list[tuple[Path, str, str]], list[str]]:
    """The images that lists name, once each: where they are, their paths from the set's folder and the path of the
    list; and notes for people.

    Raises:
        InputError: a list is damaged, names no files, or none of those that it names is there.
    """
    images: dict[str, tuple[Path, str, str]] = {}
    notes = []
    for path, within in lists:
        rows = list(rows_of(path))
        column = column_of(list(dict.fromkeys(column for _, row in rows for column in row)), FILE_COLUMNS)
        if column is None:
            raise InputError(f"{path} lists no images; expected objects with image_path and text, one a line")
        there, absent = set[str](), dict[str, None]()
        for line, row in rows:
            file = file_of(row, column, line, path).strip().replace("\\", "/")
            name = place_of(os.path.dirname(within), file)
            if name in there or name in absent:
                continue
            if os.path.isfile(path.parent / file):
                there.add(name)
                images.setdefault(name, (path.parent / file, name, within))
            else:
                absent[name] = None
        if absent:
            said = f"{len(absent)} of {len(there) + len(absent)} images listed in {path} do not exist, for instance "
            said += quoted(next(iter(absent)), 200)
            if not there:
                raise InputError(f"{said}; expected paths from the folder that the list lies in, or whole ones")
            notes.append(said)
    return list(images.values()), notes
