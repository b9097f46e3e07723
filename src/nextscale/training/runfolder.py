"""The folder of a run: its recipe, its log and its checkpoints. Everything is written aside and then renamed.

RUN is

    RUN/recipe.yaml                       the resolved recipe, code version and data hash
    RUN/price.json                        what the run was expected to cost, and what it has cost
    RUN/log.jsonl                         one line per logged step
    RUN/log.csv                           the same as a table, written with every checkpoint
    RUN/checkpoints/step-000500/          weights, their average, optimiser and counters
    RUN/digests.json                      digests of all files of the checkpoints
    RUN/samples/step-000500.png
    RUN/export/                           the averaged weights as a checkpoint that the library loads

Only the main process of a run writes; the others read checkpoints from the same folder.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

import nextscale
from nextscale.checkpoints.digests import DIGESTS, as_json, check_digest, read_digests
from nextscale.checkpoints.weights import check_numbers, read_weights
from nextscale.documents import parse_json, read_yaml
from nextscale.errors import CheckpointError, InputError, TrainingError, one_line
from nextscale.files import check_writable, sha256, written_aside
from nextscale.training.recipe import Recipe, differences, parse_recipe
from nextscale.training.system import alone_in, to_disk

WRITTEN = (
    "recipe.yaml",
    "price.json",
    "log.*",
    DIGESTS,
    "export",
    ".*.[0-9]*.tmp",
    ".export.*",
    "*/step-*",
    "checkpoints/tmp-*",
)
"""What a run replaces or clears away in its folder."""

Log = dict[str, float | int | str]
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of every parameter that it has moved."""


