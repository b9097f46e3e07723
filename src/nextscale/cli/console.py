"""What the verbs share: options, loading a model, and that answers go to standard output, remarks and progress to
standard error.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from nextscale.pipeline import Pipeline

DEFAULT_MODEL = "emoji-m-var"
"""What every verb takes where no model is named, but for words: the bundled M-VAR."""
TEXT_MODEL = "emoji-text"
"""What draws words where no model is named."""
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
Ratio = Annotated[
    str | None,
    typer.Option(metavar="W:H", help="Width to height, as in 3:2, for models that draw several; nextscale info lists."),
]
Pixels = Annotated[
    str | None, typer.Option(metavar="N", help="About how many pixels a picture has, as in 0.25M, likewise.")
]
PictureSize = Annotated[
    str | None, typer.Option("--size", metavar="HxW", help="Height and width in pixels, for models of any size.")
]
Scales = Annotated[
    str | None, typer.Option(metavar="N[,N...]", help="Sides of all maps in tokens, or HxW, as in 1,2,4x6, likewise.")
]
Steps = Annotated[int | None, typer.Option(metavar="N", help="How many scales a picture is drawn in, likewise.")]
Classes = Annotated[
    list[str] | None,
    typer.Option("-c", "--class", help="A class by name, number or a word; may be given several times."),
]
NumImages = Annotated[
    int | None, typer.Option("-n", "--num-images", help="Pictures per prompt, or class and style, at least 1.")
]
Out = Annotated[Path, typer.Option("-o", "--out", help="Folder for the pictures, or a file for one, as in cat.png.")]
NegativePrompt = Annotated[
    list[str] | None, typer.Option(help="What guidance leads away from, for models that read text; one for all.")
]
Seed = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N...]",
        help="Seed of the first picture, the others count up; or one per picture: 3,1,4. Chosen if not given.",
    ),
]
Features = Annotated[
    Path | None, typer.Option(help="A file of nextscale encode: prompts that stand in it need no text encoder.")
]
LowMemory = Annotated[bool, typer.Option("--low-memory", help="The text encoder leaves memory after encoding.")]
Smooth = Annotated[bool, typer.Option("--smooth", help="Mix codes instead of drawing one per place.")]
Refine = Annotated[
    str | None,
    typer.Option(
        metavar="N,N;N,N...",
        help="Passes over the scales from 2x2 on, for models that have them: how many tokens stay after each, as in "
        '"1,3;1,1,2,5", which is "paper"; "none" is off.',
    ),
]
SkipSmall = Annotated[bool, typer.Option("--skip-small", help="Leave out images smaller than the resolution.")]
PATIENCE = 1.0
"""Seconds after which a bar is shown."""
LONGEST_SENTENCE = 1000
"""Letters; what is longer quotes something that is."""
AsJson = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: neither ``None`` nor a switch left off."""
    return {name: value for name, value in options.items() if value is not None and value is not False}


def load_pipeline(model: str, device: str, dtype: str, revision: str | None = None, **text: Any) -> Pipeline:
    """Load a model and say where and in which precision it computes, and why. text: ``features`` and ``low_memory`` of
    ``nextscale.load``.
    """
    import nextscale

    pipe = nextscale.load(model, revision=revision, device=device, dtype=dtype, **text)
    pipe.set_progress_bar_config(disable=True)  # the verbs have bars of their own
    number = str(pipe.dtype).removeprefix("torch.")
    remark(f"{pipe.name} on {pipe.device} ({pipe.device_reason}) in {number} ({pipe.dtype_reason})")
    return pipe


def remark(text: str) -> None:
    """One line for the person at the terminal, on standard error."""
    typer.echo(one_sentence(text), err=True)


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
    """The answer for a program: JSON on standard output, letters as they are where its encoding has them."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    typer.echo(text)


@contextmanager
def progress(title: str, unit: str, estimate: bool = True) -> Iterator[Callable[[float, float], None]]:
    """A bar on standard error, drawn only where that is a terminal and only after a second; the block calls
    ``step(done, total)``. estimate: tell the rate and the time left, which is wrong where steps are not alike.
    """
    if sys.stderr is None or not sys.stderr.isatty():  # none: it was closed, as by 2>&-
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    rate = (TextColumn("{task.description}"), TimeRemainingColumn(), TextColumn("left"))
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    bar = Progress(*columns, *(rate if estimate else ()), console=Console(stderr=True), transient=True)
    task, start = bar.add_task("", total=None), time.monotonic()

    def step(done: float, total: float) -> None:
        seconds = time.monotonic() - start
        bar.update(task, completed=done, total=total, description=f"{done / seconds:.3g}/s" if seconds else "")

    timer = threading.Timer(PATIENCE, bar.start)
    timer.daemon = True
    timer.start()
    try:
        yield step
    finally:
        timer.cancel()
        timer.join()
        if bar.live.is_started:
            bar.stop()


def one_sentence(text: str) -> str:
    """A sentence for a terminal, whatever it quotes: on one line, without control characters, its middle cut out where
    it is long.
    """
    if len(text) > LONGEST_SENTENCE:
        half = LONGEST_SENTENCE // 2
        text = f"{text[:half]} [...] {text[-half:]}"
    spaced = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in spaced)
