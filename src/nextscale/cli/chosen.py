"""Which model draws: the one that was named, the one of a recipe, or what suits what was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.cli.asked import Asked
from nextscale.cli.console import DEFAULT_MODEL, TEXT_MODEL, load_pipeline, remark
from nextscale.errors import InputError

if TYPE_CHECKING:
    from nextscale.pipeline import Pipeline
    from nextscale.recipe import Recipe


def recipe_to_repeat(picture: Path, asked: Asked, methods: str | None = None) -> Recipe:
    """The recipe of a picture, if nothing else was asked for."""
    from nextscale.recipe import Recipe

    options = asked.options() + ([] if methods is None else ["--methods"])
    if options:
        raise InputError(f"--like repeats a recipe as it is; leave {', '.join(options)} out")
    return Recipe.read(picture)


def loaded(
    asked: Asked, recipe: Recipe | None, model: str | None, device: str, dtype: str, revision: str | None, **text: Any
) -> Pipeline:
    """The model that was named, else the recipe's, else the default; in the recipe's number type, unless another is
    asked for. text: how texts are encoded.
    """
    if recipe is not None:
        dtype = recipe.dtype if dtype == "auto" else dtype
        model = _model_of(recipe) if model is None else model
    return load_pipeline(default_model(asked) if model is None else model, device, dtype, revision, **text)


def default_model(asked: Asked) -> str:
    """What draws where no model is named: the bundled text model for words, where one is bundled, and else the model of
    classes. Says so where that could have been the other one.
    """
    from nextscale.checkpoints.load import bundled_names

    if not asked.prompts or TEXT_MODEL not in bundled_names():
        return DEFAULT_MODEL
    remark(f"{TEXT_MODEL} draws the words as a text; --class, or --model {DEFAULT_MODEL}, draws classes")
    known = _class_names()
    for name in [prompt for prompt in dict.fromkeys(asked.prompts) if prompt.strip().casefold() in known][:3]:
        remark(f"{name!r} is a class of {DEFAULT_MODEL}, too, which --class {name} draws")
    return TEXT_MODEL


def _class_names() -> set[str]:
    """What the default model's classes are called, in small letters."""
    from nextscale.checkpoints.load import checkpoint_folder, saved_conditioner
    from nextscale.conditions.base import UNCONDITIONAL

    conditioner = saved_conditioner(checkpoint_folder(DEFAULT_MODEL))
    names = [] if conditioner is None else conditioner.lists().get("classes", [])
    return {name.casefold() for name in [*names, UNCONDITIONAL]}


def _model_of(recipe: Recipe) -> str:
    """The model that a recipe names, if it is bundled, or published and here. A picture may come from anybody: nothing
    else that it names is looked for, neither on this disk nor on the hub.
    """
    from nextscale.checkpoints.load import bundled_names, checkpoint_folder
    from nextscale.checkpoints.published import published

    if recipe.model in bundled_names():
        return recipe.model
    if published(recipe.model):
        checkpoint_folder(recipe.model)
        return recipe.model
    raise InputError(
        f"the picture was drawn by {recipe.model}, which is no bundled model; name its folder with --model, or its "
        "repository (org/name)"
    )
