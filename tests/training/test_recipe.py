"""A recipe is refused in one sentence before anything runs; the shipped ones parse and say what the papers say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nextscale.errors import InputError
from nextscale.training.generator_recipe import ClassTransformerRecipe
from nextscale.training.recipe import (
    SHIPPED,
    differences,
    load_recipe,
    parse_recipe,
    shipped_recipes,
)
from nextscale.training.recipes.residual import ResidualTokenizerRecipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_parse_and_survive_being_saved(name: str) -> None:
    recipe = load_recipe(name)
    dumped = recipe.model_dump(mode="json")
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(dumped)), "saved") == recipe


PUBLISHED = """
name         pixels depth batch epochs base    gamma  end   final decay
var-d12      256    12    768   200    1.0e-4  1.0e-3 0.1   -
var-d16      256    16    768   200    1.0e-4  1.0e-3 0.1   -
var-d20      256    20    768   250    1.0e-4  1.0e-3 0.1   -
var-d24      256    24    768   350    8.0e-5  1.0e-4 0.01  -
var-d30      256    30    1024  350    8.0e-5  1.0e-5 0.01  0.08
var-d36-512  512    36    768   350    8.0e-5  5.0e-6 0.01  0.08
m-var-d12    256    12    768   200    1.0e-4  1.0e-3 0.1   -
m-var-d16    256    16    768   200    1.0e-4  1.0e-3 0.1   -
m-var-d20    256    20    768   250    1.0e-4  1.0e-3 0.1   -
m-var-d24    256    24    768   350    8.0e-5  1.0e-4 0.01  -
m-var-d30    256    30    1024  350    8.0e-5  1.0e-5 0.01  0.08
m-var-d32    256    32    1024  350    8.0e-5  1.0e-5 0.01  0.08
"""
"""The commands of both authors; base is the learning rate for a batch of 256. var-d12 and m-var-d32 have no command of
their own and take those of d16 and d30."""
SHARED: dict[str, dict[str, Any]] = {
    "data": {"flip": 0, "copies": 0, "unmirrored": (), "shift": 0, "recolour": 0},
    "model": {"mlp_ratio": 4, "head": 0.02},
    "loss": {"label_smoothing": 0, "label_drop": 0.1, "scale_weights": None},
    "sampling": {"guidance_scale": 2.5, "temperature": 1, "top_k": 900, "top_p": 0.96},
    "optim": {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.05, "clip": 2, "ema": 0, "fused": False},
    "schedule": {"form": "lin0", "steps": None, "warmup": 0.02, "start": 0.005},
}
MAMBA = {"mixer": "mamba2", "state": 64, "head_dim": 64, "official_init": True}


def test_every_official_recipe_is_in_the_table() -> None:
    official = [name for name in shipped_recipes() if name.startswith(("var-d", "m-var-d"))]
    official = [name for name in official if not name.endswith("-variant")]  # those are others'
    assert official == sorted(line.split()[0] for line in PUBLISHED.splitlines()[2:])


@pytest.mark.parametrize("line", PUBLISHED.splitlines()[2:], ids=lambda line: line.split()[0])
def test_the_official_recipes_are_the_official_ones(line: str) -> None:
    """Every entry that bears on the result; of the section ``run`` that is the batch."""
    name, *numbers, final = line.split()
    pixels, depth, batch, epochs, base, gamma, end = map(float, numbers)
    recipe = load_recipe(name)
    assert isinstance(recipe, ClassTransformerRecipe)
    assert recipe.kind == name.rsplit("-d", 1)[0]
    published: dict[str, dict[str, Any]] = {
        "data": {"resolution": pixels},
        "model": {"depth": depth, "width": 64 * depth, "heads": depth, "gamma": gamma},
        "optim": {"lr": pytest.approx(base * batch / 256), "weight_decay_end": None if final == "-" else float(final)},
        "schedule": {"epochs": epochs, "end": end},
    }
    published["model"]["drop_path"] = pytest.approx(0.1 * depth / 24, rel=1e-5)
    if recipe.kind == "m-var":
        published["model"] |= MAMBA | {"l2_norm": depth > 20}  # their README switches it off for the small ones
    else:
        published["model"] |= {"l2_norm": True, "shared_adaln": pixels == 512}
    found = recipe.model_dump()
    found["model"]["width"] = recipe.model.width or 64 * recipe.model.depth  # the defaults of both
    found["model"]["heads"] = recipe.model.heads or recipe.model.depth
    for section, shared in SHARED.items():
        assert found[section] == shared | published.get(section, {}), section
    assert recipe.run.batch == batch
    assert found.pop("supernet") is None
    assert found.keys() == {"kind", "run", *SHARED}


def test_the_official_supernet_is_its_base_tuned_as_published() -> None:
    """Where the paper says nothing, and for what it does, see the recipe's own words."""
    base, tuned = (load_recipe(name).model_dump() for name in ("var-d30", "var-d30-variant"))
    told = tuned.pop("supernet")
    assert base.pop("supernet") is None
    assert told == {
        "scales": 6,
        "depths": (16, 8, 4, 2),
        "select": "formula",
        "first": 0.2,
        "joint": pytest.approx(5 / 30, abs=1e-4),
        "alone": pytest.approx(20 / 30, abs=1e-4),
    }
    lines = [line.partition(":")[0] for line in differences(base, tuned)]
    assert lines == ["optim.lr", "optim.weight_decay", "optim.weight_decay_end", "schedule.epochs"]
    assert (tuned["optim"]["lr"], tuned["schedule"]["epochs"]) == (4e-6, 30)


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
    [
        ("tokenizer-emojy", "did you mean 'tokenizer-emoji'?"),
        ("qqq", "shipped are classifier-emoji, classifier-emoji-second"),
    ],
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
    assert isinstance(recipe, ResidualTokenizerRecipe)
    assert (recipe.loss.l1, recipe.loss.l2, recipe.model.autoencoder.groups, recipe.optim.lr) == (0.5, 1.0, 4, 2e-3)


def test_differences_name_every_changed_key() -> None:
    one: dict[str, Any] = {"optim": {"lr": 1, "clip": 2}, "kind": "var"}
    assert differences(one, {"optim": {"lr": 3, "clip": 2}}) == ["kind: 'var' -> None", "optim.lr: 1 -> 3"]
    assert differences(one, one) == []


@pytest.mark.parametrize(("images", "batch", "steps"), [(100, 10, 30), (101, 10, 31), (5, 64, 1)])
def test_epochs_count_images(images: int, batch: int, steps: int) -> None:
    recipe = load_recipe("var-emoji", ["schedule.epochs=3"])
    assert recipe.schedule.total(images, batch) == steps


@pytest.mark.parametrize("kind", ["tokenizer", "tokenizer-bitwise", "var", "m-var", "classifier"])
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
