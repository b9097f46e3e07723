"""VARiant: which blocks run, that what is drawn is what teacher forcing says, what is given back, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nextscale
from nextscale.errors import InputError, PlanError
from nextscale.given import GivenTokens
from nextscale.measures.generator import score_generator
from nextscale.memory.base import MemoryPlan
from nextscale.methods.first_scales import first_scales
from nextscale.methods.variant import evenly_spaced, nested, variant
from nextscale.models.base import NextScaleModel
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import Plan, default_plan
from nextscale.price import price, table
from tests.laws.test_loop import run, same
from tests.laws.test_scalekv import statistics, with_scalekv
from tests.makers import (
    CLASSES,
    CODE_DIM,
    CODES,
    MODELS,
    SIZES,
    features_of,
    randomise,
    start_decays,
    tiny_pipeline,
    tiny_var,
    tokenizer_of,
)
from tests.test_price import counted

pytestmark = pytest.mark.filterwarnings("ignore:scale . runs the blocks")


def deep_m_var() -> MVAR:
    sizes: dict[str, Any] = {"width": 32, "heads": 4, "classes": CLASSES, "codes": CODES, "code_dim": CODE_DIM}
    model = MVAR(MVARConfig(depth=4, sizes=SIZES, state=16, head_dim=16, **sizes))
    randomise(model, 0, 0.5)
    start_decays(model, 0)
    return model.eval().requires_grad_(False)


def deep(depth: int) -> VAR:
    sizes: dict[str, Any] = {"width": 32, "heads": 4, "classes": CLASSES, "codes": CODES, "code_dim": CODE_DIM}
    return VAR(VARConfig(depth=depth, sizes=SIZES, **sizes)).eval()


ALIKE: dict[str, Callable[[], NextScaleModel]] = {"m-var": deep_m_var}
ALIKE |= {name: MODELS[name] for name in ("var", "hmar", "flexvar", "infinity", "infinity-text-mixer")}


@pytest.fixture(params=ALIKE)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return ALIKE[request.param]()


def guided(model: NextScaleModel) -> Plan:
    return default_plan(model, guidance_scale=2.0)


def taught(full_scales: int = 2, subnets: tuple[tuple[int, ...], ...] = ((0, 2),)) -> NextScaleModel:
    """A VAR that says that it was taught to leave blocks out."""
    model = tiny_var()
    model.full_scales, model.subnets = full_scales, subnets
    return model


def test_the_formula_takes_the_blocks_of_the_paper() -> None:
    odd = tuple(range(1, 30, 2))
    table = {16: (0, *odd), 8: (0, 4, 8, 12, 16, 20, 24, 29), 4: (0, 9, 19, 29), 2: (0, 29), 30: tuple(range(30))}
    assert {depth: evenly_spaced(30, depth) for depth in table} == table
    for count in range(1, 40):
        for depth in range(min(2, count), count + 1):
            found = evenly_spaced(count, depth)
            assert len(set(found)) == depth
            assert list(found) == sorted(found)
            assert (found[0], found[-1]) == (0, count - 1)


def test_nested_blocks_are_some_of_those_of_the_larger_depth() -> None:
    asked = nested(30, [4, 16, 2, 8])
    assert asked[3] == (0, 3, 7, 11, 15, 19, 23, 29)
    assert asked[0] == (0, 7, 15, 29)
    largest_first = [set(asked[i]) for i in (1, 3, 0, 2)]
    assert all(small < large for large, small in pairwise(largest_first))
    assert not set(evenly_spaced(30, 8)) < set(evenly_spaced(30, 16))


def test_all_blocks_or_all_scales_are_the_plan_itself(model: NextScaleModel) -> None:
    plan, count = guided(model), len(model.blocks)
    assert variant(plan, model, 1, count) == plan
    assert variant(plan, model, 4, 2) == plan
    less = variant(plan, model, 2, 2)
    assert [row.blocks for row in less.rows] == [None, None, (0, count - 1), (0, count - 1)]
    whole, found = run(plan, model), run(less, model)
    assert same(whole[:2], found[:2])
    assert all(torch.equal(a.branch_logits, b.branch_logits) for a, b in zip(whole[:2], found[:2], strict=True))
    assert not torch.equal(whole[2].branch_logits, found[2].branch_logits)


def test_what_is_drawn_is_what_teacher_forcing_of_mixed_depth_says(model: NextScaleModel) -> None:
    """With two depths after the full scales, and memory of blocks that stopped given back."""
    plan = variant(guided(model), model, 1, [len(model.blocks) - 1, 2], "nested")
    events, tokenizer = run(plan, model), tokenizer_of(model)
    condition = model.condition(features_of(model, 3), plan.branches)
    inputs = [x.repeat(2, 1, 1, 1) for x in tokenizer.follow(events[-1].history).inputs]
    blocks = [row.blocks for row in plan.rows]
    assert [None if one is None else len(one) for one in blocks] == [None, len(model.blocks) - 1, 2, 2]
    forced = model(inputs, condition, blocks=blocks)
    drawn = torch.cat([event.branch_logits for event in events], 1)
    torch.testing.assert_close(drawn, forced, atol=1e-4, rtol=1e-4)
    assert (drawn - model(inputs, condition)).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["var", "m-var", "infinity"])
def test_bytes_and_flops_are_those_that_were_predicted(name: str) -> None:
    model = ALIKE[name]()
    count = len(model.blocks)
    parts = {"tokenizer": tokenizer_of(model), "model": model}
    whole, _ = counted(guided(model), model, 2)
    for depth in (2, [count - 1, 2]):
        plan = variant(guided(model), model, 1, depth, "nested")
        flops, live = counted(plan, model, 2)
        priced = price(plan, parts, 2)
        assert priced.flops == pytest.approx(flops, rel=0.01)
        assert flops < whole
        assert [line.memory for line in priced.lines[1:-1]] == live
        assert f"{plan.rows[-1].blocks and len(plan.rows[-1].blocks)} blocks" in table(plan, priced)
    before = [line.memory for line in price(guided(model), parts, 2).lines[1:-1]]
    assert live[-1] * count == before[-1] * 2


def test_blocks_that_are_left_out_speak_through_the_memory_of_coarse_scales_alone() -> None:
    """With no full scale they say nothing."""

    def logits(full: int, changed: bool) -> Tensor:
        model = tiny_var()
        if changed:
            randomise(model.blocks[1], 7)
        return run(variant(guided(model).with_column(top_k=1), model, full, 2), model)[-1].branch_logits

    assert torch.equal(logits(0, True), logits(0, False))
    assert not torch.equal(logits(2, True), logits(2, False))


def test_it_goes_together_with_what_cuts_the_memory_and_with_given_tokens() -> None:
    model = tiny_var()
    plan = with_scalekv(variant(first_scales(guided(model), 1), model, 3, 2), budget=4)
    given = GivenTokens.whole([event.tokens[:1] for event in run(guided(model), model)])
    parts = {"measured": statistics(model), "given": given}
    priced = price(plan, {"tokenizer": tokenizer_of(model), "model": model} | parts, 1)
    assert [line.memory for line in priced.lines[1:-1]] == counted(plan, model, 1, **parts)[1]
    assert torch.equal(run(plan, model, features_of(model, 1), **parts)[0].tokens, given.tokens[0])


def test_a_model_that_was_taught_knows_what_and_for_others_it_is_said(recwarn: pytest.WarningsRecorder) -> None:
    model, plan = taught(2, ((0, 1), (1,))), guided(tiny_var())
    assert [row.blocks for row in variant(plan, model).rows] == [None, None, (0, 1), (0, 1)]
    assert variant(plan, model, 3, 2).rows[3].blocks == (0, 1)
    assert variant(plan, model, select=[1]).rows[2].blocks == (1,)
    assert not recwarn.list
    for less in (lambda: variant(plan, model, 1, 2), lambda: variant(plan, model, 2, 2, "formula")):
        with pytest.warns(UserWarning, match=r"but the model was taught 2 full scales and then 0 1 or 1; expect worse"):
            less()
    with pytest.warns(UserWarning, match="scale 2 runs the blocks 0 2 of 3, but the model was taught all of them"):
        variant(plan, tiny_var(), 2, 2)
    assert variant(plan, model, 2, 2, "formula").rows[2].blocks == (0, 2)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no scales": ({"full_scales": 5, "depth": 2}, "5 full scales were asked for; expected 0 to 4"),
    "half a scale": ({"full_scales": 1.5, "depth": 2}, "1.5 full scales"),
    "depth of zero": ({"full_scales": 2, "depth": 0}, "the depth is 0; expected a number of blocks from 2"),
    "depth of one": ({"full_scales": 2, "depth": 1}, "the depth is 1; expected a number of blocks from 2"),
    "more than there are": ({"full_scales": 2, "depth": 4}, "the depth is 4; .* to 3, as the model has"),
    "no depth": ({"full_scales": 2}, "the depth is None"),
    "rising": ({"full_scales": 2, "depth": [2, 3]}, "scale 3 runs 3 blocks, 1 among them, which the scale before lea"),
    "too many": ({"full_scales": 3, "depth": [3, 2]}, "2 depths were given for the 1 scales after 3 full ones"),
    "unknown blocks": ({"full_scales": 2, "select": [0, 3]}, r"the blocks are \[0, 3\]; expected numbers from 0 to 2"),
    "disordered": ({"full_scales": 2, "select": [2, 0]}, r"the blocks are \[2, 0\]"),
    "no blocks": ({"full_scales": 2, "select": []}, r"the blocks are \[\]"),
    "both": ({"full_scales": 2, "select": [0, 2], "depth": 2}, "both a depth, 2, and blocks were given"),
    "another rule": ({"full_scales": 2, "depth": 2, "select": "best"}, "select is 'best'; expected \"formula\""),
    "another model": ({"full_scales": 2, "depth": 2, "model": "refiner"}, "the plan has no model 'refiner'; it draws"),
    "untaught": ({}, "the model was not taught to draw with fewer blocks; say how many scales"),
}


@pytest.mark.parametrize("asked", REFUSED)
def test_what_is_impossible_is_refused_before_anything_runs(asked: str) -> None:
    settings, sentence = REFUSED[asked]
    with pytest.raises(PlanError, match=sentence):
        variant(guided(tiny_var()), tiny_var(), **settings)


def test_twice_or_with_branches_mixed_in_a_block_that_does_not_run_is_refused() -> None:
    model = tiny_var()
    plan = guided(model)
    with pytest.raises(PlanError, match="the plan says already which blocks run"):
        variant(variant(plan, model, 3, 2), model, 2, 2)
    with pytest.raises(PlanError, match="guidance_block is 1, which does not run here"):
        variant(plan.with_column(guidance_block=1), model, 2, 2)


def test_depths_of_the_formula_that_are_not_nested_are_refused_and_nested_ones_are_not() -> None:
    model = deep_m_var()
    plan = guided(model)
    assert evenly_spaced(4, 3) == (0, 1, 3)
    assert [row.blocks for row in variant(plan, model, 1, [3, 2]).rows[1:]] == [(0, 1, 3), (0, 3), (0, 3)]
    model.subnets = ((0, 1, 2), (0, 3))
    with pytest.raises(
        PlanError, match=r'scale 2 runs 2 blocks, 3 among them, which the scale before .* select="nested"'
    ):
        variant(plan, model, 1, [3, 2])
    assert variant(plan, model, 1, [3, 2], "nested").rows[2].blocks == (0, 3)


def test_several_depths_of_a_model_that_was_taught_none_are_nested() -> None:
    """As typed on a command line, variant:2/4/3: the formula's blocks of 4 and 3 out of 6 are not."""
    model = deep(6)
    with pytest.raises(PlanError, match="among them, which the scale before leaves out"):
        variant(guided(model), model, 2, [4, 3], "formula")
    blocks = [row.blocks for row in variant(guided(model), model, 2, [4, 3]).rows]
    assert blocks == [None, None, (0, 1, 3, 5), (0, 1, 5)]


