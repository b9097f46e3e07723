"""A recipe is refused in one sentence before anything runs; the shipped ones parse and say what the papers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nextscale.errors import InputError
from nextscale.training.generator_recipe import VARRecipe
from nextscale.training.recipe import (
    SHIPPED,
    differences,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)
from nextscale.training.tokenizer_recipe import TokenizerRecipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_parse_and_survive_being_saved(name: str) -> None:
    recipe = load_recipe(name)
    dumped = recipe.model_dump(mode="json")
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(dumped)), "saved") == recipe


@pytest.mark.parametrize(
    ("name", "depth", "lr", "gamma", "end", "epochs", "batch"),
    [
        ("var-d16", 16, 3e-4, 1e-3, 0.1, 200, 768),
        ("var-d20", 20, 3e-4, 1e-3, 0.1, 250, 768),
        ("var-d24", 24, 2.4e-4, 1e-4, 0.01, 350, 768),
        ("var-d30", 30, 3.2e-4, 1e-5, 0.01, 350, 1024),
        ("var-d36-512", 36, 2.4e-4, 5e-6, 0.01, 350, 768),
    ],
)
def test_the_official_recipes_are_the_official_ones(
    name: str, depth: int, lr: float, gamma: float, end: float, epochs: int, batch: int
) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, VARRecipe)
    assert recipe.optim.lr == pytest.approx(lr)
    assert (recipe.model.depth, recipe.model.gamma) == (depth, gamma)
    assert (recipe.schedule.end, recipe.schedule.epochs, recipe.run.batch) == (end, epochs, batch)
    assert recipe.model.drop_path == pytest.approx(0.1 * depth / 24, rel=1e-4)
    assert recipe.optim.weight_decay_end == (0.08 if depth >= 30 else None)
    assert (recipe.optim.ema, recipe.optim.clip, recipe.schedule.form) == (0, 2.0, "lin0")
    assert recipe.model.shared_adaln == (recipe.data.resolution == 512)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "no key 'optim.lrr'; did you mean 'optim.lr'?"),
        ("otpim.lr=1", "no key 'otpim'; did you mean 'optim'?"),
        ("model.autoencoder.chh=8", "no key 'model.autoencoder.chh'; did you mean 'model.autoencoder.ch'?"),
        ("model.xyzzy=8", "no key 'model.xyzzy'; known here are autoencoder, beta"),
        ("optim.lr=fast", "optim.lr: input should be a valid number"),
        ("optim.lr=-1", "optim.lr: input should be greater than 0 (found -1)"),
        ("run.batch=2.5", "run.batch: "),
        ("model.autoencoder.groups=7", "cannot be split into 7 norm groups"),
        ("model.sizes=[3, 2]", "scales must not shrink"),
        ("data.resolution=72", "times a stride of 8 is 64x64"),
        ("schedule.steps=null", "either steps or epochs"),
        ("run.precision=int8", "'bf16' or 'fp32'"),
        ("optim=3", "optim: input should be"),
        ("run.checkpointing=true", "no key 'run.checkpointing'"),
        ("optim.lr", "section.key=value"),
        ("kind.of=3", "no section 'kind'"),
        ("optim.lr=[", "not valid YAML"),
        ("kind=painter", "kind: tokenizer or var"),
    ],
)
def test_a_wrong_entry_is_refused_in_one_sentence(override: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_recipe("tokenizer-emoji", [override])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [("tokenizer-emojy", "did you mean 'tokenizer-emoji'?"), ("qqq", "shipped are classifier-emoji, m-var-d12")],
)
def test_an_unknown_recipe_names_those_there_are(name: str, message: str) -> None:
    with pytest.raises(InputError, match="no recipe or file") as refused:
        load_recipe(name)
    assert message in str(refused.value)


@pytest.mark.parametrize("content", [b"- a\n", b"a: [", b"\xff\xfe\x00", b""])
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"mine\.yaml"):
        load_recipe(file)


def test_overrides_reach_nested_entries_and_absent_sections(tmp_path: Path) -> None:
    data = yaml.safe_load((SHIPPED / "tokenizer-emoji.yaml").read_text())
    del data["loss"]
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(data))
    recipe = load_recipe(file, ["loss.l1=0.5", "model.autoencoder.groups=4", "optim.lr=2e-3"])
    assert isinstance(recipe, TokenizerRecipe)
    assert (recipe.loss.l1, recipe.loss.l2, recipe.model.autoencoder.groups, recipe.optim.lr) == (0.5, 1.0, 4, 2e-3)


def test_differences_name_every_changed_key() -> None:
    one: dict[str, Any] = {"optim": {"lr": 1, "clip": 2}, "kind": "var"}
    assert differences(one, {"optim": {"lr": 3, "clip": 2}}) == ["kind: 'var' -> None", "optim.lr: 1 -> 3"]
    assert differences(one, one) == []


@pytest.mark.parametrize(("images", "batch", "steps"), [(100, 10, 30), (101, 10, 31), (5, 64, 1)])
def test_epochs_count_images(images: int, batch: int, steps: int) -> None:
    recipe = load_recipe("var-emoji", ["schedule.epochs=3"])
    assert recipe.schedule.total(images, batch) == steps


@pytest.mark.parametrize("kind", ["tokenizer", "var", "m-var", "classifier"])
def test_a_shipped_name_may_leave_out_what_is_trained(kind: str) -> None:
    assert load_recipe("emoji", kind=kind) == load_recipe(f"{kind}-emoji")
    assert load_recipe("m-var-d16", kind=kind) == load_recipe("m-var-d16")  # a whole name goes first
    with pytest.raises(InputError, match="no recipe or file 'emojy'"):
        load_recipe("emojy", kind=kind)


def test_one_length_takes_the_place_of_the_other() -> None:
    recipe = load_recipe("m-var-emoji", ["schedule.steps=3"])
    assert recipe.schedule.steps == 3
    assert recipe.schedule.epochs is None
    assert load_recipe("m-var-emoji", ["schedule.steps=3", "schedule.epochs=2"]).schedule.steps is None
    with pytest.raises(InputError, match="give either steps or epochs"):
        load_recipe("m-var-emoji", ["schedule.epochs=null"])
