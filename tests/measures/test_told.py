"""The loss under a plan is measured by the loop itself: a plain plan has the loss of teacher forcing, and what a plan
leaves out is missed.
"""

from __future__ import annotations

import pytest
import torch

from nextscale.errors import PlanError
from nextscale.measures.generator import score_images
from nextscale.measures.told import score_plan
from nextscale.methods.baselines import window
from nextscale.methods.refine import refined
from nextscale.methods.variant import variant
from nextscale.models.base import NextScaleModel
from nextscale.plan import default_plan
from tests.laws.test_loop import Best, culled
from tests.makers import MODELS, features_of, tiny_hmar, tiny_var, tokenizer_of

IMAGES = 3


def held_out(model: NextScaleModel) -> tuple[dict[str, object], list[torch.Tensor]]:
    """Parts, and random tokens of the model."""
    shape = (model.draws,) if model.draws > 1 else ()
    noise = torch.Generator().manual_seed(3)
    tokens = [torch.randint(model.choices, (IMAGES, h, w, *shape), generator=noise) for h, w in model.schedule]
    return {"tokenizer": tokenizer_of(model), "model": model}, tokens


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_under_a_plain_plan_is_that_of_teacher_forcing(name: str) -> None:
    model = MODELS[name]()
    parts, tokens = held_out(model)
    shown = features_of(model, IMAGES).select
    scores, losses = score_plan(default_plan(model), parts, tokens, shown)
    expected, each = score_images(model, parts["tokenizer"], tokens, shown)  # type: ignore[arg-type]
    assert torch.allclose(losses, each, rtol=1e-5)
    assert scores.total.loss == pytest.approx(expected.total.loss, rel=1e-5)
    assert [one.accuracy for one in scores.scales] == pytest.approx([one.accuracy for one in expected.scales])


def test_fewer_blocks_have_the_loss_of_teacher_forcing_with_fewer_blocks() -> None:
    model = tiny_var()
    parts, tokens = held_out(model)
    with pytest.warns(UserWarning, match="expect worse pictures"):
        plan = variant(default_plan(model), model, 2, 2)
    shown, blocks = features_of(model, IMAGES).select, [row.blocks for row in plan.rows]
    _, losses = score_plan(plan, parts, tokens, shown)
    _, each = score_images(model, parts["tokenizer"], tokens, shown, blocks=blocks)  # type: ignore[arg-type]
    assert torch.allclose(losses, each, rtol=1e-5)


def test_a_memory_that_cuts_is_missed_from_the_scale_on_that_follows() -> None:
    model = tiny_var()
    parts, tokens = held_out(model)
    plain, shown = default_plan(model), features_of(model, IMAGES).select
    full, cut = (score_plan(plan, parts, tokens, shown)[0] for plan in (plain, window(plain, 3)))
    first = next(k for k in range(len(model.schedule)) if model.schedule.offsets[k] > 3)
    same = [one.loss == pytest.approx(other.loss, rel=1e-6) for one, other in zip(full.scales, cut.scales, strict=True)]
    assert same[:first] == [True] * first
    assert not any(same[first:])


def test_plans_whose_tokens_cannot_be_told_are_refused() -> None:
    model, masked = tiny_var(), tiny_hmar(1)
    smooth, several = default_plan(model, smooth=True), culled(default_plan(model), 2, {1: 1})
    for plan, network, sentence in (
        (smooth, model, "row 0 samples smoothly"),
        (several, model, "the plan chooses among candidates"),
        (refined(default_plan(masked), "1,3"), masked, "row 1 has 2 passes; expected one"),
    ):
        parts, tokens = held_out(network)
        with pytest.raises(PlanError, match=sentence):
            score_plan(plan, parts | {"best": Best()}, tokens, features_of(network, IMAGES).select)
