"""``nextscale train KIND``: train by a recipe, or resume the run that the folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextscale.cli.console import SkipSmall, answer, remark, remarks
from nextscale.errors import TrainingError, missing
from nextscale.files import check_writable
from nextscale.systems import SYSTEMS

if TYPE_CHECKING:
    from nextscale.training.progress import Progress

KINDS = ", ".join(kind for system in SYSTEMS for kind in system.recipes)
LINE_EVERY = 50
"""Steps between two lines of progress where standard error is no terminal."""


def train(
    kind: Annotated[str, typer.Argument(help=f"What to train: {KINDS} or classifier.")],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")],
    data: Annotated[Path, typer.Option(help="An emoji set, a folder of images, or shards.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder; a run that it holds is resumed.")],
    tokenizer: Annotated[str | None, typer.Option(help="Frozen tokenizer of a generator: a name or folder.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe: section.key=value.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps; the schedule stays.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or mps.")] = "auto",
    init: Annotated[str | None, typer.Option(help="Start from this checkpoint of the same architecture.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder of encoded tokens, to share them between runs; a generator's own else.")
    ] = None,
    skip_small: SkipSmall = False,
) -> None:
    """Train a tokenizer, a generator on its tokens, or a classifier. Ctrl-C saves; the same command again resumes."""
    try:
        from nextscale.training.parallel import finish
        from nextscale.training.runfolder import check_run_folder
        from nextscale.training.start import start
        from nextscale.training.trainer import Interrupted
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        raise TrainingError(missing("accelerate", "training")) from None

    check_run_folder(output)
    if cache is not None:
        check_writable(cache)
    bar = Bar()
    try:
        with bar:
            with remarks():
                trainer = start(
                    kind, recipe, data, output, tokenizer, overrides, device, bar.show, init, cache, skip_small
                )
            metrics = trainer.run(max_steps)
    except Interrupted as stop:
        if trainer.main:
            remark(f"{stop}; give the same command again to resume")
        finish(130)
        raise typer.Exit(130) from None
    if trainer.main:
        answer(_numbers(metrics))
        answer(f"{trainer.step} of {trainer.total} steps done; {output / 'export'} holds the result")
    finish()


class Bar:
    """Progress on standard error: a bar on a terminal, now and then a line elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
        self._bar = RichProgress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("preparing", total=None)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, at: Progress) -> None:
        """The trainer's callback."""
        if at.kind == "start" and at.step:
            self._console.print(f"resuming after step {at.step}")
        elif at.kind in ("data", "price", "warning"):
            self._console.print(f"warning, step {at.step}: {at.text}" if at.kind == "warning" else at.text)
        elif at.kind == "validation":
            self._console.print(f"step {at.step} held-out  {_numbers(at.metrics)}")
        elif at.kind in ("reading", "encoding"):
            self._bar.update(self._task, completed=at.step, total=at.total, description=at.kind)
        elif at.kind == "step":
            text = _state(at)
            self._bar.update(self._task, completed=at.step, total=at.total, description=text)
            if not self._console.is_terminal and at.step % LINE_EVERY == 0:
                self._console.print(f"step {at.step}/{at.total}  {text}")


def _state(at: Progress) -> str:
    """What the bar says after a step; waiting for data is named where it costs anything."""
    from nextscale.training.cost import duration

    tokens = f"  {at.tokens_per_second:.0f} tokens/s" if at.tokens_per_second else ""
    waiting = f"  {at.waiting:.0%} waiting for data" if at.waiting >= 0.005 else ""
    return (
        f"loss {at.metrics['loss']:.4g}  {at.images_per_second:.1f} images/s{tokens}  "
        f"{at.peak_share:.0%} of peak{waiting}  {duration(at.seconds_left)} left"
    )


def _numbers(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


if __name__ == "__main__":
    typer.run(train)
