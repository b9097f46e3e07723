"""Training runs side by side: their logs, what they have reached, and all logged numbers as CSV.

A run's log is ``log.jsonl``: one JSON object per line with ``step``, ``kind`` (``train``, or ``validation``, which is
measured on held-out images) and numbers, or ``warning`` and a text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from nextscale.documents import parse_json
from nextscale.errors import InputError
from nextscale.evaluation.columns import aligned

HELD_OUT = "validation"
JUDGED = {"loss": ("loss", min), "accuracy": ("accuracy", max), "psnr": ("PSNR, dB", max)}
"""What a run is judged by on held-out images, where it was logged: heading, and which value is the best."""


@dataclass(frozen=True)
class Best:
    """The best held-out value, and the step at which it was reached first."""

    value: float
    step: int


@dataclass(frozen=True)
class Run:
    """A run's name and the lines of its log, in the order of their steps."""

    name: str
    lines: tuple[dict[str, Any], ...]

    @property
    def step(self) -> int:
        """The last step that was logged."""
        return int(self.lines[-1]["step"])

    @property
    def images_per_second(self) -> float | None:
        """The median over the log; None where speed was not logged."""
        speeds = [y for _, y in self.curve("train", "images_per_second")]
        return median(speeds) if speeds else None

    def curve(self, kind: str, name: str) -> list[tuple[int, float]]:
        """(step, value) wherever ``name`` was logged as a number under ``kind``."""
        found = ((line["step"], line.get(name)) for line in self.lines if line["kind"] == kind)
        return [(step, float(y)) for step, y in found if isinstance(y, int | float)]

    def best(self, name: str) -> Best | None:
        """The best held-out value of one of ``JUDGED``; None where it was never logged."""
        points = [(step, y) for step, y in self.curve(HELD_OUT, name) if y == y]  # without NaN
        if not points:
            return None
        value = JUDGED[name][1](y for _, y in points)
        return Best(value, next(step for step, y in points if y == value))


def read_run(folder: Path, name: str | None = None) -> Run:
    """Read the log of a run's folder; a last line that is cut (the run is going on, or was killed) is left out.

    A step that was logged twice (after a resume) counts as it was logged last. Raises ``InputError`` where the folder
    is missing or no run's, or its log is empty or damaged.
    """
    file = folder / "log.jsonl"
    if not folder.is_dir():
        raise InputError(f"{folder} {'is a file' if folder.exists() else 'does not exist'}; expected a run's folder")
    if not file.is_file():
        raise InputError(f"{folder} is no run's folder: it holds no log.jsonl; expected what nextscale train wrote to")
    written = file.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = dict[tuple[Any, ...], dict[str, Any]]()
    for number, text in enumerate(written, 1):
        line = _parsed(text)
        if line is not None:
            key = (line["step"], line["kind"], str(line.get("text")))  # a step may have several warnings
            lines.pop(key, None)
            lines[key] = line
        elif number < len(written):
            raise InputError(f"line {number} of {file} is damaged; expected a JSON object with 'step' and 'kind'")
    if not lines:
        raise InputError(f"{file} holds no whole line yet; expected a run that has logged at least one step")
    ordered = sorted(lines.values(), key=lambda line: line["step"])
    return Run(name or folder.resolve().name, tuple(ordered))


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read several runs, named after their folders, or by their whole paths where two folders are called the same.

    Raises ``InputError`` as ``read_run``, and for a folder that was named twice.
    """
    paths = [folder.resolve() for folder in folders]
    twice = [folder for i, folder in enumerate(folders) if paths[i] in paths[:i]]
    if twice:
        raise InputError(f"the run {twice[0]} was named twice; expected different ones")
    names = [path.name for path in paths]
    return [read_run(f, str(f) if names.count(name) > 1 else name) for f, name in zip(folders, names, strict=True)]


def runs_table(runs: Sequence[Run]) -> str:
    """One line per run: last step, images per second in training, and the best held-out numbers with their steps."""
    judged = [name for name in JUDGED if any(run.best(name) for run in runs)]
    head = ["run", "step", "images/s"]
    for name in judged:
        head += [f"best held-out {JUDGED[name][0]}", "at step"]
    rows = [tuple(head)]
    for run in runs:
        speed = run.images_per_second
        row = [run.name, str(run.step), "-" if speed is None else f"{speed:.1f}"]
        for name in judged:
            best = run.best(name)
            row += ["-", "-"] if best is None else [f"{best.value:.4g}", str(best.step)]
        rows.append(tuple(row))
    return aligned(rows)


def runs_csv(runs: Sequence[Run]) -> str:
    """Every logged line of every run as CSV: run, kind, step, and one column per number, empty where not logged."""
    names = dict.fromkeys(key for run in runs for line in run.lines for key in line if key not in ("step", "kind"))
    page = io.StringIO()
    writer = csv.DictWriter(page, ["run", "kind", "step", *names], lineterminator="\n")
    writer.writeheader()
    for run in runs:
        writer.writerows({"run": run.name, **line} for line in run.lines)
    return page.getvalue()


def _parsed(text: str) -> dict[str, Any] | None:
    """One line of a log, or None where it is none."""
    try:
        line = parse_json(text, "a line")
    except InputError:
        return None
    whole = isinstance(line, dict) and isinstance(line.get("step"), int) and isinstance(line.get("kind"), str)
    return line if whole else None
