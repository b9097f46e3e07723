"""From names to a ready trainer: recipe, data, what is trained, run folder. What can be refused is refused here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from nextscale.checkpoints.store import load_component
from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.emoji_reader import read_metadata
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData
from nextscale.device import choose_device
from nextscale.errors import InputError, TrainingError
from nextscale.pipeline import checkpoint_folder, revision
from nextscale.tokenizers.base import Tokenizer
from nextscale.training import order
from nextscale.training.generator import GeneratorObjective
from nextscale.training.objectives import Objective
from nextscale.training.recipe import KINDS, Recipe, load_recipe
from nextscale.training.runfolder import RunFolder
from nextscale.training.tokenizer import TokenizerObjective
from nextscale.training.tokenizer_recipe import TokenizerRecipe
from nextscale.training.trainer import Progress, Trainer


def start(
    kind: str,
    recipe: str | Path,
    data: Path,
    output: Path,
    tokenizer: str | None = None,
    overrides: list[str] | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] = lambda _: None,
) -> Trainer:
    """A trainer that is ready to run, or to resume where ``output`` holds a checkpoint.

    kind: ``tokenizer``, ``var`` or ``m-var``; recipe, overrides: see ``load_recipe``; data: an emoji set or a folder of
    images; tokenizer: a bundled name, a checkpoint or the run that trained it (generators only). Raises a
    ``NextscaleError`` for what cannot be done.
    """
    if kind not in KINDS:
        raise InputError(f"there is nothing to train called {kind!r}; choose {' or '.join(KINDS)}")
    resolved = load_recipe(recipe, overrides)
    if resolved.kind != kind:
        raise InputError(f"{recipe} is a recipe for a {resolved.kind}, but a {kind} was asked for")
    frozen = _frozen(resolved, tokenizer)
    accelerator = engine(resolved, device)
    train = load_data(data, resolved.data.resolution, "train")
    heldout = load_data(data, resolved.data.resolution, "heldout")
    folder = RunFolder(output, resolved.run.keep)
    facts: dict[str, Any] = {"hash": train.hash, "images": len(train)}
    folder.claim(resolved, facts if frozen is None else facts | {"tokenizer": frozen[1]}, str(data.resolve()))
    torch.manual_seed(order.key(resolved.run.seed, "weights"))
    if isinstance(resolved, TokenizerRecipe):
        objective: Objective = TokenizerObjective(resolved, train, heldout, accelerator.device)
    else:
        assert frozen is not None
        vocabulary, name = vocabulary_of(data, train), output.resolve().name
        objective = GeneratorObjective(resolved, train, heldout, frozen[0], vocabulary, accelerator.device, name)
    return Trainer(objective, resolved, folder, accelerator, progress)


def engine(recipe: Recipe, device: str) -> Accelerator:
    """Accelerate in the recipe's precision. Raises ``TrainingError`` if it gives something else than was asked for."""
    wanted, _ = choose_device(device)
    precision = "no" if recipe.run.precision == "fp32" else recipe.run.precision
    AcceleratorState._reset_state()  # it remembers the precision of the process's last run, and refuses another
    accelerator = Accelerator(mixed_precision=precision, cpu=wanted.type == "cpu")
    if accelerator.num_processes > 1:
        raise TrainingError(f"{accelerator.num_processes} processes were started, but training runs in one for now")
    given = (accelerator.device.type, accelerator.mixed_precision)
    if given != (wanted.type, precision):
        raise TrainingError(f"training was asked for on {wanted.type} in {precision}, but the engine took {given}")
    return accelerator


def vocabulary_of(data: Path, train: ImageData) -> ClassVocabulary:
    """Class names of a data set, with names and keywords of the things in them where it is an emoji set."""
    records = read_metadata(data) if (data / "dataset.json").is_file() else []
    return ClassVocabulary.from_records(train.classes, records)


def _frozen(recipe: Recipe, name: str | None) -> tuple[Tokenizer, str] | None:
    """The frozen tokenizer of a generator, float32, and its revision; None for recipes that train a tokenizer."""
    if recipe.kind == "tokenizer":
        if name is not None:
            raise InputError(f"--tokenizer {name} was given, but a tokenizer recipe needs none")
        return None
    if name is None:
        raise InputError("a generator needs the tokenizer whose tokens it learns; name it with --tokenizer")
    exported = Path(name) / "export"
    folder = checkpoint_folder(exported if exported.is_dir() else name)
    tokenizer = load_component(folder, "tokenizer")
    assert isinstance(tokenizer, Tokenizer)
    side, wanted = tokenizer.schedule.grid[0] * tokenizer.stride, recipe.data.resolution
    if side != wanted:
        raise InputError(f"the tokenizer in {folder} is made for {side} pixels, but the recipe says {wanted}")
    return tokenizer, revision(folder)
