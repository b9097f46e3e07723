"""``nextscale train tokenizer|var|m-var``: train by a recipe, resuming where the run folder holds a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextscale.cli.console import answer, remark
from nextscale.errors import TrainingError

if TYPE_CHECKING:
    from nextscale.training.trainer import Progress

LINE_EVERY = 50
"""Steps between two lines of progress where standard error is no terminal."""


def train(
    kind: Annotated[str, typer.Argument(help="What to train: tokenizer, var or m-var.")],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")],
    data: Annotated[Path, typer.Option(help="An emoji set, or a folder of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder; a run that it holds is resumed.")],
    tokenizer: Annotated[str | None, typer.Option(help="Frozen tokenizer of a generator: a name or folder.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change the recipe: section.key=value.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps; the schedule stays.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Train a tokenizer, or a generator on the tokens of one. Ctrl-C saves; the same command again resumes."""
    try:
        from nextscale.training.start import start
        from nextscale.training.trainer import Interrupted
    except ModuleNotFoundError as error:
        if error.name != "accelerate":
            raise
        raise TrainingError(
            "accelerate is not installed, which training needs; run pip install 'nextscale[train]'"
        ) from None

    bar = Bar()
    try:
        with bar:
            trainer = start(kind, recipe, data, output, tokenizer, overrides, device, bar.show)
            metrics = trainer.run(max_steps)
    except Interrupted as stop:
        remark(f"{stop}; give the same command again to resume")
        raise typer.Exit(130) from None
    answer(_numbers(metrics))
    answer(f"{trainer.step} of {trainer.total} steps done; {output / 'export'} holds the result")


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
        elif at.kind == "validation":
            self._console.print(f"step {at.step} held-out  {_numbers(at.metrics)}")
        elif at.kind == "step":
            speed = f"{at.images_per_second:.1f} images/s  {_duration(at.seconds_left)} left"
            text = f"loss {at.metrics['loss']:.4g}  {speed}"
            self._bar.update(self._task, completed=at.step, total=at.total, description=text)
            if not self._console.is_terminal and at.step % LINE_EVERY == 0:
                self._console.print(f"step {at.step}/{at.total}  {text}")


def _numbers(metrics: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{int(seconds % 60):02d}s"


if __name__ == "__main__":
    typer.run(train)
