"""What the verbs share: answers go to standard output, remarks and progress to standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from nextscale.errors import InputError

Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="Number type: auto, float32, bfloat16 or float16.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]


def remark(text: str) -> None:
    """One line for the person at the terminal, on standard error."""
    typer.echo(text, err=True)


def answer(text: str) -> None:
    """What the verb was asked for, on standard output."""
    typer.echo(text)


def answer_json(value: Any) -> None:
    """The answer for a program: JSON on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, drawn only where that is a terminal; the block calls ``step(done, total)``."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def check_writable(folder: Path) -> None:
    """Refuse an output folder before any work is done for it.

    Raises:
        InputError: it neither is nor can be made a folder that can be written.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"{nearest} is a file; expected a folder to write to")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(f"the folder {nearest} cannot be written; expected one that can")
