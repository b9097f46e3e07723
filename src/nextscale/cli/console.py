"""What the verbs share: options, loading a model, and that answers go to standard output, remarks and progress to
standard error.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.errors import InputError

if TYPE_CHECKING:
    from nextscale.pipeline import Pipeline

DEFAULT_MODEL = "emoji-m-var"
"""What every verb takes where no model is named: the bundled M-VAR."""
MODEL = "A bundled model, a checkpoint folder, a published model (var-d16, ...) or a repository on the hub (org/name)."
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit, for a model that comes from the hub.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="Number type: auto, float32, bfloat16 or float16.")]
GuidanceScale = Annotated[
    float | None, typer.Option(min=0, help="Classifier-free guidance; 1 switches it off and halves the work.")
]
Temperature = Annotated[float | None, typer.Option(help="Above 0; lower draws likelier tokens.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Draw from the k likeliest tokens; 0 is off.")]
TopP = Annotated[
    float | None, typer.Option(min=0, max=1, help="Draw from the likeliest tokens of this probability; 0 is off.")
]
Smooth = Annotated[bool, typer.Option("--smooth", help="Mix codes instead of drawing one per place.")]
SkipSmall = Annotated[bool, typer.Option("--skip-small", help="Leave out images smaller than the resolution.")]
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: neither ``None`` nor a switch left off."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def load_pipeline(model: str, device: str, dtype: str, revision: str | None = None) -> Pipeline:
    """Load a model and say where and in which precision it computes, and why."""
    import nextscale

    pipe = nextscale.load(model, revision=revision, device=device, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)  # the verbs have bars of their own
    number = str(pipe.dtype).removeprefix("torch.")
    remark(f"{pipe.name} on {pipe.device} ({pipe.device_reason}) in {number} ({pipe.dtype_reason})")
    return pipe


def remark(text: str) -> None:
    """One line for the person at the terminal, on standard error."""
    typer.echo(text, err=True)


@contextmanager
def remarks() -> Iterator[None]:
    """What the library warns of inside the block is remarked at its end, each sentence once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for sentence in dict.fromkeys(str(warning.message) for warning in caught):
                remark(sentence)


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
