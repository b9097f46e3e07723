"""Digests of weight files, written beside them and checked whenever they are read.

They stand in a file ``SHA256SUMS`` as ``sha256sum -c SHA256SUMS`` reads it. A folder without one, as older versions
and other people write them, is read unchecked; so is a file that the list does not name.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from nextscale.documents import read_text
from nextscale.errors import CheckpointError
from nextscale.files import sha256

SUMS = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
REVISION = re.compile(r"# revision ([0-9a-f]{12})")


def sums(digests: Mapping[str, str], revision: str | None = None) -> bytes:
    """The content of a list of digests by the names of files; revision: that of the checkpoint they make up."""
    head = [] if revision is None else [f"# revision {revision}"]
    lines = [*head, *(f"{digest}  {name}" for name, digest in sorted(digests.items()))]
    return "".join(line + "\n" for line in lines).encode()


def read_sums(folder: Path) -> tuple[dict[str, str], str | None]:
    """Digests by name, and the revision; nothing where the folder has no list.

    Raises ``CheckpointError`` for a list that is damaged.
    """
    path = folder / SUMS
    if not os.path.lexists(path):
        return {}, None
    digests, revision = dict[str, str](), None
    for number, line in enumerate(read_text(path, CheckpointError).splitlines(), 1):
        if found := LINE.fullmatch(line):
            digests[found[2]] = found[1]
        elif noted := REVISION.fullmatch(line):
            revision = noted[1]
        elif line.strip() and not line.startswith("#"):
            raise CheckpointError(f"line {number} of {path} is damaged; expected a digest and the name of a file")
    return digests, revision


def check_digest(file: Path, folder: Path, name: str) -> None:
    """Compare a file with what the list of ``folder`` says of it under ``name``, where it says something.

    Raises ``CheckpointError`` for a file that is another than was written.
    """
    expected = read_sums(folder)[0].get(name)
    if expected is not None and sha256(file) != expected:
        raise CheckpointError(
            f"{file} is damaged: it is not the file whose digest stands in {folder / SUMS} (delete that list if you "
            "have changed the file on purpose)"
        )