def test_only_the_named_model_runs_fewer_blocks() -> None:
    model = tiny_var()
    plan = guided(model)
    rows = tuple(replace(row, model="refiner") if k >= 2 else row for k, row in enumerate(plan.rows))
    mixed = Plan(rows, plan.branches, {"model": MemoryPlan(), "refiner": MemoryPlan()})
    assert [row.blocks for row in variant(mixed, model, 1, 2, model="refiner").rows] == [None, None, (0, 2), (0, 2)]
    assert [row.blocks for row in variant(mixed, model, 1, 2).rows] == [None, (0, 2), None, None]


def test_held_out_loss_is_measured_at_a_depth() -> None:
    model, tokenizer = tiny_var(), tokenizer_of(tiny_var())
    tokens = [event.tokens for event in run(guided(model), model)]
    blocks = [row.blocks for row in variant(guided(model), model, 2, 2).rows]
    full, less, same_ = (
        score_generator(model, tokenizer, tokens, lambda rows: features_of(model, 3).select(rows), blocks=one)
        for one in (None, blocks, [None] * 4)
    )
    assert full == same_
    near = [abs(a.loss - b.loss) < 1e-5 for a, b in zip(full.scales, less.scales, strict=True)]
    assert near == [True, True, False, False]


def test_a_checkpoint_says_what_was_taught_and_is_a_plain_one_to_all_else(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    plain = pipe(class_labels="face", seed=3)
    assert isinstance(pipe.model, VAR)
    pipe.model.config = replace(pipe.model.config, full_scales=2, subnets=((0, 2),))
    pipe.save_pretrained(tmp_path / "taught")
    again = nextscale.load(tmp_path / "taught", device="cpu", dtype="float32")
    assert (again.model.full_scales, again.model.subnets) == (2, ((0, 2),))
    drawn = again(class_labels="face", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(drawn.tokens, plain.tokens, strict=True))
    assert variant(again.plan(), again.model).rows[2].blocks == (0, 2)
    for wrong in ((0, 3), (2, 0), ()):
        with pytest.raises(InputError, match=r"subnets has .* expected numbers of blocks from 0 to 2, ascending"):
            VARConfig(depth=3, width=32, heads=4, sizes=SIZES, subnets=(wrong,))
