"""Laws of HACK's memory, over models with attention to earlier scales: what heads hold, what it costs and refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.errors import PlanError
from nextscale.layers.attention import attend
from nextscale.layers.slots import SlotSpec
from nextscale.memory import full
from nextscale.memory.base import Course, MemoryPlan
from nextscale.memory.baselines import attention_given
from nextscale.memory.full import FullMemory
from nextscale.memory.hack import HackMemory
from nextscale.memory.hack_calibration import HeadStatistics
from nextscale.memory.hack_outlook import HackOutlook
from nextscale.memory.make import look_ahead, make_memory
from nextscale.models.base import NextScaleModel
from nextscale.models.weights_hash import weights_hash
from nextscale.plan import Plan, default_plan
from nextscale.price import price
from nextscale.rehearse import rehearse
from nextscale.sampling import IndependentNoise
from tests.laws.test_loop import Best, culled, handed, run, same, second
from tests.laws.test_memory import (
    passes_overwrite_and_time_goes_back,
    run_scale,
    selected_rows_take_what_they_kept_along,
)
from tests.laws.test_policies import PAST
from tests.laws.test_scalekv import statistics as scalekv_statistics
from tests.makers import MODELS, features_of, some_inputs, tiny_tokenizer, tiny_var, tokenizer_of
from tests.memory.test_scalekv_rules import MEGAPIXEL
from tests.test_price import counted

CPU = torch.device("cpu")
SETTINGS: dict[str, Any] = {"budget": 9, "alpha": 0.5, "contextual_share": 1 / 3, "queries": 4, "protected": 2}
SETTINGS |= {"merge": True}
UNLIKE = ("var", "infinity", "prefix")


def heads(model: NextScaleModel, variance: Tensor | None = None) -> HeadStatistics:
    """Numbers that nobody measured: some layers have contextual heads in the middle, some none, some nothing else."""
    depth, count = len(model.blocks), model.slots[0].heads
    numbers = torch.linspace(0.9, 0.1, depth).repeat(count, 1).T.clone() if variance is None else variance
    if variance is None:
        numbers[:, 1] = 0.01
    told = tuple(tuple(row) for row in numbers.tolist())
    sizes = model.schedule.sizes
    return HeadStatistics(model="tiny", weights=weights_hash(model) or "", sizes=sizes, pictures=1, variance=told)


def with_hack(plan: Plan, **changed: Any) -> Plan:
    memory = MemoryPlan("hack", SETTINGS | changed, "measured")
    return replace(plan, memories={name: replace(memory, takeover=m.takeover) for name, m in plan.memories.items()})


def memory_of(model: NextScaleModel, rows: int = 2, **changed: Any) -> HackMemory:
    plan = with_hack(default_plan(model), **changed)
    outlook = look_ahead(plan.memories["model"], plan.course(0, model), {"measured": heads(model)})
    memory = make_memory(plan.memories["model"], outlook, rows, torch.float32, CPU)
    assert isinstance(memory, HackMemory)
    return memory


def full_memory_of(model: NextScaleModel) -> FullMemory:
    planned = MemoryPlan("full", {"keep_last": True})
    outlook = look_ahead(planned, default_plan(model).course(0, model))
    memory = make_memory(planned, outlook, 2, torch.float32, CPU)
    assert isinstance(memory, FullMemory)
    return memory


@pytest.fixture(params=UNLIKE)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return PAST[request.param]()


def test_a_budget_of_everything_is_the_full_memory_and_split_heads_do_not_show(model: NextScaleModel) -> None:
    plan, measured = default_plan(model, guidance_scale=2.0), heads(model)
    whole = run(plan, model)
    everything = run(with_hack(plan, budget=30), model, measured=measured)
    assert isinstance(everything[-1].memory, FullMemory)
    assert same(everything, whole)
    less = run(with_hack(plan, budget=29), model, measured=measured)  # the last scale alone is cut
    assert isinstance(less[-1].memory, HackMemory)
    for a, b in zip(less[:3], whole[:3], strict=True):
        torch.testing.assert_close(a.branch_logits, b.branch_logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(less[3].branch_logits, whole[3].branch_logits, atol=1e-4)
    plain = run(with_hack(plan, budget=29, merge=False), model, measured=measured)
    assert all(torch.equal(a.branch_logits, b.branch_logits) for a, b in zip(less[:3], plain[:3], strict=True))
    assert not torch.equal(less[3].branch_logits, plain[3].branch_logits)


def test_the_order_of_a_models_heads_is_of_no_concern() -> None:
    """Heads of every layer, with their kinds, are put in another order."""
    model, other, order = tiny_var(), tiny_var(), torch.tensor([2, 0, 3, 1])
    for block in other.blocks:
        attention: Any = block.attention
        for tensor in (*attention.qkv.weight.split(32), attention.q_bias, attention.v_bias):
            tensor.copy_(tensor.unflatten(0, (4, 8))[order].flatten(0, 1))
        attention.scale_mul.copy_(attention.scale_mul[order])
        attention.proj.weight.copy_(attention.proj.weight.unflatten(1, (4, 8))[:, order].flatten(1, 2))
    variance = torch.rand(3, 4, generator=torch.Generator().manual_seed(2))
    first = run(with_hack(default_plan(model)), model, measured=heads(model, variance))
    again = run(with_hack(default_plan(model)), other, measured=heads(other, variance[:, order]))
    assert same(first, again)
    torch.testing.assert_close(first[3].logits, again[3].logits, atol=1e-4, rtol=1e-4)
    wrong = run(with_hack(default_plan(model)), other, measured=heads(other, variance))
    assert not torch.allclose(first[3].logits, wrong[3].logits, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "method"),
    [(name, "plain") for name in (*UNLIKE, "flexvar", "m-var-attention-between-scales")]
    + [("prefix", method) for method in ("culled", "handed over", "handed over, empty", "fewer blocks")],
)
def test_bytes_and_flops_are_those_that_were_predicted(name: str, method: str) -> None:
    model = PAST[name]()
    plan, depth = default_plan(model, guidance_scale=2.0), len(model.blocks)
    rows = tuple(replace(row, blocks=(0, depth - 1) if k < 2 else (depth - 1,)) for k, row in enumerate(plan.rows))
    plan = with_hack(
        {
            "plain": plan,
            "culled": culled(plan, 4, {0: 5, 2: 1}),
            "handed over": handed(plan, 2, model),
            "handed over, empty": handed(plan, 2, model, "empty"),
            "fewer blocks": replace(plan, rows=rows),
        }[method]
    )
    parts = {"refiner": model, "best": Best(), "measured": heads(model)}
    flops, live = counted(plan, model, 2, **parts)
    parts |= {"tokenizer": tokenizer_of(model), "model": model}
    priced = price(plan, parts, 2)
    assert priced.flops == pytest.approx(flops, rel=0.002)
    assert [line.memory for line in priced.lines[1:-1]] == live
    assert rehearse(plan, parts, 2, CPU).drawing > 0


@pytest.mark.parametrize("budget", [6, 15])
def test_attention_costs_exactly_what_is_said_and_less(budget: int) -> None:
    model = tiny_var()
    parts = {"tokenizer": tiny_tokenizer(), "model": model, "measured": heads(model)}
    plan = default_plan(model)
    for merge in (False, True):
        cut = with_hack(plan, budget=budget, merge=merge, queries=1)
        priced = price(cut, parts)
        assert priced.flops == counted(cut, model, 1, measured=parts["measured"])[0]
        assert priced.lines[4].attended == budget
        assert priced.memory <= price(plan, parts).memory
        if not merge:
            assert priced.flops < price(plan, parts).flops


def test_no_head_sees_more_than_its_budget_and_all_together_have_it() -> None:
    outlook = memory_of(tiny_var())._outlook
    assert [[(kind.heads, kind.structural) for kind in kinds] for kinds in outlook.kinds] == [
        [((1,), False), ((0, 2, 3), True)],
        [((1,), False), ((0, 2, 3), True)],
        [((0, 1, 2, 3), False)],
    ]
    assert [[(step.held, step.attended, step.kept) for step in row[0]] for row in outlook.steps] == [
        [(1, 1, 1), (1, 1, 1)],
        [(5, 3, 3), (5, 5, 5)],
        [(12, 3, 3), (14, 14, 14)],
        [(19, 3, 3), (30, 15, 14)],
    ]
    assert [sum(row) * 4 for row in outlook.attended] == [12, 3 * 6 + 5 * 6, 3 * 6 + 14 * 6, 9 * 12]


def test_what_stays_is_what_was(model: NextScaleModel) -> None:
    """Every row and head holds copies of what the full memory has, in its order, and all of a prefix."""
    inputs, condition = some_inputs(model), model.condition(features_of(model))
    cut, whole = memory_of(model, budget=10, queries=9), full_memory_of(model)
    for memory in (cut, whole):
        model.prefill(condition, memory)
        for k in range(3):
            run_scale(model, k, inputs, condition, memory)
    outlook, prefix = cut._outlook, cut.prefix
    assert cut.live_bytes == outlook.bytes(2, 2, 4)
    # The first layer is told the same whatever the memory was before.
    for kind, kept in zip(outlook.kinds[0], cut._kept[0], strict=True):
        held = whole._arenas[0][:, :, kind.heads, : prefix + 14]
        places = places_of(kept, held)
        assert bool((places.diff() > 0).all())
        assert bool((places[:, :, :prefix] == torch.arange(prefix)).all())
        assert kept.shape[3] == prefix + (14 if kind.structural else 3)
    run_scale(model, 3, inputs, condition, cut)
    assert cut.live_bytes == outlook.bytes(3, 2, 4)


def drawn(memory: HackMemory, until: int) -> tuple[list[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """What the first layer sees at a scale where queries, keys and values are anything, the queries, and all keys and
    values so far (2, R, H, N, D).
    """
    generator, held = torch.Generator().manual_seed(0), torch.empty(2, 2, 4, 0, 8)
    for k in range(until + 1):
        q, keys, values = torch.randn(3, 2, 4, memory.schedule.lengths[k], 8, generator=generator)
        held = torch.cat([held, torch.stack([keys, values])], 3)
        memory.begin_scale(k)
        seen = [memory.see(i, q, keys, values) for i in range(3)]
        memory.end_scale(k)
    return seen[0], q, held


def places_of(seen: Tensor, held: Tensor) -> Tensor:
    """Where in ``held`` (2, R, G, N, D) the tokens of ``seen`` stand: (R, G, n)."""
    same_token = (seen[:, :, :, :, None] == held[:, :, :, None]).all(-1).all(0)
    assert bool((same_token.sum(3) == 1).all())
    return same_token.float().argmax(3)


def test_structural_heads_see_the_first_scales_the_newest_map_and_the_best_between() -> None:
    memory = memory_of(tiny_var(), budget=16, queries=16)
    seen, q, held = drawn(memory, 3)
    (_, (places, structural)) = seen
    assert structural.shape[3] == 27
    found = places_of(structural, held[:, :, places])
    assert bool((found[:, :, :5] == torch.arange(5)).all())
    assert bool((found[:, :, 11:] == torch.arange(14, 30)).all())
    best = attention_given(q[:, places], held[0, :, places])[:, :, 5:14].topk(6).indices.sort(2).values + 5
    assert torch.equal(found[:, :, 5:11], best)


def test_a_structural_head_without_room_for_the_newest_map_sees_a_grid_of_it() -> None:
    [(_, seen)], _, held = drawn(memory_of(tiny_var(), alpha=0.0), 2)
    assert bool((places_of(seen, held) == torch.tensor([0, 1, 2, 3, 4, 5, 7, 11, 13])).all())


def test_contextual_heads_see_what_their_queries_look_at_most() -> None:
    [(_, seen)], q, held = drawn(memory_of(tiny_var(), alpha=1.0, queries=9), 2)
    assert torch.equal(places_of(seen, held), attention_given(q, held[0]).topk(9).indices.sort(2).values)


def test_two_dense_kinds_are_one_masked_call(model: NextScaleModel) -> None:
    """What a slot around a slot sees, at every scale, gives what the two calls gave."""
    memory, prefix = memory_of(model, budget=8), memory_of(model).prefix
    course, generator = memory._outlook.course, torch.Generator().manual_seed(0)
    if prefix and not course.with_first:
        memory.begin_prefix()
        for i, spec in enumerate(model.slots):
            memory.slot(i).attend(*torch.randn(3, 2, spec.heads, prefix, spec.width, generator=generator))
        memory.end_prefix()
    for k in range(4):
        memory.begin_scale(k)
        for i, spec in enumerate(model.slots):
            q, keys, values = torch.randn(3, 2, spec.heads, course.tokens(k), spec.width, generator=generator)
            found, (all_keys, all_values, mask) = (
                memory.slot(i).attend(q, keys, values),
                memory.slot(i).see(q, keys, values),
            )
            torch.testing.assert_close(found, attend(q, all_keys, all_values, mask), atol=1e-5, rtol=1e-5)
            assert (mask is not None) == (len({step.attended for step in memory._outlook.steps[k][i]}) > 1)
        memory.end_scale(k)


def test_an_image_does_not_depend_on_its_company(model: NextScaleModel) -> None:
    plan, measured = with_hack(default_plan(model, guidance_scale=2.0)), heads(model)
    together = run(plan, model, measured=measured)
    alone = run(plan, model, second(model), noise=IndependentNoise([11]), measured=measured)
    assert all(torch.equal(a.tokens[1:2], b.tokens) for a, b in zip(together, alone, strict=True))


def test_a_population_chooses_among_what_was_kept(model: NextScaleModel) -> None:
    measured, plan = heads(model), default_plan(model, top_k=1)
    one = run(with_hack(plan), model, measured=measured)
    several = run(with_hack(culled(plan, 2, {1: 1})), model, measured=measured, best=Best())
    assert len(several[-1].tokens) == 3
    assert same(several[1:], one[1:])


def test_passes_overwrite_and_time_goes_back(model: NextScaleModel) -> None:
    passes_overwrite_and_time_goes_back(model, lambda: memory_of(model))


def test_selected_rows_take_what_they_kept_along(model: NextScaleModel) -> None:
    selected_rows_take_what_they_kept_along(model, lambda: memory_of(model))


def test_published_bytes_and_flops_are_those_that_we_count() -> None:
    """Infinity-8B: 16.86 GiB, keys of four bytes and values of two, every token kept, and 78.54 TFLOPs of attention."""
    slots = tuple(SlotSpec("past", 28, 128, block=i) for i in range(40))
    course = Course(slots, MEGAPIXEL, (tuple(range(40)),) * 13)
    whole = full.outlook(course, keep_last=True)
    assert whole.bytes(12, 2, 3) / 2**30 == pytest.approx(16.86, abs=0.005)
    measured = HeadStatistics(model="", weights="", sizes=MEGAPIXEL.sizes, pictures=1, variance=((0.5,) * 28,) * 40)
    cut = look_ahead(
        MemoryPlan("hack", SETTINGS | {"budget": 3156, "alpha": 0.0}, "measured"), course, {"measured": measured}
    )
    flops, capped = (
        sum(4 * 3584 * 2 * MEGAPIXEL.lengths[k] * sum(outlook.attended[k]) for k in range(13))
        for outlook in (whole, cut)
    )
    assert flops / 1e12 == pytest.approx(78.54, abs=0.005)
    pairs = zip(MEGAPIXEL.lengths, MEGAPIXEL.offsets[1:], strict=True)
    assert capped == 4 * 3584 * 2 * 40 * sum(length * min(seen, 3156) for length, seen in pairs)
    assert isinstance(cut, HackOutlook)
    assert cut.bytes(12, 2, 3) / whole.bytes(12, 2, 3) == pytest.approx(0.3, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("m-var", "this model reads a recurrent state"), ("hmar", "this model reads nothing of earlier scales")],
)
def test_a_model_without_a_past_to_drop_is_refused_with_the_reason(name: str, reason: str) -> None:
    model = MODELS[name]()
    with pytest.raises(PlanError, match=f"'hack' keeps keys and values of earlier scales, but {reason}"):
        run(with_hack(default_plan(model)), model, measured=None)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"budget": 0}, "budget is 0 tokens a head"),
        (
            {"budget": 3},
            "budget is 3 tokens a head, 5 for each of the 6 structural heads; expected at least 6 for these",
        ),
        ({"alpha": 1.5}, "alpha is 1.5, .*; expected 0 to 1"),
        ({"contextual_share": 0.0}, "contextual_share 0.0, .*, above 0 and up to 1"),
        ({"queries": 0}, "queries 0 and .*, 1 or more"),
        ({"protected": -1}, "protected -1; .*, and 0 or more"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changed: dict[str, Any], sentence: str) -> None:
    model = tiny_var()
    with pytest.raises(PlanError, match=sentence):
        run(with_hack(default_plan(model), **changed), model, measured=heads(model))


def test_a_calibration_of_something_else_is_refused() -> None:
    model = tiny_var()
    plan, right = with_hack(default_plan(model)), heads(model)
    for wrong, sentence in (
        (replace(right, variance=right.variance[:2]), "the calibration is of 2 blocks, and the model has 3"),
        (replace(right, variance=((0.1,) * 3,) * 3), "the calibration is of 3 heads in block 0, and the model has 4"),
        (heads(tiny_var(seed=1)), "was made for the weights [0-9a-f]{16} of tiny, and the model has"),
        (replace(right, sizes=((1, 1), (2, 2), (3, 3), (5, 5))), "of the scales .*; expected the same"),
        ([3], r"the calibration is \[3\]; expected one that read_calibration gave"),
        (
            scalekv_statistics(model),
            "is for scalekv; expected one for hack, which nextscale calibrate --method hack writes",
        ),
    ):
        with pytest.raises(PlanError, match=sentence):
            run(plan, model, measured=wrong)
        with pytest.raises(PlanError, match=sentence):
            price(plan, {"tokenizer": tiny_tokenizer(), "model": model, "measured": wrong})
    assert price(plan, {"tokenizer": tiny_tokenizer(), "model": model.to("meta"), "measured": right}).flops > 0