class RunFolder:
    """See the module's docstring. ``keep``: how many checkpoints are held."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path, self.keep = path, keep
        check_run_folder(path)
        try:
            (path / "checkpoints").mkdir(parents=True, exist_ok=True)
            (path / "samples").mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"the run folder {path} cannot be written: {error.strerror}") from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else writes here meanwhile. Clears away what a run that was killed left half-written.

        Raises:
            TrainingError: another run is writing here.
        """
        with alone_in(self.path):
            self._clear()
            yield

    def _clear(self) -> None:
        for left_over in (self.path / "checkpoints").glob("tmp-*"):
            shutil.rmtree(left_over)
        export, aside = self.path / "export", [*self.path.glob(".export.*")]
        before = [folder for folder in aside if folder.suffix == ".old"]
        if before and not export.exists():  # killed between taking the old one away and putting the new one there
            before[0].rename(export)
        for left_over in [*aside, *self.path.glob(".*.[0-9]*.tmp")]:
            shutil.rmtree(left_over) if left_over.is_dir() else left_over.unlink(missing_ok=True)

    def claim(self, recipe: Recipe, facts: dict[str, Any], source: str) -> None:
        """Save the recipe with ``facts`` about the data (hash, ...), or check that the run in the folder has the same.

        source: where the data lay, noted but not compared. Raises ``TrainingError`` where it has not, or where another
        run is writing.
        """
        with self.held():
            self._claim(recipe, facts, source)

    def _claim(self, recipe: Recipe, facts: dict[str, Any], source: str) -> None:
        file, wanted = self.path / "recipe.yaml", {"recipe": recipe.model_dump(mode="json"), "data": facts}
        if self.checkpoints():
            found = _described(file)
            noted = {"heldout": facts.get("heldout")} | found["data"]  # older runs did not note that
            known = {key: noted.get(key) for key in facts}
            changed = differences({"recipe": _completed(found["recipe"]), "data": known}, wanted)
            if changed:
                raise TrainingError(
                    f"{self.path} holds a run with another recipe ({changed[0]}); "
                    "give the same recipe to resume it, or another folder"
                )
            return
        version = {"nextscale": nextscale.__version__, "torch": str(torch.__version__), "commit": code_commit()}
        write_durably(file, yaml.safe_dump(wanted | {"source": source, "version": version}, sort_keys=False))

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted((path for path in found if re.fullmatch(r"step-\d+", path.name)), key=_step)

    def last_good(self, before: float = math.inf) -> str:
        """Where a run can go on from, as the end of a sentence. before: a step that went wrong."""
        found = [path for path in self.checkpoints() if _step(path) <= before]
        return f"the last good checkpoint is {found[-1]}" if found else "no good checkpoint had been written yet"

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of ``step`` lies, or will."""
        return self.path / "checkpoints" / f"step-{step:06d}"

    def save(self, step: int, tensors: dict[str, dict[str, Tensor]], sound: bool = True) -> Path:
        """Write ``tensors`` (one safetensors file per key) as the checkpoint of ``step``; then remove the oldest.

        sound: False where what is saved may be worse than the older ones, which then stay.

        A checkpoint is on the disk, the log up to it included, before it carries its name and before another one goes.
        """
        target = self.checkpoint(step)
        if not target.exists():
            aside = target.with_name(f"tmp-{target.name}-{os.getpid()}")
            try:
                aside.mkdir()
                for name, group in tensors.items():
                    save_file({key: t.detach().contiguous() for key, t in group.items()}, aside / f"{name}.safetensors")
                self._note_digests(target, {path.name: sha256(path) for path in aside.iterdir()})
                for written in [self.path / "log.jsonl", *aside.iterdir(), aside]:
                    to_disk(written)
                aside.rename(target)
                to_disk(target.parent)
            except (OSError, SafetensorError) as error:
                shutil.rmtree(aside, ignore_errors=True)
                raise TrainingError(
                    f"the checkpoint of step {step} could not be written to {self.path} ({error}); {self.last_good()}"
                ) from None
        for old in self.checkpoints()[: -self.keep] if sound else []:
            gone = old.with_name(f"tmp-{old.name}")
            old.rename(gone)
            shutil.rmtree(gone)
        return target

    def _note_digests(self, checkpoint: Path, digests: dict[str, str]) -> None:
        """Put down the digests of a checkpoint that is about to get its name, and forget those that are gone."""
        known = {name: digest for name, digest in read_digests(self.path).sha256.items() if (self.path / name).exists()}
        place = checkpoint.relative_to(self.path).as_posix()
        new = {f"{place}/{name}": digest for name, digest in digests.items()}
        write_durably(self.path / DIGESTS, as_json(known | new))

    def _read(self, checkpoint: Path, names: list[str]) -> dict[str, dict[str, Tensor]]:
        """The tensors of a checkpoint by file and name. Raises ``CheckpointError`` for a file that is not what was
        written, or no weights at all.
        """
        files = {name: checkpoint / f"{name}.safetensors" for name in names}
        for file in files.values():
            if file.is_file():
                check_digest(file, self.path, file.relative_to(self.path).as_posix())
        return {name: read_weights(file) for name, file in files.items()}

    def _is_whole(self, checkpoint: Path, names: list[str]) -> bool:
        try:
            self._read(checkpoint, names)
        except CheckpointError:
            return False
        return True

    def load(self, names: list[str]) -> tuple[int, dict[str, dict[str, Tensor]]] | None:
        """Step and tensors of the newest checkpoint, or None for a fresh run.

        Raises ``CheckpointError`` where it is damaged, and says which older one is not.
        """
        found = self.checkpoints()
        if not found:
            return None
        try:
            return _step(found[-1]), self._read(found[-1], names)
        except CheckpointError as error:
            raise self.unusable(str(error), names) from None

    def unusable(self, what: str, names: list[str]) -> CheckpointError:
        """What to say where the newest checkpoint, files ``names``, cannot be gone on from: why, and which one can."""
        *older, newest = self.checkpoints()
        whole = next((path for path in reversed(older) if self._is_whole(path, names)), None)
        way = (
            f"remove that folder to go on from {whole.name}, which is whole"
            if whole
            else "no older one is whole, so start anew in another folder"
        )
        return CheckpointError(f"the checkpoint {newest} is damaged ({what}); {way}")

    def log(self, entry: Log) -> None:
        """Append one line to the log."""
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def cut_log(self, step: int, kind: str = "") -> None:
        """Drop what was logged after ``step``, which a resumed run says again, and lines of ``kind`` at it.

        Raises ``TrainingError`` for a damaged line before that, which only its owner can judge.
        """
        file = self.path / "log.jsonl"
        if not file.is_file():
            return
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        places = [_line_place(line) for line in lines]
        kept = [
            i
            for i, place in enumerate(places)
            if place and (place[0] < step or place == (step, place[1]) != (step, kind))
        ]
        last = max(kept, default=len(lines) if step > 0 else 0)  # a log of which nothing is kept is no log of this run
        damaged = next((i for i in range(last) if places[i] is None), None)
        if damaged is not None:
            raise TrainingError(f"line {damaged + 1} of {file} is damaged; remove that line to resume the run")
        write_durably(file, "".join(lines[i] + "\n" for i in kept))

    def write_table(self) -> None:
        """Write the log as a table: a row per line, a column per number that occurs."""
        file = self.path / "log.jsonl"
        written = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
        lines = [parse_json(line, str(file)) for line in written]
        columns = dict.fromkeys(key for line in lines for key in line)
        table = io.StringIO()
        writer = csv.DictWriter(table, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        write_durably(self.path / "log.csv", table.getvalue())


def check_run_folder(path: Path) -> None:
    """Refuse a folder that a run would damage: one that cannot be written, or that has files by the names of a run's
    and is none. Call it before work is done for a run. Raises ``InputError`` or ``TrainingError``.
    """
    check_writable(path)
    taken = sorted(found for pattern in WRITTEN for found in path.glob(pattern))  # before the recipe is looked for
    recipe = path / "recipe.yaml"
    if any(path.glob("checkpoints/step-*")):
        _described(recipe)
    elif taken and not _is_recipe(recipe):
        raise InputError(
            f"{taken[0]} is in the way, and {path} is no run's folder; expected a new or empty one, or that of a run"
        )


def write_durably(path: Path, text: str) -> None:
    """Write a file of the run, whole or not at all, and onto the disk."""
    with written_aside(path, overwrite=True) as aside:
        aside.write_text(text, encoding="utf-8")
        to_disk(aside)


def optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The state of an optimiser as named tensors ``parameter|moment``."""
    names = {id(p): name for name, p in module.named_parameters()}
    return {f"{names[id(p)]}|{m}": t for p, state in optimizer.state.items() for m, t in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Take back what ``optimizer_tensors`` gave. Raises ``CheckpointError`` for tensors that are something else."""
    parameters = dict(module.named_parameters())
    for key, tensor in tensors.items():
        name, _, moment = key.rpartition("|")
        if name not in parameters or moment not in MOMENTS:
            raise CheckpointError(f"the optimiser's state has {one_line(key)}, which this network has no use for")
        parameter = parameters[name]
        if missing := [other for other in MOMENTS if f"{name}|{other}" not in tensors]:
            raise CheckpointError(f"the optimiser's state lacks {missing[0]} of {name}")
        if tensor.shape != (() if moment == "step" else parameter.shape):
            raise CheckpointError(f"the optimiser's {moment} of {name} has the shape {tuple(tensor.shape)}")
        check_numbers(f"the optimiser's {moment} of {name}", tensor, largest_weight=math.inf)
        like = tensor if moment == "step" else torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][moment] = like


def code_commit() -> str | None:
    """Commit of the checkout this library runs from, "and changes" where its files differ; None if it is installed
    without one.
    """
    folder = str(Path(nextscale.__file__).parent)
    try:
        head, changes = (
            subprocess.run(["git", "-C", folder, *asked], capture_output=True, text=True, timeout=10, check=False)
            for asked in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "."))
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode or not head.stdout.strip():
        return None
    return head.stdout.strip() + (" and changes" if changes.stdout.strip() else "")


def _completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A saved recipe with the defaults of entries that did not exist when it was saved."""
    try:
        return parse_recipe(recipe, "saved").model_dump(mode="json")
    except InputError:
        return recipe


def _described(file: Path) -> dict[str, Any]:
    """What ``claim`` wrote. Raises ``TrainingError`` for anything else."""
    try:
        found = read_yaml(file)
    except InputError as error:
        raise TrainingError(
            f"{file} is damaged, so this run cannot be resumed ({error}); choose another run folder"
        ) from None
    tables = ("recipe", "data", "version")
    whole = isinstance(found, dict) and all(isinstance(found.get(name), dict) for name in tables)
    if not whole or not isinstance(found.get("source"), str):
        raise TrainingError(f"{file} is damaged, so this run cannot be resumed; choose another run folder")
    return found


def _is_recipe(file: Path) -> bool:
    """Whether a run that has no checkpoint yet wrote this."""
    try:
        found = read_yaml(file)
    except InputError:
        return False
    return isinstance(found, dict) and "recipe" in found


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _line_place(line: str) -> tuple[int, str] | None:
    """Step and kind of a line of the log; None for one that is damaged."""
    try:
        entry = parse_json(line, "line")
        return int(entry["step"]), str(entry["kind"])
    except (ValueError, KeyError, TypeError):
        return None
