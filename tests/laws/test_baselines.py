"""Laws of the baselines, over models with attention to earlier scales: what each keeps, what it costs and refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from nextscale.errors import PlanError
from nextscale.memory.baselines import attention_given, pyramid
from nextscale.memory.cut import CutMemory, CutOutlook
from nextscale.memory.full import FullMemory
from nextscale.memory.make import look_ahead
from nextscale.memory.scalekv_rules import window_of
from nextscale.methods.baselines import BASELINES, h2o, pyramidkv, snapkv, streaming, window
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan, default_plan
from nextscale.price import price, table
from nextscale.rehearse import rehearse
from nextscale.sampling import IndependentNoise
from nextscale.scales import ScaleSchedule
from tests.laws.test_loop import Best, culled, handed, run, same, second
from tests.laws.test_memory import (
    passes_overwrite_and_time_goes_back,
    run_scale,
    selected_rows_take_what_they_kept_along,
)
from tests.laws.test_policies import PAST
from tests.makers import MODELS, features_of, new_memory, some_inputs, tiny_tokenizer, tiny_var, tokenizer_of
from tests.test_price import counted
from tests.toys import free_model

CPU = torch.device("cpu")
Method = Callable[[Plan], Plan]
METHODS: dict[str, Method] = {
    "window": lambda plan: window(plan, 8),
    "streaming": lambda plan: streaming(plan, 8),
    "h2o": lambda plan: h2o(plan, 8),
    "h2o per query": lambda plan: h2o(plan, 8, per_query=True),
    "snapkv": lambda plan: snapkv(plan, 8, kernel=3),
    "snapkv by a grid": lambda plan: snapkv(plan, 8, kernel=3, grid=True),
    "pyramidkv": lambda plan: pyramidkv(plan, 8, window=2, kernel=3),
}
"""Of 14 tokens before the last scale, of 1, 4, 9 and 16."""


CASES = [(name, "prefix") for name in METHODS]
CASES += [(name, model) for name in ("h2o per query", "snapkv by a grid") for model in ("var", "flexvar", "infinity")]
cases = pytest.mark.parametrize(("name", "kind"), CASES)


def cut_memory(model: NextScaleModel, method: Method, rows: int = 2) -> CutMemory:
    memory = new_memory(model, rows, method(default_plan(model)))
    assert isinstance(memory, CutMemory)
    return memory


@cases
def test_less_shows_where_it_may(name: str, kind: str) -> None:
    model, method = PAST[kind](), METHODS[name]
    plan = default_plan(model, guidance_scale=2.0)
    full, less = run(plan, model), run(method(plan), model)
    assert isinstance(less[-1].memory, CutMemory)
    assert all(torch.equal(a.branch_logits, b.branch_logits) for a, b in zip(less[:3], full[:3], strict=True))
    assert not torch.equal(less[3].branch_logits, full[3].branch_logits)


@pytest.mark.parametrize("name", BASELINES)
def test_a_budget_of_everything_is_the_full_memory(name: str) -> None:
    model = PAST["prefix"]()
    plan = default_plan(model, guidance_scale=2.0)
    full = run(plan, model)
    for budget in (1.0, 14, 1000):
        everything = run(BASELINES[name](plan, budget), model)
        assert isinstance(everything[-1].memory, FullMemory)
        assert same(everything, full)


COURSES = ("plain", "culled", "handed over", "handed over, empty", "fewer blocks")


@pytest.mark.parametrize(
    ("name", "course"),
    [("h2o per query", course) for course in COURSES]
    + [("window", "handed over"), ("streaming", "handed over, empty"), ("snapkv by a grid", "culled")]
    + [("pyramidkv", course) for course in ("culled", "fewer blocks")],
)
def test_bytes_and_flops_are_those_that_were_predicted(name: str, course: str) -> None:
    model, method = PAST["prefix"](), METHODS[name]
    plan, depth = default_plan(model, guidance_scale=2.0), len(model.blocks)
    rows = tuple(replace(row, blocks=(0, depth - 1) if k < 2 else (depth - 1,)) for k, row in enumerate(plan.rows))
    plan = {
        "plain": lambda: method(plan),
        "culled": lambda: method(culled(plan, 4, {0: 5, 2: 1})),
        "handed over": lambda: handed(method(plan), 2, model),
        "handed over, empty": lambda: handed(method(plan), 1, model, "empty"),
        "fewer blocks": lambda: method(replace(plan, rows=rows)),
    }[course]()
    parts = {"refiner": model, "best": Best()}
    flops, live = counted(plan, model, 2, **parts)
    parts |= {"tokenizer": tokenizer_of(model), "model": model}
    priced = price(plan, parts, 2)
    assert priced.flops == pytest.approx(flops, rel=0.002)
    assert [line.memory for line in priced.lines[1:-1]] == live
    assert rehearse(plan, parts, 2, CPU).drawing > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_plain_plan_costs_what_is_said_to_the_last_flop(name: str) -> None:
    model, networks = tiny_var(), {"tokenizer": tiny_tokenizer()}
    plan = METHODS[name](default_plan(model))
    flops, _ = counted(plan, model, 1)
    assert price(plan, networks | {"model": model}).flops == flops


def test_the_table_tells_what_is_attended_to_and_kept() -> None:
    model = tiny_var()
    plan = window(default_plan(model), 4)
    priced = price(plan, {"tokenizer": tiny_tokenizer(), "model": model})
    assert [(line.attended, line.kept) for line in priced.lines[1:5]] == [(1, 1), (5, 4), (13, 4), (20, 4)]
    assert [line.split()[-6:-4] for line in table(plan, priced).splitlines()[3:6]] == [
        ["5", "4"],
        ["13", "4"],
        ["20", "4"],
    ]


def positions(cut: CutMemory, whole: FullMemory, tokens: int) -> dict[int, Tensor]:
    """Where the tokens that every slot kept stand in the full memory: (R, H, kept), the prefix first."""
    found = {}
    for i, (kept, _) in cut._kept.items():
        held = whole._arenas[i][:, :, :, :tokens]
        same_token = (kept[:, :, :, :, None] == held[:, :, :, None]).all(-1).all(0)
        assert bool((same_token.sum(3) == 1).all())
        found[i] = same_token.float().argmax(3)
    return found


@cases
def test_what_stays_is_what_was_in_its_order_and_what_is_sure(name: str, kind: str) -> None:
    model, method = PAST[kind](), METHODS[name]
    inputs, condition = some_inputs(model), model.condition(features_of(model))
    cut, whole = cut_memory(model, method), new_memory(model, 2)
    assert isinstance(whole, FullMemory)
    for memory in (cut, whole):
        model.prefill(condition, memory)
        for k in range(3):
            run_scale(model, k, inputs, condition, memory)
    outlook, prefix = cut._outlook, cut._outlook.course.prefix
    assert cut.live_bytes == outlook.bytes(2, 2, 4) < whole.live_bytes
    sure = {
        "window": range(6, 14),
        "streaming": (*range(5), 11, 12, 13),
        "snapkv by a grid": [5 + n for n in window_of((3, 3), 4)],
        "pyramidkv": (12, 13),
    }.get(name, range(10, 14))
    for i, found in positions(cut, whole, prefix + 14).items():
        assert found.shape[2] == outlook.kept[2][i]
        assert bool((found.diff() > 0).all())
        assert bool((found[:, :, :prefix] == torch.arange(prefix)).all())
        assert all(bool((found == prefix + place).any(2).all()) for place in sure)


def fed(memory: CutMemory, q: Tensor, keys: Tensor, values: Tensor) -> Iterator[slice]:
    """Show every slot the prefix and three scales of (R, H, tokens, D); after each scale, where it stands."""
    prefix, offsets = memory._outlook.course.prefix, memory.schedule.offsets

    def see(now: slice) -> slice:
        for i in memory._kept:
            memory.slot(i).attend(q[:, :, now], keys[:, :, now], values[:, :, now])
        return now

    if prefix:
        memory.begin_prefix()
        see(slice(prefix))
        memory.end_prefix()
    for k in range(3):
        memory.begin_scale(k)
        now = see(slice(prefix + offsets[k], prefix + offsets[k + 1]))
        memory.end_scale(k)
        yield now


@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.parametrize("kind", ["var", "prefix"])
def test_heavy_hitters_are_the_columns_of_the_attention_that_sum_to_most(
    kind: str, per_query: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whole maps of attention, in float64: scale for scale, every key by the queries that saw it."""
    monkeypatch.setattr(attention_given, "__defaults__", (4,))
    model = PAST[kind]()
    memory = new_memory(model, 2, h2o(default_plan(model), 4, per_query=per_query))
    assert isinstance(memory, CutMemory)
    spec, prefix = model.slots[0], memory._outlook.course.prefix
    shape, generator = (3, 2, spec.heads, prefix + 14, spec.width), torch.Generator().manual_seed(2)
    q, keys, values = torch.randn(shape, generator=generator)
    sums, seen = torch.zeros(shape[1:4], dtype=torch.float64), torch.zeros(prefix + 14, dtype=torch.float64)
    held = torch.arange(prefix).expand(*shape[1:3], -1)

    for k, now in enumerate(fed(memory, q, keys, values)):
        held = torch.cat([held, torch.arange(now.start, now.stop).expand(*held.shape[:2], -1)], 2)
        there = keys.double().gather(2, held[..., None].expand(-1, -1, -1, spec.width))
        sums.scatter_add_(2, held, (q[:, :, now].double() @ there.mT).softmax(-1).sum(2))
        seen[prefix : now.stop] += now.stop - now.start
        if held.shape[2] > prefix + 4:
            scores = (sums / seen if per_query else sums).gather(2, held)[..., prefix:-2]
            heavy = held[..., prefix:-2].gather(2, scores.topk(2).indices).sort(2).values
            held = torch.cat([held[..., :prefix], heavy, held[..., -2:]], 2)
        for kept, notes in memory._kept.values():
            assert torch.equal(kept[0], keys.gather(2, held[..., None].expand(-1, -1, -1, spec.width)))
            if k < 2:  # nothing is cut after the third scale, so nothing is noted
                torch.testing.assert_close(notes[0].double(), sums.gather(2, held)[..., prefix:], atol=1e-5, rtol=1e-5)
            else:
                assert notes.numel() == 0


