"""What the launcher was asked for is held against the recipe and against what came."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nextscale.errors import TrainingError
from nextscale.training.engine import engine, processes_asked_for, refuse_what_is_set_elsewhere
from nextscale.training.sections import RunSection


@pytest.mark.parametrize(
    ("environment", "processes"),
    [
        ({}, 1),
        ({"WORLD_SIZE": "4", "PMI_SIZE": "2"}, 4),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, 3),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 8),
        ({"MASTER_ADDR": "10.0.0.1"}, 1),  # left over from something else
        ({"ACCELERATE_MIXED_PRECISION": "no"}, 1),
    ],
)
def test_how_many_processes_were_asked_for(environment: dict[str, str], processes: int) -> None:
    assert processes_asked_for(environment) == processes


def test_a_launcher_that_starts_one_process_instead_of_two_is_seen() -> None:
    with pytest.raises(TrainingError, match=r"started one; start them with python -m torch\.distributed\.run"):
        processes_asked_for({"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})


@pytest.mark.slow
def test_accelerate_launch_does_start_one_process_instead_of_two() -> None:
    code = "import nextscale.training.engine as e, os; e.processes_asked_for(os.environ)"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--no_python"]
    done = subprocess.run([*launch, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "accelerate launch was asked for several processes, but started one" in done.stderr


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "ACCELERATE_USE_FSDP asks for sharded weights"),
        ({"ACCELERATE_USE_DEEPSPEED": "True"}, "ACCELERATE_USE_DEEPSPEED asks for sharded weights"),
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, "the recipe run.precision=bf16"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "the recipe run.compile=False"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "the recipe run.accumulate=2"),
    ],
)
def test_what_the_launcher_says_otherwise_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        refuse_what_is_set_elsewhere(environment, RunSection(batch=8, accumulate=2))


def test_what_agrees_or_says_nothing_passes() -> None:
    agreed = {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2",
        "ACCELERATE_USE_FSDP": "false",
    }
    run = RunSection(batch=8, accumulate=2, compile=True)
    refuse_what_is_set_elsewhere(agreed, run)
    defaults = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_DYNAMO_BACKEND": "NO"}
    refuse_what_is_set_elsewhere(defaults, run)


def test_an_engine_that_gives_less_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher says it has started four processes; this one is alone, and would train a quarter of every batch."""
    assert "WORLD_SIZE" not in os.environ
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(TrainingError, match="asked for with processes 4, but the engine gave 1"):
        engine(RunSection(batch=8, precision="fp32"), "cpu")


@pytest.mark.parametrize(("precision", "given"), [("fp32", "no"), ("bf16", "bf16")])
def test_the_engine_takes_the_recipes_precision(precision: str, given: str) -> None:
    accelerator = engine(RunSection.model_validate({"batch": 8, "precision": precision}), "cpu")
    assert (accelerator.mixed_precision, accelerator.device.type, accelerator.num_processes) == (given, "cpu", 1)
