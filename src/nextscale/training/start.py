"""From names to a ready trainer: recipe, data, objective, run folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.training import order
from nextscale.training.objectives import TokenizerObjective
from nextscale.training.recipe import KINDS, TokenizerRecipe, load_recipe
from nextscale.training.runfolder import RunFolder
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
    """A trainer that can run. Raises ``InputError`` or ``TrainingError`` before anything is computed."""
    if kind not in KINDS:
        raise InputError(f"there is nothing to train called {kind!r}; choose {' or '.join(KINDS)}")
    resolved = load_recipe(recipe, overrides)
    if resolved.kind != kind:
        raise InputError(f"{recipe} is a recipe for a {resolved.kind}, but a {kind} was asked for")
    train = load_data(data, resolved.data.resolution, "train")
    heldout = load_data(data, resolved.data.resolution, "heldout")
    accelerator = Accelerator(mixed_precision=resolved.run.precision, cpu=device == "cpu")
    folder = RunFolder(output, resolved.run.keep)
    folder.claim(resolved, {"path": str(data.resolve()), "hash": train.hash, "images": len(train.images)})
    torch.manual_seed(order.key(resolved.run.seed, "weights"))
    assert isinstance(resolved, TokenizerRecipe)
    objective = TokenizerObjective(resolved, train, heldout, accelerator.device)
    return Trainer(objective, resolved, folder, accelerator, progress)
