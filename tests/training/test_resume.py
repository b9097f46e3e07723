"""Nothing is lost: a run that is interrupted, killed or out of disk space ends as one that was not.

Bit for bit in float32 on one thread: weights, average, optimiser, discriminator, code use, best validation, export,
pictures and log.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nextscale.errors import TrainingError
from nextscale.training.progress import Progress
from nextscale.training.start import start
from nextscale.training.trainer import Interrupted, Trainer
from tests.training.tiny import SCHEDULES, TINY_BITWISE, TINY_INFINITY, TINY_TOKENIZER, TINY_VAR, of_world

STEPS = 14
RUN = [f"schedule.steps={STEPS}", "run.save_every=3", "run.validate_every=4", "run.sample_every=6", "optim.ema=0.9"]
TOKENIZER = [*TINY_TOKENIZER, *RUN, "codebook.restart_every=2", "codebook.restart_below=0.9", "data.shift=3"]
TOKENIZER += ["data.recolour=0.5", "loss.adversarial={weight: 0.5, start: 0.2, width: 8, layers: 1}"]
BITWISE = [*TINY_BITWISE, *RUN, "data.shift=3", "data.recolour=0.5", "bits.scale_dropout=0.5", "run.accumulate=2"]
BITWISE += ["loss.adversarial={weight: 0.3, start: 0.2, width: 8, layers: 1, lr_ratio: 2}"]
VAR = [*TINY_VAR, "schedule.epochs=null", *RUN, "model.drop_path=0.3", "run.export=best", "run.accumulate=2"]
INFINITY = [*TINY_INFINITY, *RUN, "model.drop_path=0.3", "run.accumulate=2", "data.copies=2", "data.flip=0.5"]
INFINITY += ["data.resolution=null", f"data.schedules={SCHEDULES}", "data.lengths=[2, 3]", "loss.label_drop=0.3"]
RECIPES = {
    "tokenizer": ("tokenizer-emoji", TOKENIZER),
    "tokenizer-bitwise": ("tokenizer-bitwise-emoji", BITWISE),
    "var": ("var-emoji", VAR),
    "infinity": ("infinity-125m", INFINITY),
}
CLOCKED = {"images_per_second", "waiting", "peak_share"}

Make = Callable[..., Trainer]
Show = Callable[[Progress], None]


@pytest.fixture(scope="module", params=["tokenizer", "tokenizer-bitwise", "var", "infinity"])
def trainer(request: pytest.FixtureRequest, images: Path, tokenizer: Path, world: Path) -> Make:
    """Makes a trainer for a run folder; a tokenizer with everything on, or a generator."""
    kind = request.param
    recipe, overrides = RECIPES[kind]
    frozen = str(tokenizer) if kind == "var" else None
    if kind == "infinity":
        images, frozen, overrides = world / "pictures", str(world / "tokenizer"), [*overrides, *of_world(world)]

    def make(output: Path, show: Show = lambda _: None) -> Trainer:
        return start(kind, recipe, images, output, frozen, overrides, "cpu", show)

    return make


@pytest.fixture(scope="module")
def whole(trainer: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of an uninterrupted run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    trainer(folder).run()
    return folder


def content(run: Path) -> dict[str, Any]:
    """Everything a run leaves behind that must not depend on interruptions."""
    found: dict[str, Any] = {}
    for file in sorted([*run.glob("checkpoints/*/*"), *run.glob("export/*.safetensors")]):
        for key, tensor in load_file(file).items():
            found[f"{file.relative_to(run)}: {key}"] = tensor.numpy().tobytes()
    for file in sorted(run.glob("samples/*")):
        found[str(file.relative_to(run))] = file.read_bytes()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    found["log"] = [{k: v for k, v in line.items() if k not in CLOCKED} for line in lines]
    found["rows of the table"] = len((run / "log.csv").read_text().splitlines())
    found["left over"] = [str(path) for path in run.rglob("*") if "tmp" in path.name or path.name.startswith(".")]
    return found


def assert_same(one: Path, other: Path) -> None:
    a, b = content(one), content(other)
    assert a.keys() == b.keys()
    assert [key for key, value in a.items() if value != b[key]] == []
    assert b["left over"] == []


def in_another_process(work: Callable[[], object]) -> int:
    """Do ``work`` in a copy of this process; returns its status: 0, 1 for an error, or minus the signal it died of."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    for _ in range(6000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the other process hangs")


