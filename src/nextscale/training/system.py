"""What operating systems do in ways of their own: locks between processes, files that come to the disk, users' names.

POSIX locks a folder, or a file, as a whole. Windows locks bytes of a file, which nobody else can then read or write,
and opens no folder; so there a file of its own in the folder is locked. Either ends with the process that holds it.
"""

from __future__ import annotations

import getpass
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from nextscale.errors import TrainingError


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


fcntl, msvcrt = _module("fcntl"), _module("msvcrt")  # of POSIX, of Windows

LOCK_FILE = ".lock"
BINARY = getattr(os, "O_BINARY", 0)
"""A flag of ``os.open`` with which Windows, too, writes the bytes that it is given."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other run writes to ``folder`` meanwhile; a warning says so where the system or file system has no locks.

    Raises:
        TrainingError: another run is writing there.
    """
    by_folder = msvcrt is None
    flags = os.O_RDONLY if by_folder else os.O_RDWR | os.O_CREAT | BINARY
    handle = os.open(folder if by_folder else folder / LOCK_FILE, flags)
    try:
        locked = lock(handle)
        if locked is None:
            _tell_that_there_are_no_locks(folder)
        elif not locked:
            raise TrainingError(f"another run is writing to {folder}; stop it, or choose another folder")
        yield
    finally:
        os.close(handle)  # which gives the lock back, as the end of the process does


@cache
def _tell_that_there_are_no_locks(folder: Path) -> None:
    """Once for a folder, which a run takes several times."""
    warnings.warn(
        f"this system has no locks on {folder}, so nothing keeps a second run from writing there too; start only one",
        stacklevel=4,
    )


def lock(handle: int) -> bool | None:
    """Lock an open file or folder until the handle is closed: whether it could be had; None where there are no
    locks."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            return None
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # some network file systems
        return None
    return True


def to_disk(path: Path) -> None:
    """Come back when the file or folder is on the disk and not in the system's memory only."""
    if not path.exists() or (msvcrt is not None and path.is_dir()):  # Windows keeps folders itself
        return
    handle = os.open(path, os.O_RDONLY if msvcrt is None else os.O_RDWR | BINARY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name_compiler_folder() -> None:
    """Choose a folder for torch's compiler where the user has no name, as in a container with ``--user 1234``: torch's
    optimisers look for one that is called after the user, and some versions fail where there is none.
    """
    try:
        getpass.getuser()
    except (KeyError, ImportError, AttributeError, OSError):  # by system and version of Python
        number = os.getuid() if hasattr(os, "getuid") else "nobody"
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"torchinductor_{number}"))
