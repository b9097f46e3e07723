"""What earlier versions wrote still loads, and draws the same tokens: ``tests/stored/README.md`` says what is there.

Tokens are compared, to the last one; pixels to one step of 8 bits, since another processor rounds otherwise. Only what
users call is called; the command line's half is tests/cli/test_stored.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import nextscale as library
from nextscale import Plan
from nextscale.checkpoints.published import PUBLISHED, converted_folder
from nextscale.given import GivenTokens
from nextscale.pipeline import Pipeline
from nextscale.recipe import Recipe
from tests.checkpoints.official import VAR_D1

STORED = Path(__file__).parent / "stored" / "v1"
PICTURES: dict[str, Any] = json.loads((STORED / "pictures.json").read_text(encoding="utf-8"))
PLANS: dict[str, Any] = json.loads((STORED / "plans.json").read_text(encoding="utf-8"))
FOLDERS = ("styles", "m-var", "converted")

DEFAULTS_OF_FORMAT_1: dict[str, Any] = {
    "model": "model",
    "blocks": None,
    "guidance": (1.0,),
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 0.0,
    "order": ("temperature", "top_k", "top_p"),
    "smooth": None,
    "keep": None,
}
"""Columns that a plan of format 1 left out where they held these."""


def load(folder: str | Path) -> Pipeline:
    return library.load(STORED / folder, device="cpu", dtype="float32")


def picture(name: str) -> Path:
    return STORED / "pictures" / f"{name}.png"


def listed(tokens: list[Tensor]) -> list[Any]:
    return [t.tolist() for t in tokens]


def looks_like(one: Image.Image, other: Image.Image) -> bool:
    """Whether no pixel is more than one step of 8 bits away."""
    a, b = (np.asarray(image, np.int16) for image in (one, other))
    return a.shape == b.shape and int(np.abs(a - b).max()) <= 1


def as_tuples(value: Any) -> Any:
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def carry_out(pipe: Pipeline, stored: Mapping[str, Any], plan: Plan) -> list[Any]:
    """The tokens of a stored call with ``plan``, beside the parts that it names: a checkpoint's model, or tokens."""
    parts = {
        name: load(part).model
        if isinstance(part, str)
        else GivenTokens(*([torch.tensor(one) for one in part[key]] for key in ("tokens", "masks")))
        for name, part in stored["parts"].items()
    }
    return listed(pipe(**stored["call"], plan=plan, parts=parts).tokens)


def test_every_picture_is_in_the_list() -> None:
    assert {path.stem for path in (STORED / "pictures").iterdir()} == {*PICTURES, "not-repeatable"}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_repeated(name: str) -> None:
    """Without a warning (each is an error here): the revision is the one that was noted."""
    stored = PICTURES[name]
    result = load(stored["model"]).repeat(picture(name))
    assert listed(result.tokens) == stored["tokens"]
    if len(result) == 1:
        with Image.open(picture(name)) as drawn:
            assert looks_like(result.images[0], drawn)


@pytest.mark.parametrize("name", PICTURES)
def test_a_recipe_as_plain_data_is_repeated(name: str) -> None:
    stored = PICTURES[name]
    pipe = load(stored["model"])
    result = pipe(**pipe.arguments_of(Recipe.from_dict(stored["recipe"])))
    assert listed(result.tokens) == stored["tokens"]


def test_what_could_not_be_repeated_still_says_so() -> None:
    with pytest.raises(library.NextscaleError, match="cannot be repeated"):
        load("styles").repeat(picture("not-repeatable"))


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_carried_out(name: str) -> None:
    """As it was, and after it was written anew as plain data."""
    stored = PLANS[name]
    pipe, plan = load(stored["model"]), Plan.from_dict(stored["plan"])
    assert carry_out(pipe, stored, plan) == stored["tokens"]
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    assert carry_out(pipe, stored, again) == stored["tokens"]


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_has_the_columns_that_it_was_written_with(name: str) -> None:
    """Those that it left out have the defaults of its time."""
    stored = PLANS[name]["plan"]
    plan = Plan.from_dict(stored)
    for row, wanted in zip(plan.rows, stored["rows"], strict=True):
        for column, value in (DEFAULTS_OF_FORMAT_1 | wanted).items():
            if column != "memory":  # which is a matter of the whole plan, later
                assert getattr(row, column) == as_tuples(value), column
    sizes = [row["size"] for row in stored["rows"]] + stored.get("undrawn", [])
    assert plan.schedule.sizes == as_tuples(sizes)


def test_a_plan_with_two_memories_of_one_model_is_refused() -> None:
    rows = [{"size": [1, 1]}, {"size": [2, 2], "memory": "recurrent"}]
    with pytest.raises(library.NextscaleError, match="memory"):
        Plan.from_dict({"rows": rows})


def test_words_and_styles_of_a_checkpoint() -> None:
    pipe = load("styles")
    assert pipe.card.startswith("# tiny-styles")
    with pytest.warns(UserWarning, match="'a smile' is drawn as animal"):
        assert pipe(prompt="a smile", seed=1).recipe["plan"]
    with pytest.warns(UserWarning, match="no image of flag in the style openmoji"):
        pipe("flag", style="openmoji", seed=1)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_checkpoint_is_saved_anew(folder: str, tmp_path: Path) -> None:
    """Elsewhere and over itself, where its owner's file stays; what was drawn before is drawn by both."""
    place = tmp_path / "mine"
    shutil.copytree(STORED / folder, place)
    (place / "notes.txt").write_text("mine")
    pipe = library.load(place, device="cpu", dtype="float32")
    pipe.save_pretrained(place, overwrite=True)
    pipe.save_pretrained(tmp_path / "new")
    assert (place / "notes.txt").read_text() == "mine"
    (stored, *_) = (one for one in PICTURES.values() if one["model"] == folder)
    arguments = pipe.arguments_of(Recipe.from_dict(stored["recipe"]))
    for saved in (place, tmp_path / "new"):
        result = library.load(saved, device="cpu", dtype="float32")(**arguments)
        assert listed(result.tokens) == stored["tokens"]


def test_a_published_model_that_was_converted_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder in the cache is loaded; the hub cannot be reached."""
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(PUBLISHED, "var-d1", VAR_D1)
    shutil.copytree(STORED / "converted", converted_folder(VAR_D1))
    stored = PICTURES["converted"]
    pipe = library.load("var-d1", device="cpu", dtype="float32")
    result = pipe(**pipe.arguments_of(Recipe.from_dict(stored["recipe"])))
    assert listed(result.tokens) == stored["tokens"]
