"""A supernet in training: how often blocks are left out, who is told, what is learnt and what is measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import nextscale
from nextscale.checkpoints.store import load_component
from nextscale.errors import InputError, NextscaleError
from nextscale.methods.variant import variant
from nextscale.models.base import NextScaleModel
from nextscale.tokenizers.base import Encoded, Tokenizer
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.objectives.supernet import ShareOfSubnets, SupernetLesson
from nextscale.training.objectives.teacher_forcing import teacher_forcing
from nextscale.training.order import SampleNoise
from nextscale.training.recipe import load_recipe
from nextscale.training.start import start
from nextscale.training.supernet_recipe import SupernetRecipe
from tests.laws.test_loop import run
from tests.makers import features_of, tiny_var, tokenizer_of
from tests.methods.test_variant import deep_m_var, guided
from tests.training.tiny import TINY_VAR

SUBNETS = ((0, 2), (1,))


def lesson_of(model: NextScaleModel, full: int = 2, **share: float) -> SupernetLesson:
    subnets = tuple(one for one in SUBNETS if max(one) < len(model.blocks))
    return SupernetLesson(teacher_forcing, len(model.blocks), full, subnets, ShareOfSubnets(**share))


def encoded(model: NextScaleModel) -> Encoded:
    return tokenizer_of(model).follow([event.tokens for event in run(guided(model), model)])


def test_the_share_of_subnets_grows_as_published() -> None:
    share = ShareOfSubnets()
    assert [share(epoch / 30) for epoch in (0, 4.9, 5, 12.5, 20, 29.9)] == pytest.approx([0.2, 0.2, 0.2, 0.6, 1, 1])
    assert ShareOfSubnets(0.5, 0.0, 0.0)(0.0) == 1


@pytest.mark.parametrize("done", [0.0, 0.4, 1.0])
def test_subnets_are_drawn_as_often_as_said_and_all_alike(done: float) -> None:
    lesson, count = lesson_of(tiny_var()), 1500
    drawn = [lesson.drawn(SampleNoise(3, step, 1, slice(None), done)) for step in range(count)]
    share = ShareOfSubnets()(done)
    found = 1 - drawn.count(None) / count
    assert abs(found - share) <= 4 * math.sqrt(share * (1 - share) / count)
    for subnet in SUBNETS:
        assert abs(drawn.count(subnet) / count - share / 2) <= 4 * math.sqrt(share / 2 * (1 - share / 2) / count)


def test_every_part_of_a_step_draws_the_same_and_a_repeated_step_again() -> None:
    lesson = lesson_of(tiny_var())
    parts = (slice(0, 2), slice(2, 4), slice(None))
    by_part = [[lesson.drawn(SampleNoise(3, step, 4, part, 0.4)) for step in range(40)] for part in parts]
    assert by_part[0] == by_part[1] == by_part[2]
    assert len(set(by_part[0])) == 3


@pytest.mark.parametrize("make", [tiny_var, deep_m_var])
def test_every_block_learns_though_subnets_alone_are_trained(make: Any) -> None:
    """Through what they leave in the memory of coarse scales; without these the blocks left out learn nothing."""
    for full in (2, 0):
        model = make().requires_grad_(True)
        lesson = SupernetLesson(
            teacher_forcing, len(model.blocks), full, ((0, len(model.blocks) - 1),), ShareOfSubnets(1.0)
        )
        noise = SampleNoise(0, 0, 3, slice(None))
        loss, parts = lesson(Pupil(model, noise), encoded(model), features_of(model, 3), noise)
        loss.backward()
        still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        middle = {name for name, _ in model.named_parameters() if name.startswith("blocks.1.")}
        assert bool(middle & set(still)) == (full == 0)
        assert full == 0 or still == []
        assert float(parts["depth"]) == 2


def test_the_loss_at_a_depth_is_that_of_what_is_drawn_there_and_all_depths_are_measured() -> None:
    model = tiny_var()
    lesson, images, features = lesson_of(model, first=1.0, joint=0.0, alone=0.0), encoded(model), features_of(model, 3)
    held_out = lesson.measure(model, [(images, features)])
    losses = {3: None, 2: (0, 2), 1: (1,)}
    for depth, subnet in losses.items():
        blocks = None if subnet is None else lesson.blocks(subnet, images.canvas.schedule)
        noise = SampleNoise(0, 0, 3, slice(None))
        loss, _ = teacher_forcing(Pupil(model, noise), images, features, noise, blocks=blocks)
        assert held_out[f"loss_depth_{depth}"] == pytest.approx(float(loss), rel=1e-5)
    assert held_out["loss"] == pytest.approx(sum(held_out[f"loss_depth_{depth}"] for depth in losses) / 3)
    assert len({round(held_out[f"loss_depth_{depth}"], 4) for depth in losses}) == 3


STEPS = ["schedule.epochs=null", "schedule.steps=8", "optim.lr=0.003", "model.depth=3", "optim.ema=0.5"]
TINY = [*TINY_VAR, *STEPS]


def tuned(images: Path, run: Path, origin: Path, *more: str, max_steps: int | None = None) -> GeneratorObjective:
    recipe = [*TINY, "supernet.scales=2", "supernet.depths=[2]", *more]
    trainer = start("var", "emoji-variant", images, run, None, recipe, "cpu", init=str(origin))
    trainer.run(max_steps)
    assert isinstance(trainer.objective, GeneratorObjective)
    return trainer.objective


def test_a_model_is_tuned_as_a_supernet_and_goes_on_where_it_stopped(
    images: Path, tokenizer: Path, tmp_path: Path
) -> None:
    origin = tmp_path / "origin"
    start("var", "emoji", images, origin, str(tokenizer), TINY, "cpu").run(1)
    whole = tuned(images, tmp_path / "whole", origin)
    tuned(images, tmp_path / "parts", origin, "run.accumulate=2", max_steps=3)
    tuned(images, tmp_path / "parts", origin, "run.accumulate=2")
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    depths = [[line["depth"] for line in map(json.loads, log) if line["kind"] == "train"] for log in logs]
    assert depths[0] == depths[1]
    assert set(depths[0][:6]) == {2.0, 3.0}
    assert set(depths[0][6:]) == {2.0}
    assert {depths[0][step]: share for step, share in whole.trials} == {n: depths[0].count(n) / 8 for n in (2, 3)}
    pipe = nextscale.load(tmp_path / "parts" / "export", device="cpu", dtype="float32")
    assert (pipe.model.full_scales, pipe.model.subnets) == (2, ((0, 2),))
    less = pipe(class_labels="warm", plan=variant(pipe.plan(), pipe.model), seed=1)
    assert less.images[0].size == (16, 16)
    plain = start("var", "emoji", images, tmp_path / "plain", None, TINY, "cpu", init=str(tmp_path / "parts"))
    assert isinstance(plain.objective.module, NextScaleModel)
    assert plain.objective.module.subnets == ()


REFUSED = {
    "supernet.scales=3": "supernet.scales is 3; expected fewer than 3",
    "supernet.scales=0": "supernet.scales: input should be greater than or equal to 1",
    "supernet.depths=[2, 0]": "the depth is 0; expected a number of blocks from 2, the first and the last, to 3",
    "supernet.depths=[3]": r"supernet.depths is \[3\]; expected different ones below 3",
    "supernet.depths=[2, 2]": r"supernet.depths is \[2, 2\]; expected different ones",
    "supernet.depths=[]": "supernet.depths: tuple should have at least 1 item",
    "supernet.alone=0.1": "joint is 0.1667 and alone 0.1; alone must be the later one",
    "supernet.shape=2": "the recipe has no key 'supernet.shape'",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_is_impossible_is_refused_before_training(override: str, tokenizer: Path) -> None:
    overrides = [*TINY, "supernet.scales=2", "supernet.depths=[2]", override]
    frozen = load_component(tokenizer / "export", "tokenizer")

    def begin() -> None:
        recipe = load_recipe("var-emoji-variant", overrides)
        assert isinstance(recipe, SupernetRecipe)
        assert isinstance(frozen, Tokenizer)
        recipe.new_model(frozen, 5)

    with pytest.raises(NextscaleError, match=REFUSED[override]):
        begin()


def test_a_supernet_is_not_trained_from_nothing(images: Path, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this recipe goes on from a checkpoint; name the model that is to draw"):
        start("var", "emoji-variant", images, tmp_path / "run", str(tokenizer), TINY_VAR, "cpu")