@pytest.mark.parametrize("kind", ["var", "prefix"])
def test_a_window_keeps_what_it_gives_attention_and_its_neighbours(kind: str) -> None:
    """One key gets most, and lends it to those beside it; nothing beyond either end, or in the window, lends any."""
    model = PAST[kind]()
    memory = new_memory(model, 1, snapkv(default_plan(model), 6, window=2, kernel=3))
    assert isinstance(memory, CutMemory)
    spec, prefix = model.slots[0], memory._outlook.course.prefix
    q, keys = torch.zeros(2, 1, spec.heads, prefix + 14, spec.width)
    q[..., -2:, 0], keys[:, :, prefix + 4, 0] = 1.0, 5.0  # only the window asks for it
    values = torch.arange(-prefix, 14.0)[None, None, :, None].expand_as(q)
    assert len(list(fed(memory, q, keys, values))) == 3
    for kept, _ in memory._kept.values():
        assert kept[1, 0, 0, :, 0].tolist() == [*range(-prefix, 0), 1, 3, 4, 5, 12, 13]


def test_a_window_is_of_the_map_where_a_prefix_stands_with_it() -> None:
    model = free_model(reads="past", prefix=3, with_first=True)
    plan = snapkv(default_plan(model, schedule=ScaleSchedule.of([3, 4])), 6, window=2, kernel=3)
    memory, spec = new_memory(model, 1, plan), model.slots[0]
    q, keys = torch.zeros(2, 1, spec.heads, 3 + 9, spec.width)
    q[..., -2:, 0], keys[:, :, 3 + 4, 0] = 1.0, 5.0
    memory.begin_scale(0)
    for i in range(len(model.slots)):
        memory.slot(i).attend(q, keys, torch.arange(-3, 9.0)[None, None, :, None].expand_as(q))
    memory.end_scale(0)
    assert isinstance(memory, CutMemory)
    for kept, _ in memory._kept.values():
        assert kept[1, 0, 0, :, 0].tolist() == [-3, -2, -1, 1, 3, 4, 5, 7, 8]