def die_in(folder: Path, event: str, name: str, count: int) -> None:
    """Let SIGKILL come at the ``count``-th file operation ``event`` on something called ``name`` in a folder.

    ``event`` is one of Python's audit events; an empty ``event`` or ``name`` is any.
    """
    left = count

    def watch(happening: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if happening in ("open", "os.mkdir", "os.rename", "os.remove", "shutil.rmtree") and event in happening:
            path = str(arguments[0])
            if path.startswith(str(folder)) and name in path:
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def test_killed_at_random_moments(trainer: Make, whole: Path, tmp_path: Path) -> None:
    """Log lines, checkpoints, exports, tables and pictures: every file operation may be the last."""
    rng, run = random.Random(5), tmp_path / "killed"
    fates = [("os.rename", "checkpoints/tmp", 1), ("open", "checkpoints/tmp", 3), ("os.rename", "export", 1)]
    fates += [("", "", rng.randrange(1, 60)) for _ in range(3)]
    killed = 0
    for fate in fates:

        def go_on(fate: tuple[str, str, int] = fate) -> None:
            die_in(run, *fate)
            trainer(run).run()

        status = in_another_process(go_on)
        assert status in (-signal.SIGKILL, 0)
        killed += status == -signal.SIGKILL
    assert killed >= 4  # the run may be at its end before the others
    trainer(run).run()
    assert_same(whole, run)


@pytest.mark.parametrize("trainer", ["tokenizer", "tokenizer-bitwise"], indirect=True)
def test_a_polite_interruption_changes_nothing(trainer: Make, whole: Path, tmp_path: Path) -> None:
    def interrupt_at(step: int) -> Show:
        def show(at: Progress) -> None:
            if at.kind == "step" and at.step == step:
                signal.raise_signal(signal.SIGINT)

        return show

    for step in (5, 11):
        with pytest.raises(Interrupted, match=f"after step {step}") as stop:
            trainer(tmp_path / "parts", interrupt_at(step)).run()
        assert stop.value.checkpoint.is_dir()
    trainer(tmp_path / "parts").run(12)
    last = trainer(tmp_path / "parts")
    last.run()
    assert last.step == STEPS
    # Checkpoints of other steps were written, and older ones were removed for them.
    a, b = ({k: v for k, v in content(run).items() if "step-000012" not in k} for run in (whole, tmp_path / "parts"))
    assert a == b


@pytest.mark.parametrize("trainer", ["var"], indirect=True)
def test_a_full_disk_is_named_and_loses_nothing(trainer: Make, whole: Path, tmp_path: Path) -> None:
    run, said = tmp_path / "full", tmp_path / "said"
    trainer(run).run(6)
    largest = max(path.stat().st_size for path in (run / "checkpoints").rglob("*.safetensors"))

    def go_on() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 100, resource.RLIM_INFINITY))
        try:
            trainer(run).run()
        except TrainingError as error:
            said.write_text(str(error))

    assert in_another_process(go_on) == 0
    assert f"the last good checkpoint is {run / 'checkpoints' / 'step-000006'}" in said.read_text()
    trainer(run).run()
    assert_same(whole, run)


@pytest.mark.parametrize("name", ["average.safetensors", "log.jsonl", "step-000012.png"])
def test_the_comparison_sees_one_byte(name: str, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "other")
    file = sorted((tmp_path / "other").rglob(name))[-1]
    content = bytearray(file.read_bytes())
    changed = (
        content.rindex(b'"step": ') + 8 if name == "log.jsonl" else -3
    )  # the last digit of a float may say nothing
    content[changed] ^= 1
    file.write_bytes(content)
    with pytest.raises((AssertionError, ValueError)):
        assert_same(whole, tmp_path / "other")


@pytest.mark.parametrize("trainer", ["var"], indirect=True)
def test_two_runs_cannot_write_to_one_folder(trainer: Make, tmp_path: Path) -> None:
    def second(at: Progress) -> None:
        if at.kind == "step":
            with pytest.raises(TrainingError, match="another run is writing to"):
                trainer(tmp_path / "run").run()
            assert (tmp_path / "run" / "recipe.yaml").read_bytes() == claimed

    first = trainer(tmp_path / "run", second)
    claimed = (tmp_path / "run" / "recipe.yaml").read_bytes()
    first.run(1)
    trainer(tmp_path / "run").run(2)
