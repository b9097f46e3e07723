"""Digests of weight files, written beside them and checked whenever they are read.

They stand in a file ``digests.json``. A folder without one, as older versions and other people write them, is read
unchecked; so is a file that the list does not name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nextscale.documents import read_json
from nextscale.errors import CheckpointError, InputError
from nextscale.files import sha256
from nextscale.settings import build

DIGESTS = "digests.json"


@dataclass(frozen=True)
class Digests:
    """The content of a list. sha256: by the names of files; revision: of the checkpoint that they make up."""

    sha256: dict[str, str]
    revision: str | None = None


def as_json(sha256: Mapping[str, str], revision: str | None = None) -> str:
    """A list as it is written."""
    head = {} if revision is None else {"revision": revision}
    return json.dumps({**head, "sha256": dict(sorted(sha256.items()))}, indent=2) + "\n"


def read_digests(folder: Path) -> Digests:
    """The list of a folder, empty where it has none. Raises ``CheckpointError`` for one that is damaged."""
    path = folder / DIGESTS
    if not os.path.lexists(path):
        return Digests({})
    try:
        return build(Digests, read_json(path))
    except InputError as error:
        told = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise CheckpointError(f"{told}; the list of digests is damaged") from None


def check_digest(file: Path, folder: Path, name: str) -> None:
    """Compare a file with what the list of ``folder`` says of it under ``name``, where it says something.

    Raises ``CheckpointError`` for a file that is another than was written.
    """
    expected = read_digests(folder).sha256.get(name)
    if expected is not None and sha256(file) != expected:
        raise CheckpointError(
            f"{file} is damaged: it is not the file whose digest stands in {folder / DIGESTS} (delete that list if you "
            "have changed the file on purpose)"
        )
