"""The command line as on Windows, as far as Linux can play it: ``python windows.py locks|none WORDS...``.

Windows has no fcntl and resource, opens no folder, syncs nothing that is open for reading alone, and neither renames
nor removes a file that is open. Without ``locks`` it is a POSIX that lacks these modules.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
from types import ModuleType
from typing import Any

import accelerate
import huggingface_hub
import numpy
import PIL.Image
import psutil  # type: ignore[import-untyped]
import pydantic
import rich.console
import safetensors.torch
import torch
import typer.rich_utils
import yaml

NEEDED = (accelerate, huggingface_hub, numpy, PIL, psutil, pydantic, rich, safetensors, torch, typer, yaml)
"""Other people's packages, which are to come to terms with the real system."""
GONE = ("sysconf", "getuid", "geteuid", "fork", "getloadavg", "sched_getaffinity", "link")
_open, _fsync, _rename, _replace, _unlink = os.open, os.fsync, os.rename, os.replace, os.unlink


def _opened(path: Any) -> bool:
    """Whether this process has the file, or one in the folder, open."""
    wanted = os.path.abspath(os.fspath(path))
    for handle in os.listdir("/proc/self/fd"):
        try:
            held = os.readlink(f"/proc/self/fd/{handle}")
        except OSError:
            continue
        if held == wanted or held.startswith(wanted + os.sep):
            return True
    return False


def open_(path: Any, *flags: Any, **named: Any) -> int:
    if isinstance(path, str | os.PathLike) and os.path.isdir(path) and not named:
        raise PermissionError(13, "Permission denied", os.fspath(path))
    return _open(path, *flags, **named)


def fsync(handle: Any) -> None:
    number = handle if isinstance(handle, int) else handle.fileno()
    if fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY or stat.S_ISDIR(os.fstat(number).st_mode):
        raise OSError(9, "Bad file descriptor")
    _fsync(number)


def moved(move: Any) -> Any:
    def checked(source: Any, target: Any, **named: Any) -> None:
        for path in (source, target):
            if _opened(path):
                raise PermissionError(13, "The process cannot access the file", os.fspath(path))
        if move is _rename and os.path.exists(target):
            raise FileExistsError(17, "Cannot create a file when that file already exists", os.fspath(target))
        move(source, target, **named)

    return checked


def unlink(path: Any, **named: Any) -> None:
    if not named and _opened(path):
        raise PermissionError(13, "The process cannot access the file", os.fspath(path))
    _unlink(path, **named)


def locking(handle: int, mode: int, size: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None


def become_windows(locks: bool) -> None:
    msvcrt: Any = ModuleType("msvcrt")
    msvcrt.LK_NBLCK, msvcrt.locking = 2, locking
    sys.modules.update({"fcntl": None, "resource": None, "msvcrt": msvcrt if locks else None})  # type: ignore[dict-item]
    for name in GONE:
        delattr(os, name)
    if locks:
        os.open, os.fsync, os.unlink = open_, fsync, unlink  # type: ignore[assignment]
        os.rename, os.replace = moved(_rename), moved(_replace)


if __name__ == "__main__":
    become_windows(sys.argv[1] == "locks")
    from nextscale.cli.main import main

    sys.argv = ["nextscale", *sys.argv[2:]]
    main()
