"""The second stage: it goes on from a first one, trains the masked branch alone, and is measured by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextscale.checkpoints.store import load_component
from nextscale.errors import CheckpointError, InputError
from nextscale.models.hmar import HMAR
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from tests.training.tiny import TINY_VAR

STEPS = [*TINY_VAR, "schedule.epochs=null", "schedule.steps=4", "run.sample_every=9", "run.validate_every=2"]
SECOND = [*STEPS, "model.mask_blocks=1", "sampling.refine=1,3"]


@pytest.fixture(scope="module")
def first(images: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("hmar") / "first"
    start("hmar", "hmar-emoji", images, run, str(tokenizer), STEPS, "cpu").run()
    return run


def second(images: Path, tokenizer: Path, run: Path, init: Path | None, *more: str) -> Trainer:
    where = None if init is None else str(init)
    return start("hmar", "hmar-emoji-masked", images, run, str(tokenizer), [*SECOND, *more], "cpu", init=where)


def test_only_the_masked_branch_learns_from_where_the_first_stage_stood(
    images: Path, tokenizer: Path, first: Path, tmp_path: Path
) -> None:
    trainer = second(images, tokenizer, tmp_path / "run", first, "optim.ema=0")
    begun, model = load_component(first / "export", "model").state_dict(), trainer.objective.module
    assert isinstance(model, HMAR)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    assert all(torch.equal(before[name], t) for name, t in begun.items())
    assert torch.equal(before["mask_blocks.0.attention.proj.weight"], begun["blocks.1.attention.proj.weight"])
    assert torch.equal(before["mask_head_lin.bias"], begun["head_lin.bias"])
    measured = trainer.run()
    after = load_component(tmp_path / "run" / "export", "model").state_dict()
    changed = {name for name, t in after.items() if not torch.equal(t, before[name])}
    assert changed
    assert all(name.startswith("mask_") for name in changed)
    assert {"mask_embedding", "mask_head_lin.weight", "mask_blocks.0.attention.qkv.weight"} <= changed
    assert {"loss", "accuracy", "loss_1", "loss_2"} <= measured.keys()
    assert "loss_0" not in measured  # the first scale is drawn once


def test_a_second_stage_needs_a_first(images: Path, tokenizer: Path, first: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"goes on from a checkpoint; name the first stage, .* with --init"):
        second(images, tokenizer, tmp_path / "run", None)
    second(images, tokenizer, tmp_path / "two", first).run(max_steps=1)
    with pytest.raises(CheckpointError, match="has 1 blocks of its own; expected 2, or none"):
        second(images, tokenizer, tmp_path / "run", tmp_path / "two", "model.mask_blocks=2")
