"""Two real processes train as one does: the same losses, and either goes on where the other stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nextscale.errors import TrainingError
from nextscale.training import parallel
from tests.training.two_processes import LOSSES, train

ROOT = Path(__file__).parents[2]
TOLERANCE = {"tokenizer": 1e-4, "tokenizer-bitwise": 1e-4, "var": 1e-5, "infinity": 1e-5}


@pytest.fixture(scope="module")
def two(images: Path, tokenizer: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes."""
    folder = tmp_path_factory.mktemp("two")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    words = ["-m", "tests.training.two_processes", images, folder, tokenizer, world]
    searched = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": searched}
    with subprocess.Popen(
        [*launch, *map(str, words)], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as launcher:
        try:
            _, said = launcher.communicate(timeout=300)
        except subprocess.TimeoutExpired:
            launcher.terminate()  # it ends those it has started
            raise
    assert launcher.returncode == 0, said
    return folder


@pytest.fixture(scope="module")
def one(images: Path, tokenizer: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs, by one process."""
    folder = tmp_path_factory.mktemp("one")
    torch.set_num_threads(1)
    for kind in TOLERANCE:
        train(kind, images, folder / kind, tokenizer, world)
    return folder


def numbers(run: Path, kind: str, name: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if line["kind"] == kind and name in line]


@pytest.mark.parametrize("kind", TOLERANCE)
def test_two_processes_have_the_losses_of_one(kind: str, one: Path, two: Path) -> None:
    losses = [numbers(folder / kind, "train", "loss") for folder in (one, two)]
    assert len(losses[0]) == LOSSES
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE[kind])
    assert len(set(losses[0])) == LOSSES
    name = "psnr" if kind.startswith("tokenizer") else "loss"
    held_out = [numbers(folder / kind, "validation", name) for folder in (one, two)]
    assert held_out[1] == pytest.approx(held_out[0], rel=TOLERANCE[kind])


def test_codes_were_moved(two: Path) -> None:
    assert max(numbers(two / "tokenizer", "train", "restarted")) > 0


def test_only_the_main_process_writes(two: Path) -> None:
    steps = numbers(two / "var", "train", "step")
    assert steps == list(range(1, LOSSES + 1))
    assert len(list((two / "var" / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("kind", TOLERANCE)
def test_one_process_goes_on_where_two_stopped(
    kind: str, images: Path, tokenizer: Path, world: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    shutil.copytree(two / kind, tmp_path / kind)
    shutil.rmtree(tmp_path / kind / "checkpoints" / f"step-{LOSSES:06d}")
    train(kind, images, tmp_path / kind, tokenizer, world)
    losses = [numbers(folder / kind, "train", "loss") for folder in (one, tmp_path)]
    assert losses[1][:12] == numbers(two / kind, "train", "loss")[:12]
    assert losses[1] == pytest.approx(losses[0], rel=TOLERANCE[kind])


def test_one_process_is_left_alone() -> None:
    here = torch.tensor([1.0, 2.0])
    assert (parallel.processes(), parallel.rank()) == (1, 0)
    assert parallel.gather(here) is parallel.sum_over(here) is here
    assert torch.equal(parallel.mean_over(here), here)
    assert parallel.my_parts(6, 3) == [slice(0, 2), slice(2, 4), slice(4, 6)]


@pytest.mark.parametrize(("batch", "accumulate"), [(7, 2), (2, 3)])
def test_an_uneven_split_is_refused(batch: int, accumulate: int) -> None:
    with pytest.raises(TrainingError, match=rf"{batch} images cannot .* expected a multiple of {accumulate}"):
        parallel.my_parts(batch, accumulate)
