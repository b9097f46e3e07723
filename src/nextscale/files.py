"""Files that are written whole or not at all, that replace nothing unasked, and that a digest tells apart.

The one place that writes aside and renames. What is written lies under a temporary name beside its own until it is
complete, so that a full disk or a killed process leaves either the old file or the new one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from nextscale.errors import InputError

BLOCK = 1 << 22


def check_new(path: Path, overwrite: bool = False) -> None:
    """Refuse an output file before any work is done for it.

    overwrite: whether a regular file there may be replaced; nothing else ever is. Raises ``InputError`` where the file
    exists, where it is a folder, device or pipe, or where its folder can be neither made nor written.
    """
    if os.path.lexists(path):
        if not path.is_file():
            raise InputError(f"{path} is {kind_of(path)}; expected the name of a file to write")
        if not overwrite:
            raise InputError(f"{path} exists; choose another name, or --overwrite (overwrite=True) to replace it")
    check_writable(path.parent)
    _check_names(path)


def check_writable(folder: Path) -> None:
    """Refuse an output folder before any work is done for it.

    Raises:
        InputError: it neither is nor can be made a folder that can be written.
    """
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise InputError(f"{nearest} is {kind_of(nearest)}; expected a folder to write to")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"the folder {nearest} cannot be written; expected one that can")
    _check_names(folder)


@contextmanager
def written_aside(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path to write to, which takes the name ``path`` when the block ends and is gone if it fails.

    overwrite: replace a regular file of that name (behind a link, if ``path`` is one); without it a file that exists,
    or appears meanwhile, is kept. Makes the folder. Raises ``InputError`` as :func:`check_new` does.
    """
    check_new(path, overwrite)
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    start = place.name.encode(errors="ignore")[:100].decode(errors="ignore")  # a name may have 255 bytes, not letters
    aside = place.with_name(f".{start}.{os.getpid()}.tmp")
    try:
        yield aside
        if overwrite:
            os.replace(aside, place)
        else:
            _name(aside, place)
    finally:
        aside.unlink(missing_ok=True)


def write_text(path: Path, text: str, overwrite: bool = False) -> None:
    """Write a text file in UTF-8, whole or not at all; arguments and errors as for :func:`written_aside`."""
    with written_aside(path, overwrite) as aside:
        aside.write_text(text, encoding="utf-8")


def free_name(path: Path) -> Path:
    """``path``, or the first of ``name-2.png``, ``name-3.png``, ... that does not exist."""
    if not os.path.lexists(path):
        return path
    numbered = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in count(2))
    return next(other for other in numbered if not os.path.lexists(other))


def sha256(path: Path, start: int = 0) -> str:
    """The digest of a file's bytes from ``start`` on in 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _name(aside: Path, place: Path) -> None:
    """Give a file its name unless another one has it by now."""
    try:
        os.link(aside, place)
    except FileExistsError:
        raise InputError(f"{place} has appeared meanwhile, and was kept; choose another name") from None
    except (OSError, AttributeError):  # a file system, or a Python, without hard links
        if os.path.lexists(place):
            raise InputError(f"{place} has appeared meanwhile, and was kept; choose another name") from None
        os.replace(aside, place)


def _nearest(path: Path) -> Path:
    """The path itself where it is there, else the first of the folders above it that is."""
    return next(place for place in (path, *path.absolute().parents) if os.path.lexists(place))


def _check_names(path: Path) -> None:
    """Raises ``InputError`` where the system takes no such name: one too long, say, or not in its encoding."""
    absolute, nearest = path.absolute(), _nearest(path).absolute()
    for place in (absolute, *(nearest / part for part in absolute.parts[len(nearest.parts) :])):
        try:
            place.lstat()
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{path} cannot be the name of a file here ({reason}); expected another one") from None


def kind_of(path: Path) -> str:
    """What a path is, for a sentence."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "a link to nowhere" if path.is_symlink() else "missing"
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISREG, "a file"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
    )
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")
