"""From names to a ready trainer: recipe, data, what is trained, run folder. What can be refused is refused here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from nextscale.checkpoints.load import revision
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import load_component
from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.captions import require_captions
from nextscale.data.emoji_reader import families_of, holds_emoji, read_metadata
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData, told
from nextscale.errors import InputError
from nextscale.tokenizers.base import Tokenizer
from nextscale.training import order
from nextscale.training.classifier_recipe import ClassifierRecipe
from nextscale.training.engine import engine
from nextscale.training.generator_recipe import GeneratorRecipe
from nextscale.training.initial import Origin, folder_of
from nextscale.training.objectives.base import Objective
from nextscale.training.objectives.classifier import ClassifierObjective, new_network
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.parallel import my_parts, rank, wait_for_all
from nextscale.training.progress import Progress, silent
from nextscale.training.recipe import Recipe, kinds, load_recipe
from nextscale.training.room import check_room
from nextscale.training.runfolder import RunFolder
from nextscale.training.system import name_compiler_folder
from nextscale.training.tokenizer_recipe import TokenizerRecipe
from nextscale.training.trainer import Trainer


def start(
    kind: str,
    recipe: str | Path,
    data: Path,
    output: Path,
    tokenizer: str | None = None,
    overrides: list[str] | None = None,
    device: str = "auto",
    progress: Callable[[Progress], None] = silent,
    init: str | None = None,
    cache: Path | None = None,
    skip_small: bool = False,
) -> Trainer:
    """A trainer that is ready to run, or to resume where ``output`` holds a checkpoint.

    kind: one of :func:`~nextscale.training.recipe.kinds`; recipe, overrides: see ``load_recipe``; data: an emoji set
    or a folder of images; tokenizer: a bundled name, a checkpoint or the run that trained it (generators only; by
    default that of ``init``); init: a checkpoint to start from, named likewise; cache: the folder for encoded tokens,
    ``tokens`` in the run folder by default; skip_small: leave out images smaller than the resolution.
    Raises a ``NextscaleError`` for what cannot be done.
    """
    if kind not in kinds():
        raise InputError(f"there is nothing to train called {kind!r}; choose {' or '.join(kinds())}")
    resolved = load_recipe(recipe, overrides, kind)
    if resolved.kind != kind:
        raise InputError(f"{recipe} is a recipe of the kind {resolved.kind}; expected {kind}, which was asked for")
    _check_apart(data, output)
    if init is None and isinstance(resolved, TokenizerRecipe) and resolved.decoder_only:
        raise InputError("decoder_only keeps what encodes as it is; name the tokenizer it is in with --init")
    if init is None and isinstance(resolved, GeneratorRecipe) and resolved.origin_needed is not None:
        raise InputError(f"this recipe goes on from a checkpoint; name {resolved.origin_needed}, with --init")
    origin = None if init is None else Origin.load(init, _component(resolved))
    frozen = _frozen(resolved, tokenizer, origin, cache)
    accelerator = engine(resolved.run, device)
    part = my_parts(resolved.run.batch, resolved.run.accumulate)[0]  # refuses a batch that cannot be split
    images, where = part.stop - part.start, accelerator.device
    if isinstance(resolved, TokenizerRecipe):
        check_room(resolved.new_tokenizer, where, images * _picture(resolved))
    elif frozen is not None:
        assert not isinstance(resolved, ClassifierRecipe)
        check_room(partial(resolved.new_model, frozen[0], 1), where, images * resolved.states(frozen[0]))
    shown = progress if rank() == 0 else silent
    reading, encoding = (_counted(shown, kind) for kind in ("reading", "encoding"))
    train, heldout = (_load(resolved, frozen, data, split, reading, skip_small) for split in ("train", "heldout"))
    for line in told(data, train, heldout):
        shown(Progress("data", 0, 0, text=line))
    if isinstance(resolved, ClassifierRecipe) and len(train.classes) < 2:
        raise InputError(f"all images of {data} are of one class, {train.classes[0]!r}; a classifier needs two or more")
    folder = RunFolder(output, resolved.run.keep)
    facts: dict[str, Any] = {"hash": train.hash, "images": len(train), "heldout": heldout.hash}
    facts |= {} if train.captions is None else {"captions": [train.caption_hash, heldout.caption_hash]}
    facts |= {} if frozen is None else {"tokenizer": frozen[1]}
    facts |= {} if origin is None else {"init": revision(origin.folder)}
    if rank() == 0:
        folder.claim(resolved, facts, str(data.resolve()))
    wait_for_all()
    torch.manual_seed(order.key(resolved.run.seed, "weights"))
    name_compiler_folder()  # before an optimiser is made
    if isinstance(resolved, TokenizerRecipe):
        objective: Objective = resolved.new_objective(train, heldout, accelerator.device)
    elif isinstance(resolved, ClassifierRecipe):
        check_room(partial(new_network, resolved, train), where, images * _picture(resolved))
        objective = ClassifierObjective(resolved, train, heldout, families_of(data, heldout), accelerator.device)
    else:
        assert frozen is not None
        vocabulary, name = vocabulary_of(data, train), output.resolve().name
        doubts = [] if origin is None else origin.doubts(frozen[0], vocabulary)
        vocabulary, known = (vocabulary, None) if origin is None else origin.known(vocabulary)
        tokens = cache or output / "tokens"
        objective = GeneratorObjective(
            resolved, train, heldout, *frozen, vocabulary, accelerator.device, tokens, name, encoding, known
        )
        objective.warnings += doubts
    if origin is not None:
        reader = objective.conditioner if isinstance(objective, GeneratorObjective) else None
        origin.give_weights(objective.module, reader if isinstance(reader, ClassVocabulary) else None)
    reads = objective.data.reads if isinstance(objective, GeneratorObjective) else train
    return Trainer(objective, resolved, folder, accelerator, reads, shown, origin is not None)


def _check_apart(data: Path, output: Path) -> None:
    """Raises ``InputError`` where the run would lie in the folder that pictures are looked for in: its samples would be
    among them.
    """
    place, run = data.resolve(), output.resolve()
    if place in (run, *run.parents) and not holds_emoji(data):
        raise InputError(
            f"the run folder {output} lies in the data folder {data}, so its samples would be trained on; expected a "
            "folder outside"
        )


def _load(
    recipe: Recipe,
    frozen: tuple[Tokenizer, str] | None,
    path: Path,
    split: str,
    progress: Callable[[int, int], None],
    skip_small: bool,
) -> ImageData:
    """One side of the data, as the recipe wants it. Raises ``InputError`` as ``load_data``, and without captions where
    it is taught by them.
    """
    if not isinstance(recipe, GeneratorRecipe):
        return load_data(path, recipe.data.resolution, split, None, progress, skip_small)
    assert frozen is not None
    shapes = recipe.shapes(frozen[0])
    resolution = recipe.data.resolution if shapes is None else None
    data = load_data(path, resolution, split, None, progress, skip_small, recipe.captions, shapes)
    if recipe.captions:
        require_captions(data.captions, str(path))
    return data


def _picture(recipe: Recipe) -> int:
    """Bytes of one image as a network sees it."""
    return 4 * 3 * recipe.data.resolution**2


def _component(recipe: Recipe) -> str:
    """What a checkpoint calls the thing that a recipe trains."""
    if isinstance(recipe, ClassifierRecipe):
        return recipe.model.network
    return "tokenizer" if isinstance(recipe, TokenizerRecipe) else "model"


def _counted(progress: Callable[[Progress], None], kind: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(Progress(kind, done, total))


def vocabulary_of(data: Path, train: ImageData) -> ClassVocabulary:
    """Class names of a data set, with names and keywords of the things in them where it is an emoji set, and what of
    them no training image shows.
    """
    records = read_metadata(data) if holds_emoji(data) else []
    vocabulary = ClassVocabulary.from_records(train.classes, records, train.styles)
    seen = set(vocabulary.labels(train.labels, train.style_labels).tolist())
    pairs = product(train.styles, train.classes)  # in the order of their labels
    return replace(vocabulary, missing=frozenset(pair for i, pair in enumerate(pairs) if i not in seen))


def _frozen(
    recipe: Recipe, name: str | None, origin: Origin | None, cache: Path | None
) -> tuple[Tokenizer, str] | None:
    """The frozen tokenizer of a generator, float32, and its revision; None for recipes that need none.

    Checks that a generator can start from ``origin``, before its images are encoded.
    """
    if isinstance(recipe, TokenizerRecipe | ClassifierRecipe):
        if name is not None:
            raise InputError(f"--tokenizer {name} was given, but a {recipe.kind} recipe needs none")
        if cache is not None:
            raise InputError(f"--cache {cache} was given, but training a {recipe.kind} encodes no tokens; leave it out")
        return None
    if name is None and origin is not None:
        name = origin.name
    if name is None:
        raise InputError("a generator needs the tokenizer whose tokens it learns; name it with --tokenizer")
    folder = folder_of(name)
    tokenizer = load_component(folder, "tokenizer")
    assert isinstance(tokenizer, Tokenizer)
    tokenizer = recipe.fitted(tokenizer)
    draws = without_values(lambda: recipe.new_model(tokenizer, 1)).draws
    if draws != tokenizer.draws:
        raise InputError(
            f"a token of the tokenizer in {folder} is {tokenizer.draws} draws; expected {draws}, as a {recipe.kind} "
            "predicts them"
        )
    side, wanted = tokenizer.pixels()[0], recipe.data.resolution
    if side != wanted and recipe.shapes(tokenizer) is None:
        raise InputError(f"the tokenizer in {folder} is made for {side} pixels, but the recipe says {wanted}")
    if origin is not None:
        known = origin.conditioner()
        recipe.check_known(known)
        gives = known.gives.values()
        origin.check(without_values(lambda: recipe.new_model(tokenizer, *gives)))
    return tokenizer, revision(folder)