@pytest.mark.parametrize("depth", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("budget", [9, 100, 650])
def test_a_pyramid_has_its_mean_at_every_scale_and_goes_down(depth: int, budget: int) -> None:
    spec = tiny_var().slots[0]
    schedule = ScaleSchedule.preset("256")
    course = default_plan(tiny_var()).course(0, tiny_var())
    course = replace(
        course,
        slots=tuple(replace(spec, block=i) for i in range(depth)),
        schedule=schedule,
        blocks=(tuple(range(depth)),) * 10,
    )
    least = 3 + budget // 20
    held = [0] * depth
    for k, shares in pyramid(course, budget, least).items():
        assert sum(shares) == budget * depth
        assert sorted(shares, reverse=True) == list(shares)
        assert shares[-1] >= least
        held = [n + schedule.lengths[k] for n in held]
        if schedule.offsets[k + 1] > budget:
            assert all(one <= n for one, n in zip(shares, held, strict=True))
            steps = [a - b for a, b in pairwise(shares)]
            assert max(steps, default=0) - min(steps, default=0) <= 2  # rounding
        held = [min(n, one) for n, one in zip(held, shares, strict=True)]
    if depth > 2 and budget == 100:
        assert len(set(shares)) > 2


@cases
def test_an_image_does_not_depend_on_its_company(name: str, kind: str) -> None:
    model, method = PAST[kind](), METHODS[name]
    plan = method(default_plan(model, guidance_scale=2.0))
    together = run(plan, model)
    alone = run(plan, model, second(model), noise=IndependentNoise([11]))
    assert all(torch.equal(a.tokens[1:2], b.tokens) for a, b in zip(together, alone, strict=True))


@cases
def test_a_population_chooses_among_what_was_kept(name: str, kind: str) -> None:
    model, method = PAST[kind](), METHODS[name]
    plan = default_plan(model, top_k=1)
    one, several = run(method(plan), model), run(method(culled(plan, 2, {1: 1})), model, best=Best())
    assert len(several[-1].tokens) == 3
    assert same(several[1:], one[1:])


@cases
def test_passes_overwrite_and_time_goes_back(name: str, kind: str) -> None:
    """Sums of attention, too: a scale that is seen twice counts once."""
    model = PAST[kind]()
    passes_overwrite_and_time_goes_back(model, lambda: cut_memory(model, METHODS[name]))


@cases
def test_selected_rows_take_what_they_kept_along(name: str, kind: str) -> None:
    model = PAST[kind]()
    selected_rows_take_what_they_kept_along(model, lambda: cut_memory(model, METHODS[name]))


@pytest.mark.parametrize("name", METHODS)
def test_another_schedule_afterwards_finds_nothing_of_the_first(name: str) -> None:
    method, model, other = METHODS[name], free_model(reads="past"), ScaleSchedule.of([1, 2, 3, 3, 4])
    plan = method(default_plan(model, schedule=other))
    alone = run(plan, model)
    run(method(default_plan(model)), model)
    assert same(run(plan, model), alone)


@pytest.mark.parametrize("name", ["m-var", "hmar"])
@pytest.mark.parametrize("policy", BASELINES)
def test_models_that_keep_no_keys_say_why_they_refuse(name: str, policy: str) -> None:
    model = MODELS[name]()
    plan = BASELINES[policy](default_plan(model), 0.5)
    reads = {"m-var": "a recurrent state", "hmar": "nothing of earlier scales"}[name]
    with pytest.raises(PlanError, match=f"{policy!r} keeps keys and values of earlier scales, .* model reads {reads}"):
        price(plan, {"tokenizer": tokenizer_of(model), "model": model})


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (lambda plan: streaming(plan, 4), "budget is 4 tokens; expected at least 5, as many as are always kept"),
        (lambda plan: streaming(plan, 4, scales=0), "scales is 0; expected at least 1"),
        (lambda plan: snapkv(plan, 4, window=5), "budget is 4 tokens; expected at least 5"),
        (lambda plan: snapkv(plan, 4, window=0), "window is 0 tokens; expected at least 1"),
        (lambda plan: BASELINES["snapkv"](plan, 4, window=2.5), "window is 2.5; expected a number of tokens"),
        (lambda plan: snapkv(plan, 4, kernel=2), "kernel is 2; expected an odd number up to 999"),
        (lambda plan: snapkv(plan, 4, kernel=10**20 + 1), "kernel is 1.*1; expected an odd number up to 999"),
        (lambda plan: BASELINES["snapkv"](plan, 4, grid=2), r"'snapkv' has grid 2; it takes .* grid \(bool\)"),
        (lambda plan: pyramidkv(plan, 4, least=1), "least is 1 tokens; expected at least the window, 2, and at most 4"),
        (lambda plan: pyramidkv(plan, 4, least=5), "least is 5 tokens; expected at least the window, 2, and at most 4"),
        (lambda plan: window(plan, 0), "the budget is 0; expected a share above 0"),
        (lambda plan: window(plan, 2.5), "the budget is 2.5; expected a share above 0"),
        (lambda plan: window(snapkv(plan, 4), 4), "window would replace snapkv, the memory that another method gave"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_runs(method: Method, sentence: str) -> None:
    model = tiny_var()
    with pytest.raises(PlanError, match=sentence):
        price(method(default_plan(model)), {"tokenizer": tiny_tokenizer(), "model": model})


def test_an_outlook_of_less_is_one_that_cuts() -> None:
    model = tiny_var()
    plan = pyramidkv(default_plan(model), 8, window=2)
    outlook = look_ahead(plan.memories["model"], plan.course(0, model))
    assert isinstance(outlook, CutOutlook)
    assert outlook.kept == ((1, 1, 1), (5, 5, 5), (14, 8, 2), (14, 8, 2))
    assert outlook.attended == ((1, 1, 1), (5, 5, 5), (14, 14, 14), (30, 24, 18))
