"""Nothing is lost: a run that is interrupted, at once or politely, ends with the weights of one that was not.

Bit for bit in float32 on one thread: weights, average, optimiser, code use, export and log.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nextscale.checkpoints.store import load_component
from nextscale.errors import CheckpointError, InputError, TrainingError
from nextscale.training.start import start
from nextscale.training.trainer import Interrupted, Progress, Trainer
from tests.training.tiny import TINY_TOKENIZER, TINY_VAR

STEPS = 9
TOKENIZER = [*TINY_TOKENIZER, f"schedule.steps={STEPS}", "run.save_every=5", "run.validate_every=4", "optim.ema=0.9"]
TOKENIZER += ["codebook.restart_every=2", "codebook.restart_below=0.5", "data.shift=3", "data.recolour=0.5"]
VAR = [*TINY_VAR, "schedule.epochs=null", f"schedule.steps={STEPS}", "run.save_every=5", "run.validate_every=4"]
VAR += ["model.drop_path=0.3", "optim.ema=0.9"]


def interrupt_at(step: int) -> Any:
    """A progress callback that sends this process a SIGINT after ``step``."""

    def show(at: Progress) -> None:
        if at.kind == "step" and at.step == step:
            signal.raise_signal(signal.SIGINT)

    return show


def content(run: Path) -> dict[str, Any]:
    """Everything a run leaves behind that must not depend on interruptions."""
    found: dict[str, Any] = {}
    for file in sorted([*(run / "checkpoints").glob(f"*{STEPS:06d}/*"), *(run / "export").glob("*.safetensors")]):
        for key, tensor in load_file(file).items():
            found[f"{file.relative_to(run)}: {key}"] = tensor
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return found | {"log": [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]}


def assert_same(one: Path, other: Path) -> None:
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    assert a["log"] == b["log"]
    assert [key for key, value in a.items() if key != "log" and not torch.equal(value, b[key])] == []


@pytest.mark.parametrize("kind", ["tokenizer", "var"])
def test_a_polite_interruption_changes_nothing(kind: str, images: Path, tokenizer: Path, tmp_path: Path) -> None:
    overrides, frozen = (TOKENIZER, None) if kind == "tokenizer" else (VAR, str(tokenizer))

    def trainer(name: str, progress: Any = lambda _: None) -> Trainer:
        return start(kind, f"{kind}-emoji", images, tmp_path / name, frozen, overrides, "cpu", progress)

    trainer("whole").run()
    for step in (3, 7):
        with pytest.raises(Interrupted, match=f"after step {step}") as stop:
            trainer("parts", interrupt_at(step)).run()
        assert stop.value.checkpoint.is_dir()
    last = trainer("parts")
    last.run()
    assert last.step == STEPS
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_the_comparison_can_fail(images: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 2)):
        overrides = [*TOKENIZER, f"run.seed={seed}"]
        start("tokenizer", "tokenizer-emoji", images, tmp_path / name, None, overrides, "cpu").run()
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "one", tmp_path / "two")


def command(images: Path, output: Path, steps: int) -> list[str]:
    overrides = [*TOKENIZER, f"schedule.steps={steps}", "run.save_every=2"]
    settings = [word for override in overrides for word in ("--set", override)]
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", str(images), "-o", str(output)]
    return [sys.executable, "-m", "nextscale", *words, "--device", "cpu", *settings]


def logged(output: Path) -> int:
    file = output / "log.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_killed_process_resumes_to_the_same_weights(sign: int, code: int, images: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    long = 400  # far more steps than are done when the signal comes; what is compared are the first ones
    process = subprocess.Popen(
        command(images, tmp_path / "killed", long), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    patience = time.monotonic() + 600  # seconds are enough, unless the machine is busy
    while logged(tmp_path / "killed") < 5 and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.005)
    process.send_signal(sign)
    _, error = process.communicate(timeout=300)
    assert process.returncode == code, error.decode()
    if code == 130:
        assert "the same command again to resume" in error.decode()
    steps = [int(path.name[5:]) for path in (tmp_path / "killed" / "checkpoints").glob("step-*")]
    until = max(steps) + 3

    overrides = [*TOKENIZER, f"schedule.steps={long}", "run.save_every=2"]
    for name in ("killed", "whole"):
        trainer = start("tokenizer", "tokenizer-emoji", images, tmp_path / name, None, overrides, "cpu")
        trainer.run(until)
        assert trainer.step == until
    a, b = (tmp_path / name / "checkpoints" / f"step-{until:06d}" for name in ("killed", "whole"))
    assert {file.name for file in a.iterdir()} == {file.name for file in b.iterdir()}
    assert [file.name for file in a.iterdir() if file.read_bytes() != (b / file.name).read_bytes()] == []
    assert [path.name for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")] == []


def test_a_diverging_run_stops_with_the_step_and_the_last_good_checkpoint(images: Path, tmp_path: Path) -> None:
    overrides = [*TOKENIZER, "optim.lr=1e30", "optim.clip=1e30", "run.save_every=1", "schedule.warmup=0.5"]
    trainer = start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, overrides, "cpu")
    with pytest.raises(TrainingError, match=r"at step \d+, so training stopped; the last good checkpoint is") as stop:
        trainer.run()
    (kept,) = [path for path in (tmp_path / "run" / "checkpoints").iterdir() if str(path) in str(stop.value)]
    assert all(t.isfinite().all() for t in load_file(kept / "average.safetensors").values())


def test_another_recipe_is_refused_by_its_key_and_the_run_stays_as_it_was(images: Path, tmp_path: Path) -> None:
    def trainer(*more: str) -> Trainer:
        return start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, [*TOKENIZER, *more], "cpu")

    trainer().run(2)
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    with pytest.raises(TrainingError, match=r"recipe\.optim\.lr: 0\.001 -> 0\.002"):
        trainer("optim.lr=0.002")
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before
    trainer().run(3)


def test_other_images_are_refused(images: Path, tmp_path: Path) -> None:
    trainer = start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, TOKENIZER, "cpu")
    trainer.run(1)
    facts = (tmp_path / "run" / "recipe.yaml").read_text()
    digest = facts.split("hash: ")[1].split()[0]
    (tmp_path / "run" / "recipe.yaml").write_text(facts.replace(digest, "0" * 64))
    with pytest.raises(TrainingError, match=r"data\.hash"):
        start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, TOKENIZER, "cpu")


def test_two_checkpoints_are_kept_and_a_damaged_one_is_named(images: Path, tmp_path: Path) -> None:
    def trainer() -> Trainer:
        overrides = [*TOKENIZER, "run.save_every=1"]
        return start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, overrides, "cpu")

    trainer().run(5)
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-000004", "step-000005"]
    weights = kept[-1] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="step-000005 is damaged"):
        trainer().run(6)


def test_the_export_is_the_average_of_the_weights(tokenizer: Path) -> None:
    exported = load_component(tokenizer / "export", "tokenizer").state_dict()
    (last,) = sorted((tokenizer / "checkpoints").iterdir())[-1:]
    average, weights = (load_file(last / f"{name}.safetensors") for name in ("average", "weights"))
    assert all(torch.equal(exported[key], average[key]) for key in exported)
    assert any(not torch.equal(average[key], weights[key]) for key in weights)


def test_what_a_generator_run_logs(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    """Loss and accuracy per scale, near log(V) at the start; an overfitted run gets better."""
    overrides = [*VAR, "schedule.steps=60", "run.validate_every=60", "optim.lr=0.01", "optim.ema=0", "run.batch=13"]
    trainer = start("var", "var-emoji", images, tmp_path / "run", str(tokenizer), overrides, "cpu")
    metrics = trainer.run()
    assert {f"{name}_{k}" for name in ("loss", "accuracy") for k in range(3)} <= metrics.keys()
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[0] == pytest.approx(math.log(24), rel=0.05)
    assert losses[-1] < 0.8 * losses[0]
    assert metrics["loss"] == pytest.approx((metrics["loss_0"] + 4 * metrics["loss_1"] + 16 * metrics["loss_2"]) / 21)


@pytest.mark.parametrize(
    ("kind", "recipe", "frozen", "message"),
    [
        ("painter", "tokenizer-emoji", None, "nothing to train called 'painter'"),
        ("var", "tokenizer-emoji", "x", "a recipe for a tokenizer, but a var was asked for"),
        ("var", "var-emoji", None, "name it with --tokenizer"),
        ("tokenizer", "tokenizer-emoji", "x", "a tokenizer recipe needs none"),
        ("var", "var-emoji", "nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_trained(
    kind: str, recipe: str, frozen: str | None, message: str, images: Path, tmp_path: Path
) -> None:
    with pytest.raises((InputError, CheckpointError), match=message):
        start(kind, recipe, images, tmp_path / "run", frozen, [], "cpu")
    assert not (tmp_path / "run").exists()


def test_a_tokenizer_for_another_resolution(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="made for 16 pixels, but the recipe says 64"):
        start("var", "var-emoji", images, tmp_path / "run", str(tokenizer), [*TINY_VAR, "data.resolution=64"], "cpu")


def test_runs_of_different_precision_in_one_process(images: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16", "fp32"):
        overrides = [*TOKENIZER, f"run.precision={precision}"]
        trainer = start("tokenizer", "tokenizer-emoji", images, tmp_path / precision, None, overrides, "cpu")
        trainer.run(1)
        first = json.loads((tmp_path / precision / "log.jsonl").read_text().splitlines()[0])
        losses[precision] = first["loss"]
    assert losses["fp32"] != losses["bf16"]
    assert losses["fp32"] == pytest.approx(losses["bf16"], rel=0.02)


def test_an_output_that_is_a_file(images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, TOKENIZER, "cpu")
