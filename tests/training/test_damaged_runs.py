"""A run folder that was damaged is resumed bit for bit or not at all: the file is named, and what can be used."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nextscale.checkpoints.digests import DIGESTS
from nextscale.errors import CheckpointError, InputError, NextscaleError, TrainingError
from nextscale.files import sha256
from nextscale.training.recipe import load_recipe
from nextscale.training.start import start
from nextscale.training.trainer import FILES
from tests.training.tiny import TINY_TOKENIZER, TINY_VAR

RECIPE = [*TINY_TOKENIZER, "run.save_every=2", "run.keep=3"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """A run that was stopped after step 5, with the checkpoints 2, 4 and 5."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    start("tokenizer", "tokenizer-emoji", images, folder, None, RECIPE, "cpu").run(5)
    return folder


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.fixture
def old(run: Path) -> Path:
    """As the version before wrote it: without digests."""
    (run / DIGESTS).unlink()
    return run


def resume(run: Path, images: Path) -> None:
    start("tokenizer", "tokenizer-emoji", images, run, None, RECIPE, "cpu").run()


def refused(run: Path, images: Path, kind: type[NextscaleError] = CheckpointError) -> str:
    """The sentence with which a run is not resumed; nothing in its folder changes."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "tensorboard" not in path.parts}
    with pytest.raises(kind) as error:
        resume(run, images)
    said = str(error.value)
    assert said.isprintable()
    assert {path: path.read_bytes() for path in before} == before
    return said


def latest(run: Path, name: str) -> Path:
    return run / "checkpoints" / "step-000005" / f"{name}.safetensors"


def test_every_file_of_every_checkpoint_has_its_digest(stopped: Path) -> None:
    listed = json.loads((stopped / DIGESTS).read_text())["sha256"]
    files = [path for path in (stopped / "checkpoints").rglob("*") if path.is_file()]
    assert {str(path.relative_to(stopped)): sha256(path) for path in files} == listed
    assert len(files) == 3 * len(FILES)


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_stops_a_resume(run: Path, images: Path, name: str) -> None:
    file, rng = latest(run, name), random.Random(name)
    data = bytearray(file.read_bytes())
    data[rng.randrange(8 + int.from_bytes(data[:8], "little"), len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(bytes(data))
    said = refused(run, images)
    assert f"{file} is damaged" in said
    assert "remove that folder to go on from step-000004, which is whole" in said
    shutil.rmtree(file.parent)
    resume(run, images)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_an_empty_and_a_cut_file_stop_a_resume(run: Path, old: Path, images: Path, name: str) -> None:
    """Also where an older version wrote the run, without digests."""
    file = latest(old, name)
    content = file.read_bytes()
    for damage in (None, b"", content[: len(content) // 2]):
        file.unlink()
        if damage is not None:
            file.write_bytes(damage)
        said = refused(old, images)
        assert f"{name}.safetensors" in said
        assert "go on from step-000004" in said
        file.write_bytes(content)


@pytest.mark.parametrize("name", [name for name in FILES if name != "optimizer"])
def test_a_file_without_tensors_stops_a_resume(old: Path, images: Path, name: str) -> None:
    save_file({}, latest(old, name))
    assert "go on from step-000004" in refused(old, images)


def test_an_optimiser_without_state_stops_a_resume(run: Path, images: Path) -> None:
    save_file({}, latest(run, "optimizer"))
    assert "optimizer.safetensors is damaged" in refused(run, images)
    (run / DIGESTS).unlink()
    assert "the optimiser's state is empty" in refused(run, images)


def test_tensors_of_something_else_stop_a_resume(old: Path, images: Path) -> None:
    """Missing, misshapen, of another type, unknown, not finite: each in the files that it can be in."""
    original = {name: load_file(latest(old, name)) for name in FILES}
    weight = "decoder.conv_out.weight"
    moment = f"{weight}|exp_avg"

    def changed(name: str, **tensors: torch.Tensor | None) -> None:
        state = {key: t for key, t in (original[name] | tensors).items() if t is not None}
        save_file(state, latest(old, name))
        said = refused(old, images)
        assert "step-000005 is damaged (" in said
        save_file(original[name], latest(old, name))

    for name in ("weights", "average"):
        changed(name, **{weight: None})
        changed(name, **{weight: torch.zeros(3)})
        changed(name, **{weight: original[name][weight].to(torch.int32)})
        changed(name, **{weight: original[name][weight] * float("nan")})
        changed(name, **{weight: torch.full_like(original[name][weight], 1e30)})
        changed(name, extra=torch.zeros(3))
    changed("optimizer", **{moment: None})
    changed("optimizer", **{moment: torch.zeros(3)})
    changed("optimizer", **{moment: original["optimizer"][moment] * float("nan")})
    changed("optimizer", **{f"{weight}|step": torch.tensor(float("inf"))})
    changed("optimizer", **{f"{weight}|zzz": torch.zeros(3)})
    changed("optimizer", **{"zzz|exp_avg": torch.zeros(3)})
    changed("optimizer", zzz=torch.zeros(3))
    changed("objective", share=None)
    changed("objective", share=torch.zeros(5))
    changed("objective", frequency=torch.zeros(5))
    changed("objective", frequency=original["objective"]["frequency"] * float("nan"))
    changed("objective", steps=torch.zeros(5))
    changed("objective", **{"trainer.best": torch.zeros(5, dtype=torch.float64)})
    changed("objective", **{"trainer.lost": torch.zeros(0)})
    changed("objective", **{"trainer.lost": None})
    changed("objective", **{"trainer.best": None})
    resume(old, images)


def test_an_old_run_without_digests_goes_on_to_the_same_weights(run: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old" / DIGESTS).unlink()
    resume(run, images)
    resume(tmp_path / "old", images)
    ours, theirs = (load_file(folder / "export" / "tokenizer.safetensors") for folder in (run, tmp_path / "old"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
    last = "checkpoints/step-000008/weights.safetensors"
    assert last in (tmp_path / "old" / DIGESTS).read_text()


def test_where_no_checkpoint_is_whole_that_is_said(run: Path, images: Path) -> None:
    for path in run.glob("checkpoints/*/average.safetensors"):
        path.write_bytes(b"")
    assert "no older one is whole, so start anew in another folder" in refused(run, images)


def test_a_log_that_is_no_text_is_named_or_goes_on(run: Path, images: Path) -> None:
    log = run / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    for damage in (b'{"step": 1, "kind": "\xff\xfe', b"[" * 200_000, b"\0" * 100, b"5", b'{"step": null, "kind": 1}'):
        log.write_bytes(b"".join([*lines[:2], damage + b"\n", *lines[2:]]))
        assert f"line 3 of {log} is damaged; remove that line" in refused(run, images, TrainingError)
    for whole in (b"".join(lines).decode().encode("utf-16"), b"\xff" * 500):
        log.write_bytes(whole)
        assert f"line 1 of {log} is damaged; remove that line" in refused(run, images, TrainingError)
        assert log.read_bytes() == whole
    log.write_bytes(b"".join(lines) + b'{"step": 5, "kind": "tr\xff')  # cut short by a kill
    resume(run, images)
    assert all(line.startswith("{") for line in log.read_text("utf-8").splitlines())


RECIPES = {
    "deep": b"[" * 200_000,
    "no UTF-8": b"recipe: \xff\xfe",
    "null": b"null",
    "a list": b"- 1\n",
    "no data": b"recipe: {kind: tokenizer}\nversion: {}\nsource: x\n",
    "no tables": b"recipe: 5\ndata: 5\nversion: 5\nsource: 5\n",
    "a list for data": b"recipe: {kind: tokenizer}\ndata: [1]\nversion: {}\nsource: x\n",
    "digits": b"recipe: " + b"1" * 5000,
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_damaged_recipe_of_a_run_is_named(run: Path, images: Path, name: str) -> None:
    (run / "recipe.yaml").write_bytes(RECIPES[name])
    said = refused(run, images, TrainingError)
    assert f"{run / 'recipe.yaml'} is damaged, so this run cannot be resumed" in said


def test_damaged_costs_are_forgotten(run: Path, images: Path) -> None:
    for content in (
        b"[" * 200_000,
        b"\xff",
        b'{"predicted": 5, "spent": []}',
        b'{"predicted": {}, "spent": {"steps": "x"}}',
    ):
        (run / "price.json").write_bytes(content)
        start("tokenizer", "tokenizer-emoji", images, run, None, RECIPE, "cpu").run(5)


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "override"),
    [
        ("tokenizer-emoji", f"{key}={10**12}")
        for key in (
            "model.codes",
            "model.code_dim",
            "model.phi",
            "model.quant_kernel",
            "model.autoencoder.ch",
            "model.autoencoder.z",
            "model.autoencoder.res_blocks",
            "model.autoencoder.groups",
            "data.resolution",
            "data.shift",
            "run.batch",
            "schedule.steps",
            "codebook.kmeans",
            "loss.adversarial.layers",
            "loss.adversarial.width",
        )
    ]
    + [
        ("m-var-emoji", f"{key}={10**12}")
        for key in (
            "model.depth",
            "model.width",
            "model.heads",
            "model.mlp_ratio",
            "model.state",
            "model.head_dim",
            "data.copies",
            "sampling.top_k",
            "sampling.temperature",
            "sampling.guidance_scale",
        )
    ]
    + [
        ("tokenizer-emoji", override)
        for override in (
            "model.sizes=[1, 1000000000000]",
            "model.sizes=[[1, 1000000000000]]",
            "model.autoencoder.mult=[1, 1, 1000000000000]",
            f"model.autoencoder.mult={[1] * 1000}",
            f"run.batch={'9' * 5000}",
            f"run.batch={'[' * 200_000}",
            "run.batch=!!int ''",
            "run.seed=2020-13-45",
            "run={batch: 1, batch: 2}",
            "kind=[]",
            "kind={}",
            "=" * 3_000_000,
            "x" * 3_000_000 + "=1",
        )
    ],
)
def test_numbers_without_bounds_are_refused_in_one_short_sentence(recipe: str, override: str) -> None:
    with pytest.raises(InputError) as refused_with:
        load_recipe(recipe, [override])
    assert str(refused_with.value).isprintable()
    assert len(str(refused_with.value)) < 600


def test_a_network_that_no_machine_here_can_train_is_refused_before_data_are_read(tmp_path: Path) -> None:
    """4 billion codes of 65,536 numbers; and a transformer of a million channels."""
    told = r"training takes more memory than there is: [\d,.]+ GiB for the [\d,]+ parameters"
    wide = [*TINY_TOKENIZER, "model.codes=4000000000"]
    with pytest.raises(InputError, match=told):
        start("tokenizer", "tokenizer-emoji", tmp_path / "no data", tmp_path / "run", None, wide, "cpu")
    deep = [*TINY_VAR, "model.width=1048576", "model.depth=1000"]
    with pytest.raises(InputError, match=told):
        start("var", "var-emoji", tmp_path / "no data", tmp_path / "run", "emoji", [*deep, "data.resolution=64"], "cpu")
    many = [*TINY_VAR, "run.batch=1048576", "model.depth=64", "data.resolution=64"]
    with pytest.raises(InputError, match=r"lower run.batch or raise run.accumulate"):
        start("var", "var-emoji", tmp_path / "no data", tmp_path / "run", "emoji", many, "cpu")
    assert list(tmp_path.iterdir()) == []
