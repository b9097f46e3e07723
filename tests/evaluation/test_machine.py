"""A machine's speed is measured once and kept; a generation's time follows from it, and is held to the real one."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import nextscale
from nextscale.device import choose_dtype
from nextscale.evaluation import machine as module
from nextscale.evaluation.machine import Machine, machine
from nextscale.pipeline import Pipeline
from nextscale.rehearse import Rehearsal, rehearse

CPU, FLOAT = torch.device("cpu"), torch.float32
FACTOR = 2
"""By how much the foretold time of a bundled model may miss the real one on one core, as docs/generate.md says. It was
0.74 to 1.26 times the real one, on a busy machine, whose other programs slow whole generations most.
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "speed"


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def others(monkeypatch: pytest.MonkeyPatch, busy: bool) -> None:
    """Whether other programs are found to run."""
    monkeypatch.setattr(module, "busy", lambda: "the machine is busy" if busy else None)


def test_time_is_products_then_bytes_then_calls() -> None:
    speed = Machine(flops_per_second=10.0, bytes_per_second=5.0, seconds_per_call=2.0, busy=False)
    assert speed.seconds(100, Rehearsal(0, 0, 0, moved=20, calls=3)) == 10 + 4 + 6


def test_a_speed_is_the_same_at_every_call(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    for busy in (True, False):
        others(monkeypatch, busy)
        first = machine(CPU, FLOAT, again=True)
        assert machine(CPU, FLOAT) == machine(CPU, FLOAT) == first
        assert first.busy is busy
    assert len(list(cache.iterdir())) == 1


def test_what_a_busy_machine_did_is_measured_again_when_it_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    others(monkeypatch, True)
    assert machine(CPU, FLOAT).busy
    others(monkeypatch, False)
    assert not machine(CPU, FLOAT).busy
    others(monkeypatch, True)
    assert not machine(CPU, FLOAT).busy


def test_number_types_and_threads_have_speeds_of_their_own(cache: Path, one_thread: None) -> None:
    machine(CPU, FLOAT)
    machine(CPU, torch.bfloat16)
    torch.set_num_threads(2)
    machine(CPU, FLOAT)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[" * 100_000,
        "[1, 2]",
        "{}",
        '{"flops_per_second": -1, "bytes_per_second": 1, "seconds_per_call": 1, "busy": false}',
        '{"flops_per_second": "fast", "bytes_per_second": 1, "seconds_per_call": 1, "busy": false}',
        '{"flops_per_second": NaN, "bytes_per_second": 1, "seconds_per_call": 1, "busy": false}',
    ],
)
def test_a_damaged_file_is_measured_again(cache: Path, damage: str) -> None:
    machine(CPU, FLOAT)
    (file,) = cache.iterdir()
    file.write_text(damage)
    assert 1e8 < machine(CPU, FLOAT).flops_per_second < 1e14
    assert json.loads(file.read_text())["flops_per_second"] > 1e8


def test_without_a_cache_folder_it_is_measured_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "file"))
    assert machine(CPU, FLOAT).flops_per_second > 1e8
    assert (tmp_path / "file").read_text() == "mine"


def test_measuring_changes_nothing_that_a_run_draws_next() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    machine(CPU, FLOAT, again=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def seconds_of(pipe: Pipeline, images: int) -> float:
    """Processor time of a real generation, the shortest of five."""
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        pipe(class_labels=[0], num_images=images, seed=0)
        best = min(best, time.process_time() - start)
    return best


@pytest.mark.parametrize("name", ["emoji", "emoji-m-var"])
@pytest.mark.parametrize("images", [1, 8])
def test_the_bundled_models_take_about_as_long_as_foretold(name: str, images: int, one_thread: None) -> None:
    pipe = nextscale.load(name, device="cpu", dtype=choose_dtype("auto", CPU)[0])
    real, plan = seconds_of(pipe, images), pipe.plan()
    parts = {
        part: copy.deepcopy(net).to("meta") for part, net in (("tokenizer", pipe.tokenizer), ("model", pipe.model))
    }
    foretold = machine(CPU, pipe.dtype).seconds(pipe.price(plan, images).flops, rehearse(plan, parts, images, CPU))
    assert real / FACTOR < foretold < real * FACTOR
