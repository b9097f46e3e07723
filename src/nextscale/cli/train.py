"""``nextscale train tokenizer|var``: train by a recipe, resuming where the run folder holds a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.errors import NextscaleError

if TYPE_CHECKING:
    from nextscale.training.trainer import Progress


def train(
    kind: Annotated[str, typer.Argument(help="What to train: tokenizer or var.")],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a YAML file.")],
    data: Annotated[Path, typer.Option(help="Folder of images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder; a run that it holds is resumed.")],
    tokenizer: Annotated[str | None, typer.Option(help="Frozen tokenizer of a generator: a name or a folder.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one recipe entry: section.key=value.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after this many steps; the schedule stays.")] = None,
    device: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
) -> None:
    """Train a tokenizer, or a generator on the tokens of one."""
    try:
        code = _train(kind, recipe, data, output, tokenizer, set_ or [], max_steps, device)
    except NextscaleError as error:
        print(f"nextscale train: {error}", file=sys.stderr)
        code = 2
    raise typer.Exit(code)


def _train(
    kind: str,
    recipe: str,
    data: Path,
    output: Path,
    tokenizer: str | None,
    overrides: list[str],
    max_steps: int | None,
    device: str,
) -> int:
    from nextscale.training.start import start
    from nextscale.training.trainer import Interrupted

    bar = Bar()
    try:
        with bar:
            trainer = start(kind, recipe, data, output, tokenizer, overrides, device, bar.show)
            metrics = trainer.run(max_steps)
    except Interrupted as stop:
        print(f"{stop}; give the same command again to resume", file=sys.stderr)
        return 130
    print("  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
    print(f"{trainer.step} of {trainer.total} steps done, results in {output}")
    return 0


class Bar:
    """A progress bar on a terminal, a line every 50 steps elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._console = Console(stderr=True)
        columns: list[Any] = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")]
        self._bar = RichProgress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("starting")

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, at: Progress) -> None:
        """The trainer's callback."""
        if at.kind == "start" and at.step:
            self._console.print(f"resuming after step {at.step}", highlight=False)
        if at.kind == "validation":
            numbers = "  ".join(f"{name} {value:.4g}" for name, value in at.metrics.items())
            self._console.print(f"step {at.step} held-out  {numbers}", highlight=False, soft_wrap=True)
        if at.kind != "step":
            return
        text = f"loss {at.metrics['loss']:.4g}  {at.images_per_second:.1f} images/s  {_duration(at.seconds_left)} left"
        self._bar.update(self._task, completed=at.step, total=at.total, description=text)
        if not self._console.is_terminal and at.step % 50 == 0:
            self._console.print(f"step {at.step}/{at.total}  {text}", highlight=False)


def _duration(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{int(seconds % 60):02d}s"


if __name__ == "__main__":
    typer.run(train)
