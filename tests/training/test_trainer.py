"""What a training run does, says and leaves behind; and what it refuses, in one sentence."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from nextscale.checkpoints.store import load_component
from nextscale.errors import CheckpointError, InputError, TrainingError
from nextscale.evaluation.runs import read_run
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from tests.training.tiny import TINY_TOKENIZER, TINY_VAR

STEPS = 9
TOKENIZER = [*TINY_TOKENIZER, f"schedule.steps={STEPS}", "run.save_every=5", "run.validate_every=4", "optim.ema=0.9"]
TOKENIZER += ["codebook.restart_every=2", "codebook.restart_below=0.5", "data.shift=3", "data.recolour=0.5"]
VAR = [*TINY_VAR, "schedule.epochs=null", f"schedule.steps={STEPS}", "run.save_every=5", "run.validate_every=4"]
VAR += ["model.drop_path=0.3", "optim.ema=0.9"]


def command(images: Path, output: Path, steps: int) -> list[str]:
    overrides = [*TOKENIZER, f"schedule.steps={steps}", "run.save_every=2"]
    settings = [word for override in overrides for word in ("--set", override)]
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", str(images), "-o", str(output)]
    return [sys.executable, "-m", "nextscale", *words, "--device", "cpu", *settings]


def logged(output: Path) -> int:
    file = output / "log.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_ctrl_c_saves_and_says_how_to_go_on(images: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    long = 4000  # far more steps than are done when the signal comes
    process = subprocess.Popen(
        command(images, tmp_path / "run", long), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    patience = time.monotonic() + 600  # seconds are enough, unless the machine is busy
    while logged(tmp_path / "run") < 5 and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error.decode()
    assert "the same command again to resume" in error.decode()
    assert "million parameters" in error.decode()  # the price stood there before the first step
    saved = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert saved.name == f"step-{max(steps):06d}"


def test_a_diverging_run_stops_with_the_step_and_the_last_good_checkpoint(images: Path, tmp_path: Path) -> None:
    overrides = [*TOKENIZER, "optim.lr=1e30", "optim.clip=1e30", "run.save_every=1", "schedule.warmup=0.5"]
    trainer = start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, overrides, "cpu")
    with pytest.raises(TrainingError, match=r"at step 1, so training stopped; no good checkpoint had been written yet"):
        trainer.run()  # what was saved after step 0 has the loss that is not finite
    usual = [*TOKENIZER, "run.save_every=1", "schedule.steps=9"]
    trainer = start("tokenizer", "tokenizer-emoji", images, tmp_path / "other", None, usual, "cpu")
    trainer.run(3)
    trainer = start("tokenizer", "tokenizer-emoji", images, tmp_path / "other", None, usual, "cpu")
    trainer._resume()
    next(trainer.objective.module.parameters()).data.fill_(torch.nan)  # as a fault of the machine would
    with pytest.raises(
        TrainingError, match=r"at step 3, so training stopped; the last good checkpoint is .*step-000002"
    ):
        trainer._train(9)


def test_a_run_that_is_worse_than_guessing_stops(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    """Its loss stays finite; the checkpoint that is named is from before."""
    overrides = [*VAR, "schedule.steps=300", "schedule.warmup=0.1", "optim.lr=2", "run.save_every=1"]
    overrides += ["run.validate_every=1000", "run.sample_every=1000"]
    trainer = start("var", "var-emoji", images, tmp_path / "run", str(tokenizer), overrides, "cpu")
    with pytest.raises(TrainingError, match=r"loss was above 6\.36 for 100 steps up to step \d+, so") as stop:
        trainer.run()
    (kept,) = [path for path in (tmp_path / "run" / "checkpoints").iterdir() if str(path) in str(stop.value)]
    saved = int(kept.name.removeprefix("step-"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines]
    assert min(losses[saved + 1 :]) > 2 * math.log(24) >= losses[saved]
    assert len(losses) == saved + 100


def test_another_recipe_is_refused_by_its_key_and_the_run_stays_as_it_was(images: Path, tmp_path: Path) -> None:
    def trainer(*more: str) -> Trainer:
        return start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, [*TOKENIZER, *more], "cpu")

    trainer().run(2)
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    with pytest.raises(TrainingError, match=r"recipe\.optim\.lr: 0\.001 -> 0\.002"):
        trainer("optim.lr=0.002")
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before
    trainer().run(3)


def test_entries_that_a_saved_recipe_does_not_know_have_their_defaults(images: Path, tmp_path: Path) -> None:
    def trainer(*more: str) -> Trainer:
        return start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, [*TOKENIZER, *more], "cpu")

    trainer().run(1)
    file = tmp_path / "run" / "recipe.yaml"
    lines = [line for line in file.read_text().splitlines() if "accumulate" not in line and "export" not in line]
    file.write_text("\n".join(lines))
    with pytest.raises(TrainingError, match=r"recipe\.run\.accumulate: 1 -> 2"):
        trainer("run.accumulate=2")
    trainer().run(2)


def test_other_images_are_refused(images: Path, tmp_path: Path) -> None:
    trainer = start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, TOKENIZER, "cpu")
    trainer.run(1)
    facts = (tmp_path / "run" / "recipe.yaml").read_text()
    digest = facts.split("hash: ")[1].split()[0]
    (tmp_path / "run" / "recipe.yaml").write_text(facts.replace(digest, "0" * 64))
    with pytest.raises(TrainingError, match=r"data\.hash"):
        start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, TOKENIZER, "cpu")


def test_other_held_out_images_are_refused(images: Path, tmp_path: Path) -> None:
    pictures = shutil.copytree(images, tmp_path / "images")
    start("tokenizer", "tokenizer-emoji", pictures, tmp_path / "run", None, TOKENIZER, "cpu").run(1)
    for file in (pictures / "val").rglob("*.png"):
        Image.new("RGB", (16, 16), "white").save(file)
    with pytest.raises(TrainingError, match=r"data\.heldout"):
        start("tokenizer", "tokenizer-emoji", pictures, tmp_path / "run", None, TOKENIZER, "cpu")


def test_checkpoints_without_a_recipe_are_nobodys(images: Path, tmp_path: Path) -> None:
    start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, TOKENIZER, "cpu").run(1)
    (tmp_path / "run" / "recipe.yaml").unlink()
    with pytest.raises(TrainingError, match=r"recipe.yaml is damaged, so this run cannot be resumed"):
        start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, TOKENIZER, "cpu")


def test_stopping_a_diverging_run_removes_no_good_checkpoint(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    overrides = [*VAR, "schedule.steps=300", "schedule.warmup=0.1", "optim.lr=2", "run.save_every=5"]
    overrides += ["run.validate_every=1000", "run.sample_every=1000"]
    checkpoints = tmp_path / "run" / "checkpoints"

    def trainer() -> Trainer:
        return start("var", "var-emoji", images, tmp_path / "run", str(tokenizer), overrides, "cpu")

    for until in (5, 10, 60, 65, 70):
        trainer().run(until)
    good = [path.name for path in checkpoints.iterdir() if path.name not in ("step-000060", "step-000065")]
    with pytest.raises(TrainingError, match="the last good checkpoint is") as stop:
        trainer().run()
    assert any(str(stop.value).count(f"{name};") for name in good)
    assert "step-000070" not in str(stop.value)


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


def test_the_best_export_is_of_the_best_validation(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    """It gets worse when it has learnt the training images by heart; the export stays at the step before."""
    overrides = [*VAR, "schedule.steps=30", "run.validate_every=5", "run.save_every=5", "run.keep=6", "optim.lr=0.05"]
    exported = {}
    for which in ("last", "best"):
        more = [*overrides, f"run.export={which}"]
        start("var", "var-emoji", images, tmp_path / which, str(tokenizer), more, "cpu").run()
        exported[which] = load_component(tmp_path / which / "export", "model").state_dict()
    lines = [json.loads(line) for line in (tmp_path / "best" / "log.jsonl").read_text().splitlines()]
    held_out = {line["step"]: line["loss"] for line in lines if line["kind"] == "validation"}
    best = min(held_out, key=lambda step: held_out[step])
    assert best < 30
    for which, step in (("last", 30), ("best", best)):
        average = load_file(tmp_path / which / "checkpoints" / f"step-{step:06d}" / "average.safetensors")
        assert all(torch.equal(exported[which][key], average[key]) for key in average)


@pytest.mark.parametrize("export", ["last", "best"])
def test_max_steps_end_with_a_validation_that_the_whole_run_does_not_have(
    export: str, images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    """Steps 3 and 6 end a part between two validations. The loss falls, but step 6 is not the best one for that."""
    overrides = [*VAR, "optim.lr=0.05", f"run.export={export}"]

    def train(name: str, until: int | None = None) -> list[tuple[int, float]]:
        """What is in the log about held-out images once the part is over."""
        run = tmp_path / name
        metrics = start("var", "var-emoji", images, run, str(tokenizer), overrides, "cpu").run(until)
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        held_out = [(line["step"], line["loss"]) for line in lines if line["kind"] == "validation"]
        assert held_out[-1] == ((until or STEPS), metrics["loss"])
        return held_out

    whole = train("whole")
    assert [step for step, _ in whole] == [4, 8, STEPS]
    first = train("parts", 3)
    assert [step for step, _ in first] == [3]
    assert train("parts", 3) == first  # it is at its end already
    assert f"| loss | {first[0][1]:.4g} |" in (tmp_path / "parts" / "export" / "README.md").read_text()
    best = read_run(tmp_path / "parts").best("loss")
    assert best is not None
    assert best.step == 3
    assert [step for step, _ in train("parts", 4)] == [4]
    fourth = (tmp_path / "parts" / "export" / "model.safetensors").read_bytes()
    assert [step for step, _ in train("parts", 6)] == [4, 6]
    sixth = (tmp_path / "parts" / "export" / "model.safetensors").read_bytes()
    assert (fourth == sixth) == (export == "best")
    assert train("parts") == whole
    kept = [*(tmp_path / "whole" / "export").glob("*.safetensors")]
    kept += (tmp_path / "whole" / "checkpoints" / f"step-{STEPS:06d}").iterdir()
    for file in kept:
        assert file.read_bytes() == (tmp_path / "parts" / file.relative_to(tmp_path / "whole")).read_bytes()


def test_accumulated_parts_have_the_losses_of_the_whole(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    losses = {}
    for parts in (1, 4):
        overrides = [*VAR, f"run.accumulate={parts}"]
        start("var", "var-emoji", images, tmp_path / str(parts), str(tokenizer), overrides, "cpu").run()
        lines = [json.loads(line) for line in (tmp_path / str(parts) / "log.jsonl").read_text().splitlines()]
        losses[parts] = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[4] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.slow
def test_a_compiled_run_has_the_losses_of_a_plain_one(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    losses = {}
    for compiled in ("false", "true"):
        overrides = [*VAR, f"run.compile={compiled}", "run.checkpointing=true", "schedule.steps=3"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own
            start("var", "var-emoji", images, tmp_path / compiled, str(tokenizer), overrides, "cpu").run()
        lines = [json.loads(line) for line in (tmp_path / compiled / "log.jsonl").read_text().splitlines()]
        losses[compiled] = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses["true"] == pytest.approx(losses["false"], rel=1e-5)


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
        ("var", "tokenizer-emoji", "x", "a recipe of the kind tokenizer; expected var, which was asked for"),
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


def test_a_classifier_of_one_class(images: Path, tmp_path: Path) -> None:
    shutil.copytree(images / "train" / "warm", tmp_path / "data")
    overrides = ["data.resolution=16", "run.precision=fp32"]
    with pytest.raises(InputError, match="one class, 'data'; a classifier needs two or more"):
        start("classifier", "classifier-emoji", tmp_path / "data", tmp_path / "run", None, overrides, "cpu")
    assert not (tmp_path / "run").exists()


def test_an_output_that_is_a_file(images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run is a file; expected a folder"):
        start("tokenizer", "tokenizer-emoji", images, tmp_path / "run", None, TOKENIZER, "cpu")
