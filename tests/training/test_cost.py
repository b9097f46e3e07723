"""A price says what happens: FLOPs, bytes and steps, told before the first step and held against what came."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nextscale.evaluation.speed import forward_flops
from nextscale.models.class_transformer import ClassTransformer
from nextscale.training.cost import Price, Spent, duration, read_costs, write_costs
from nextscale.training.objectives.tokenizer import TokenizerObjective
from nextscale.training.progress import Progress
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from tests.training.tiny import TINY

VAR = [*TINY["var"], "schedule.epochs=null", "schedule.steps=6", "run.save_every=2", "model.width=64"]


def trainer(images: Path, tokenizer: Path, output: Path, *more: str, seen: list[Progress] | None = None) -> Trainer:
    show = (lambda _: None) if seen is None else seen.append
    return start("var", "var-emoji", images, output, str(tokenizer), [*VAR, *more], "cpu", show)


def price(made: Trainer) -> Price:
    made.account.open(made._trial_loss, made.model, made.parts, made.total)
    assert made.account.price is not None
    return made.account.price


def test_what_a_run_will_cost(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    made = trainer(images, tokenizer, tmp_path / "run")
    module = made.objective.module
    assert isinstance(module, ClassTransformer)
    before = {key: t.clone() for key, t in module.state_dict().items()}
    told = price(made)
    numbers = sum(p.numel() for p in module.parameters())
    assert told.parameters == numbers
    assert (told.weights, told.average, told.gradients, told.optimizer) == (4 * numbers,) * 3 + (8 * numbers,)
    assert told.memory > 3 * 4 * numbers + told.activations
    assert (told.steps, told.images, told.seconds) == (6, 4, 6 * told.step_seconds)
    assert told.flops == pytest.approx(3 * forward_flops(module), rel=0.15)  # inputs need no gradient
    assert all(torch.equal(before[key], t) for key, t in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_activations_grow_with_the_part_and_shrink_with_checkpointing(
    images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    plain = price(trainer(images, tokenizer, tmp_path / "plain", "model.depth=6"))
    split = price(trainer(images, tokenizer, tmp_path / "split", "model.depth=6", "run.accumulate=2"))
    saved = price(trainer(images, tokenizer, tmp_path / "saved", "model.depth=6", "run.checkpointing=true"))
    assert split.activations == pytest.approx(plain.activations / 2, rel=0.1)
    assert saved.activations < plain.activations / 3
    assert saved.flops == pytest.approx(plain.flops * 4 / 3, rel=0.1)


def test_activations_are_the_bytes_that_wait_for_the_gradient(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    """Held against PyTorch's own allocator, by the profiler's account of what a forward pass leaves allocated."""
    made = trainer(images, tokenizer, tmp_path / "run")
    told = price(made)
    with torch.profiler.profile(profile_memory=True) as profile:
        loss = made._trial_loss(made.model, 0, made.parts[0])
    left = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    del loss
    assert told.activations == pytest.approx(left, rel=0.1)


def test_what_begins_later_is_priced_for_its_share(images: Path, eyes: Path, tmp_path: Path) -> None:
    """FLOPs are the mean over all steps, memory is that of the dearest; the trial leaves no trace."""

    def tokenizer_price(name: str, *more: str) -> Price:
        looks = ["loss.perceptual.weight=0.1", f"loss.perceptual.network={eyes}", "loss.perceptual.start=0"]
        overrides = [*TINY["tokenizer"], *looks, *more]
        made = start("tokenizer", "tokenizer-emoji", images, tmp_path / name, None, overrides, "cpu")
        told = price(made)
        assert isinstance(made.objective, TokenizerObjective)
        assert made.objective.steps == 0
        adversary = made.objective.adversary
        assert adversary is None or all(p.grad is None for p in adversary.module.parameters())
        return told

    without = tokenizer_price("without")
    whole = tokenizer_price("whole", "loss.adversarial.weight=1", "loss.adversarial.start=0")
    late = tokenizer_price("late", "loss.adversarial.weight=1", "loss.adversarial.start=0.7")  # step 6 of 8
    assert whole.flops > 1.1 * without.flops
    assert late.flops == pytest.approx(0.75 * without.flops + 0.25 * whole.flops, rel=1e-6)
    assert late.activations == pytest.approx(whole.activations, rel=1e-3)
    assert whole.activations > 1.05 * without.activations


def test_a_run_tells_its_price_first_and_what_it_did_cost_at_the_end(
    images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    trainer(images, tokenizer, tmp_path / "run", seen=seen).run(4)
    first = [at.kind for at in seen if at.kind in ("price", "step")]
    assert first == ["price", "step", "step", "step", "step", "price"]
    trainer(images, tokenizer, tmp_path / "run", seen=seen).run()
    texts = [at.text for at in seen if at.kind == "price"]
    assert "million parameters" in texts[0]
    assert texts[2] == texts[0]  # a resumed run keeps its price
    assert texts[3].startswith("6 steps took")
    found = read_costs(tmp_path / "run" / "price.json")
    assert found is not None
    told, spent = found
    assert spent.steps == 6
    assert 0 < spent.seconds <= spent.all_seconds
    assert spent.memory > told.activations
    at = seen[-4]
    assert at.tokens_per_second == pytest.approx(21 * at.images_per_second)
    assert 0 < at.peak_share < 1
    assert at.waiting >= 0


def test_costs_survive_being_written(tmp_path: Path) -> None:
    told, spent = Price(1, 2, 3, 4, 5, 6, 7, 8.0, 0.5, 9, 10), Spent(3, 2.0, 3.0, 5)
    file = tmp_path / "price.json"
    file.write_text(write_costs(told, spent))
    assert read_costs(file) == (told, spent)
    assert "1.33 times the predicted 1.5 s" in spent.against(told)
    other = json.loads(file.read_text())
    del other["predicted"]["flops"]
    file.write_text(json.dumps(other))
    assert read_costs(file) is None
    assert read_costs(tmp_path / "nothing") is None


def test_durations_are_short() -> None:
    assert [duration(s) for s in (0.123456, 59, 61, 3600, 86_400 * 2)] == [
        "0.123 s",
        "59 s",
        "1m01s",
        "1h00m",
        "48h00m",
    ]
