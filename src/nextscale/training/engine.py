"""The engine, Hugging Face Accelerate: what the launcher and the recipe ask for, held against what came.

One command serves one process, several on CPUs and several GPUs. The engine starts the processes' channel, chooses each
one's device and casts matrix products; gradients are averaged by ``parallel.py``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from nextscale.device import choose_device
from nextscale.errors import TrainingError
from nextscale.training.sections import RunSection

STARTED = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
"""Where launchers write how many processes they have started; torchrun and accelerate use the first."""
SHARDED = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM")


def engine(run: RunSection, device: str) -> Accelerator:
    """Accelerate in the recipe's precision.

    Raises:
        TrainingError: the launcher asked for something that training does not do, or the engine gives something else
            than was asked for.
    """
    processes = processes_asked_for(os.environ)
    refuse_what_is_set_elsewhere(os.environ, run)
    wanted, _ = choose_device(device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if wanted.type == "cuda" and local > torch.cuda.device_count():
        raise TrainingError(
            f"{local} processes were started on a machine with {torch.cuda.device_count()} GPUs; start one per GPU"
        )
    precision = "no" if run.precision == "fp32" else run.precision
    AcceleratorState._reset_state()  # it remembers the precision of the process's last run, and refuses another
    accelerator = Accelerator(mixed_precision=precision, cpu=wanted.type == "cpu")
    asked = {"processes": processes, "device": wanted.type, "precision": precision}
    given = {
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "precision": accelerator.mixed_precision,
    }
    for name, value in asked.items():
        if given[name] != value:
            raise TrainingError(f"training was asked for with {name} {value}, but the engine gave {given[name]}")
    return accelerator


def processes_asked_for(environment: Mapping[str, str]) -> int:
    """How many processes the launcher says it has started.

    Raises:
        TrainingError: ``accelerate launch --cpu`` was to start several, and started one, as it does.
    """
    said = next((environment[name] for name in STARTED if environment.get(name)), None)
    # With --num_processes above 1 it sets an address for the processes to meet at, but starts only one of them.
    if said is None and "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        raise TrainingError(
            "accelerate launch was asked for several processes, but started one; start them with "
            "python -m torch.distributed.run --nproc-per-node 2 -m nextscale train ..."
        )
    return int(said or 1)


def refuse_what_is_set_elsewhere(environment: Mapping[str, str], run: RunSection) -> None:
    """Raises ``TrainingError`` where ``accelerate launch`` was told something that the recipe says otherwise."""
    for name in SHARDED:
        if environment.get(name, "false").lower() == "true":
            raise TrainingError(f"{name} asks for sharded weights, which training does not do; start without it")
    precision = "no" if run.precision == "fp32" else run.precision
    said = {  # what stands there if nothing was asked for, what agrees with the recipe, and the recipe's key
        "ACCELERATE_MIXED_PRECISION": ("no", precision, "precision"),
        "ACCELERATE_DYNAMO_BACKEND": ("NO", "INDUCTOR" if run.compile else "NO", "compile"),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", str(run.accumulate), "accumulate"),
    }
    for name, (silent, agreed, key) in said.items():
        if environment.get(name, silent) not in (silent, agreed):
            raise TrainingError(
                f"the launcher says {name}={environment[name]}, but the recipe run.{key}={getattr(run, key)}; "
                "the recipe decides, so start without it"
            )
