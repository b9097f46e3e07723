"""Laws of the loop: bits, free schedules, populations, models that take over, several passes, conditions per scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.conditions.base import Features, Source
from nextscale.errors import PlanError
from nextscale.generate import generate
from nextscale.given import GivenCanvases, GivenTokens
from nextscale.memory.base import MemoryPlan
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan, default_plan
from nextscale.price import price
from nextscale.rehearse import rehearse
from nextscale.results import decode
from nextscale.row import Row
from nextscale.sampling import GivenNoise, IndependentNoise, OfficialNoise, Uniform
from nextscale.scales import ScaleSchedule
from nextscale.state import Keep, ScaleEvent
from tests.makers import (
    CODE_DIM,
    MODELS,
    features_of,
    few,
    nothing_of,
    remembers,
    tiny_tokenizer,
    tiny_var,
    tokenizer_of,
)
from tests.toys import FreeModel, LastMapTokenizer, PlacingTokenizer, bit_tokenizer, free_model

SQUARE = ScaleSchedule.of([1, 2, 3, 4])
FREE = ScaleSchedule(((1, 1), (1, 2), (3, 2), (4, 5)))
NEXT_TOKEN = ScaleSchedule.of([1] * 9)


def run(plan: Plan, model: Any, features: Features | None = None, **more: Any) -> list[ScaleEvent]:
    features = features_of(model, 3) if features is None else features
    noise = more.pop("noise", None) or IndependentNoise([10 + i for i in range(features.images)])
    callback = more.pop("callback", None)
    parts = {"tokenizer": more.pop("tokenizer", None) or tokenizer_of(model), "model": model} | more
    return list(generate(plan, parts, features, noise, callback))


def second(model: NextScaleModel) -> Features:
    """Of three images the second one alone."""
    return features_of(model, 3).select(torch.tensor([1]))


def same(a: Sequence[ScaleEvent], b: Sequence[ScaleEvent]) -> bool:
    return all(torch.equal(x.tokens, y.tokens) for x, y in zip(a, b, strict=True))


def bits(**settings: Any) -> FreeModel:
    return free_model(reads="past", draws=CODE_DIM, choices=2, **settings)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return MODELS[request.param]()


@pytest.mark.parametrize("schedule", [SQUARE, FREE, NEXT_TOKEN])
def test_bits_are_drawn_on_any_schedule_whatever_the_batch(schedule: ScaleSchedule) -> None:
    model, tokenizer = bits(), bit_tokenizer()
    plan = default_plan(model, schedule=schedule, guidance_scale=2.0, temperature=0.7)
    together = run(plan, model, tokenizer=tokenizer)
    assert [tuple(e.tokens.shape) for e in together] == [(3, *size, CODE_DIM) for size in schedule]
    alone = run(plan, model, second(model), tokenizer=tokenizer, noise=IndependentNoise([11]))
    assert all(torch.equal(a.tokens[1:2], b.tokens) for a, b in zip(together, alone, strict=True))
    walked = tokenizer.follow(together[-1].history, schedule)
    torch.testing.assert_close(walked.canvas.latent, together[-1].canvas.latent, atol=1e-6, rtol=1e-6)
    assert not torch.equal(together[-1].tokens[0], together[-1].tokens[1])


def test_a_schedule_of_single_tokens_is_a_next_token_model() -> None:
    """A tokenizer that places token k at place k makes it one; nothing takes the grid for the last scale's size."""
    model, tokenizer = bits(), bit_tokenizer(PlacingTokenizer())
    plan = default_plan(model, schedule=tokenizer.schedule, guidance_scale=2.0)
    events = run(plan, model, tokenizer=tokenizer)
    assert events[-1].canvas.latent.shape == (3, CODE_DIM, 3, 3)
    drawn = torch.cat([event.tokens for event in events], 1)[:, :, 0]
    assert torch.equal(tokenizer.codes(drawn[:, None])[:, :, 0].unflatten(2, (3, 3)), events[-1].canvas.latent)
    inputs = tokenizer.follow(events[-1].history).inputs
    logits = model(inputs, model.condition(features_of(model, 3)), tokenizer.schedule)
    for k, event in enumerate(events):
        torch.testing.assert_close(event.branch_logits[:3, 0], logits[:, k], atol=1e-4, rtol=1e-4)
    found = decode(tokenizer, events[-1].canvas)
    assert tuple(found.shape[2:]) == tokenizer.pixels()
    parts = {"tokenizer": tokenizer, "model": model}
    assert rehearse(plan, parts, 1, torch.device("cpu")).decoding > 0


def test_bits_that_are_given_are_kept_and_smooth_sampling_of_them_is_refused() -> None:
    model, tokenizer = bits(), bit_tokenizer()
    plan = default_plan(model, schedule=FREE)
    tokens = [torch.ones((3, *size, CODE_DIM), dtype=torch.int64) for size in FREE]
    masks = [torch.arange(h * w).view(h, w) % 2 == 0 for h, w in FREE]
    events = run(plan.with_column(keep="given"), model, tokenizer=tokenizer, given=GivenTokens(tokens, masks))
    for event, mask in zip(events, masks, strict=True):
        assert bool((event.tokens[:, mask] == 1).all())
        assert torch.equal(event.tokens[:, ~mask], event.drawn[:, ~mask])
    with pytest.raises(PlanError, match="smooth mixes codes, but a token here is 8 draws"):
        run(plan.with_column(smooth=(1.0, 0.5)), model, tokenizer=tokenizer)


def test_a_model_of_its_own_scale_alone_draws_without_a_memory() -> None:
    model = free_model()
    plan = default_plan(model, schedule=SQUARE, guidance_scale=2.0)
    assert plan.memories["model"].policy == "none"
    events = run(plan, model)
    assert all(event.memory.live_bytes == event.memory.allocated_bytes == 0 for event in events)
    assert price(plan, {"tokenizer": tiny_tokenizer(), "model": model}, 3).memory == 0
    wrong = replace(plan, memories={"model": MemoryPlan("full")})
    with pytest.raises(PlanError, match="'full' keeps keys and values of earlier scales, but this model reads nothing"):
        run(wrong, model)


def test_three_branches_weigh_as_they_say(model: NextScaleModel) -> None:
    """A third branch that sees what the first one sees shares its weight; where the weight goes to null, it shows."""
    two = default_plan(model, guidance_scale=2.0, top_k=few(model, 20))

    def three(split: Callable[[Row], tuple[float, ...]]) -> Plan:
        rows = tuple(replace(row, guidance=split(row)) for row in two.rows)
        return replace(two, rows=rows, branches=(*two.branches, two.branches[0]))

    shared = run(three(lambda row: (row.guidance[0] - 0.5, row.guidance[1], 0.5)), model)
    assert same(shared, run(two, model))
    assert not same(run(three(lambda row: (0.0, row.guidance[0], row.guidance[1])), model), run(two, model))


def test_an_unconditional_plan_draws_what_the_null_branch_does(model: NextScaleModel) -> None:
    plan = replace(default_plan(model), branches=((),))
    assert same(run(plan, model, Features(3, {})), run(default_plan(model), model, nothing_of(model, 3)))
    dropped = features_of(model, 3).drop(model.sources[0], torch.ones(3, dtype=torch.bool))
    assert same(run(plan, model), run(default_plan(model), model, dropped))


def test_a_scale_sees_the_condition_that_its_row_shows(model: NextScaleModel) -> None:
    plan = default_plan(model, top_k=1)
    hidden = tuple(replace(row, condition=()) if k >= 2 else row for k, row in enumerate(plan.rows))
    events, null = run(replace(plan, rows=hidden), model), run(replace(plan, branches=((),)), model)
    assert same(events[:2], run(plan, model)[:2])
    assert not same(events, run(plan, model))
    assert not same(events[:2], null[:2])
    (name,), (kind,) = model.sources, model.reads
    with pytest.raises(PlanError, match=f"the source '{name}' is of the kind 'sound', but 'model' reads {kind}"):
        run(plan, model, Features(3, {name: Source("sound", {"states": torch.zeros(3, 1, 4)})}))


# Models that take over


def handed(plan: Plan, k: int, model: NextScaleModel, takeover: str = "catch_up") -> Plan:
    rows = tuple(replace(row, model="refiner") if j >= k else row for j, row in enumerate(plan.rows))
    memory = MemoryPlan(model.memory)
    return replace(plan, rows=rows, memories={"model": memory, "refiner": replace(memory, takeover=takeover)})


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("rows", [[1], [2, 0], [0, 0, 1, 2, 2]])
def test_a_model_that_takes_over_sees_the_images_that_live(model: NextScaleModel, k: int, rows: list[int]) -> None:
    """Images are dropped and repeated just before; their number used to come back to what it was."""
    plan = default_plan(model, guidance_scale=2.0, top_k=1)

    def keep(event: ScaleEvent) -> Keep | None:
        return Keep(rows) if event.k == k - 1 else None

    alone, over = run(plan, model, callback=keep), run(handed(plan, k, model), model, refiner=model, callback=keep)
    assert [len(event.tokens) for event in over] == [3] * (k - 1) + [len(rows)] * (5 - k)
    assert same(over, alone)
    assert over[-1].lineage == alone[-1].lineage


def test_images_can_be_chosen_while_tokens_are_given(model: NextScaleModel) -> None:
    tokenizer = tokenizer_of(model)
    tokens = tokenizer.encode(tokenizer.latent(torch.rand(3, 3, 16, 16))).tokens
    given = GivenTokens(tokens, [torch.ones(3, *size, dtype=torch.bool) for size in tokenizer.schedule])
    plan = default_plan(model).with_column(keep="given")
    events = run(plan, model, given=given, callback=lambda event: Keep([2, 2, 0]) if event.k == 1 else None)
    assert all(torch.equal(a, b[[2, 2, 0]]) for a, b in zip(events[-1].history, tokens, strict=True))


def test_a_take_over_with_an_empty_memory_sees_nothing_of_earlier_scales(model: NextScaleModel) -> None:
    plan = default_plan(model, guidance_scale=2.0)
    full, starting = run(handed(plan, 2, model), model, refiner=model), handed(plan, 2, model, "empty")
    live: list[int] = []
    empty = run(starting, model, refiner=model, callback=lambda event: live.append(event.memory.live_bytes))
    assert same(empty[:2], full[:2])
    assert not remembers(model) or (empty[2].logits - full[2].logits).abs().max() > 1e-3
    parts = {"tokenizer": tokenizer_of(model), "model": model, "refiner": model}
    priced, caught_up = price(starting, parts, 3), price(handed(plan, 2, model), parts, 3)
    assert priced.flops < caught_up.flops
    assert [line.memory for line in priced.lines[1:-1]] == live


@pytest.mark.parametrize("with_first", [False, True])
def test_of_a_prefix_an_empty_memory_has_what_stood_in_front_of_all_scales(with_first: bool) -> None:
    """One that stood in the first scale's group went with it; that take-over used to fail."""
    model, live = free_model(reads="past", prefix=3, with_first=with_first), list[int]()
    plan = handed(default_plan(model, schedule=SQUARE, guidance_scale=2.0), 2, model, "empty")
    run(plan, model, refiner=model, callback=lambda event: live.append(event.memory.live_bytes))
    per_token = 2 * 16 * 4 * 3 * 6  # keys and values, width, float32, blocks, rows
    assert live[2] == (9 + (0 if with_first else 3)) * per_token
    parts = {"tokenizer": tokenizer_of(model), "model": model, "refiner": model}
    assert [line.memory for line in price(plan, parts, 3).lines[1:-1]] == live


def test_the_first_memory_is_given_back_before_the_next_one_is_made(model: NextScaleModel) -> None:
    plan, held = handed(default_plan(model), 2, model), []
    for event in generate(
        plan,
        {"tokenizer": tokenizer_of(model), "model": model, "refiner": model},
        features_of(model, 3),
        IndependentNoise([1, 2, 3]),
    ):
        held.append(event.memory)
    assert held[0] is not held[2]
    assert held[0].allocated_bytes == 0
    assert (held[2].allocated_bytes > 0) == remembers(model)


# Populations


class Best:
    """A cull that keeps those whose last tokens have the smallest sum, and notes what it was shown."""

    def __init__(self) -> None:
        self.events: list[ScaleEvent] = []

    def __call__(self, event: ScaleEvent, count: int, noise: Uniform) -> list[int]:
        self.events.append(event)
        order = event.tokens.flatten(1).sum(1).argsort(stable=True)
        return [int(order[i % len(order)]) for i in range(count)]


def culled(plan: Plan, candidates: int, after: dict[int, int]) -> Plan:
    rows = tuple(
        replace(row, population=after[k], cull="best") if k in after else row for k, row in enumerate(plan.rows)
    )
    return replace(plan, rows=rows, candidates=candidates)


def test_a_population_shrinks_and_grows_prompt_by_prompt(model: NextScaleModel) -> None:
    best, plan = Best(), culled(default_plan(model, guidance_scale=2.0, top_k=few(model, 20)), 4, {0: 2, 1: 3, 3: 1})
    events = run(plan, model, best=best)
    assert [len(event.tokens) for event in events] == [3 * n for n in (2, 3, 3, 1)]
    assert events[-1].lineage.prompts == (0, 1, 2)
    assert [len(event.tokens) for event in best.events] == [4] * 3 + [2] * 3 + [3] * 3
    assert [set(event.lineage.prompts) for event in best.events] == [{0}, {1}, {2}] * 3
    walked = tokenizer_of(model).follow(events[-1].history).canvas.latent
    torch.testing.assert_close(events[-1].canvas.latent, walked, atol=1e-5, rtol=1e-5)
    ids = [i for event in best.events[:3] for i in event.lineage.ids]
    assert sorted(ids) == list(range(12))
    grown = best.events[6:]  # of the two that lived one was copied: it has a new id and a parent
    assert all(sum(i >= 12 for i in event.lineage.ids) == 1 for event in grown)
    for event in grown:
        parents = dict(zip(event.lineage.ids, event.lineage.parents, strict=True))
        copy = max(parents)
        assert parents[copy] in parents


def test_candidates_of_a_prompt_differ_and_do_not_depend_on_other_prompts(model: NextScaleModel) -> None:
    plan = replace(default_plan(model), candidates=3)
    together = run(plan, model)
    assert not torch.equal(together[-1].tokens[0], together[-1].tokens[1])
    one = run(plan, model, second(model), noise=IndependentNoise([11]))
    assert all(torch.equal(a.tokens[3:6], b.tokens) for a, b in zip(together, one, strict=True))
    single = run(default_plan(model), model)
    assert all(torch.equal(a.tokens[::3], b.tokens) for a, b in zip(together, single, strict=True))


def test_bytes_of_a_shrinking_population_are_those_of_who_lives(model: NextScaleModel) -> None:
    """The arena of the first, largest population used to stay to the end."""
    plan = culled(default_plan(model, guidance_scale=2.0), 8, {1: 2, 2: 1})
    parts = {"tokenizer": tokenizer_of(model), "model": model, "best": Best()}
    priced, live, allocated = price(plan, parts, 3), [], []
    for event in generate(plan, parts, features_of(model, 3), IndependentNoise([1, 2, 3])):
        live.append(event.memory.live_bytes)
        allocated.append(event.memory.allocated_bytes)
    assert live == [line.memory for line in priced.lines[1:-1]]
    whole = [event.memory.allocated_bytes for event in run(replace(default_plan(model, guidance_scale=2.0)), model)]
    assert allocated[-1] == whole[-1]  # one image per prompt lives at the end, as in a plain generation
    assert allocated[1] <= 2 * whole[-1]
    assert price(default_plan(model, guidance_scale=2.0), parts, 3).flops < priced.flops


def test_a_cull_draws_noise_of_its_prompt(model: NextScaleModel) -> None:
    """The same for one prompt alone, another for each seed and scale, and given numbers where they are given."""
    seen: list[list[float]] = []

    def by_chance(event: ScaleEvent, count: int, noise: Uniform) -> Tensor:
        numbers = noise(len(event.tokens))
        seen.append(numbers.tolist())
        return numbers.argsort()[:count]

    def looks_twice(event: ScaleEvent, count: int, noise: Uniform) -> Tensor:
        assert torch.equal(noise(2), noise(4)[:2])
        return by_chance(event, count, noise)

    plan = culled(default_plan(model), 4, {0: 3, 2: 2})
    run(plan, model, best=looks_twice)
    together, seen = seen, []
    run(plan, model, second(model), best=by_chance, noise=IndependentNoise([11]))
    assert seen == [together[1], together[4]]
    assert len({number for numbers in together for number in numbers}) == sum(map(len, together))
    alive, draws = (12, 9, 9, 6), tokenizer_of(model).token_shape
    stored = GivenNoise(
        {
            k: torch.empty(n, h * w, *draws, model.choices).exponential_()
            for k, ((h, w), n) in enumerate(zip(SQUARE, alive, strict=True))
        },
        culls={0: torch.tensor([[0.4, 0.3, 0.2, 0.1]] * 12), 2: torch.tensor([[0.1, 0.2, 0.3]] * 9)},
    )
    events = run(plan, model, best=by_chance, noise=stored)
    assert events[0].lineage.ids[:3] == (5, 4, 3)
    probs = events[3].logits.softmax(-1)  # as stored for those who live, in their order
    assert torch.equal(stored.pick(probs, 3), events[3].drawn.flatten(1, 2))
    run(plan, model, best=by_chance, noise=OfficialNoise(torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("answer", [[0], [0, 9], None, [0.5, 1], [0, -1], "01"])
def test_a_cull_that_chooses_nobody_is_refused(answer: Any) -> None:
    plan = culled(default_plan(tiny_var()), 4, {1: 2})
    with pytest.raises(PlanError, match=r"the part 'best' chose .* at row 1; expected 2 numbers from 0 to 3"):
        run(plan, tiny_var(), best=lambda event, count, noise: answer)
    with pytest.raises(PlanError, match=r"culls by the part 'best'; expected a function"):
        run(plan, tiny_var(), best=3)


# Passes


def in_passes(model: FreeModel, **columns: Any) -> Plan:
    plan = default_plan(model, schedule=SQUARE, guidance_scale=2.0)
    split = {1: (1,), 4: (1, 3), 9: (2, 3, 4), 16: (4, 4, 8)}
    rows = tuple(replace(row, passes=split[row.size[0] * row.size[1]], **columns) for row in plan.rows)
    return replace(plan, rows=rows)


@pytest.mark.parametrize("reads", ["own", "past"])
def test_later_passes_draw_masked_places_anew_and_leave_the_others(reads: Any) -> None:
    model, told = free_model(reads=reads), []
    embed = model.embed

    def watched(inputs: Any, k: int, condition: Any, schedule: Any, again: Any = None) -> Tensor:
        if again is not None:
            told.append((k, again))
        return embed(inputs, k, condition, schedule, again)

    model.embed = watched  # type: ignore[method-assign]
    events = run(in_passes(model), model)
    assert [(k, again.number) for k, again in told] == [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)]
    assert [int(again.masked.sum()) for _, again in told] == [3 * n for n in (3, 7, 4, 12, 8)]
    for k, again in told:
        stayed = ~again.masked.unflatten(1, SQUARE[k])
        assert torch.equal(events[k].tokens[stayed], again.tokens[stayed])
    (_, first), (_, second) = told[1:3]
    redrawn = second.tokens.flatten(1) != first.tokens.flatten(1)
    assert redrawn.any()
    assert not (redrawn & ~first.masked).any()


def test_a_later_pass_is_told_what_its_tokens_alone_draw() -> None:
    """As an input of its own scale, without the canvas before: the masked branch of arXiv 2506.04421."""
    model, tokenizer, told = free_model(), tiny_tokenizer(), []
    embed = model.embed

    def watched(inputs: Any, k: int, condition: Any, schedule: Any, again: Any = None) -> Tensor:
        told.append((k, again))
        return embed(inputs, k, condition, schedule, again)

    model.embed = watched  # type: ignore[method-assign]
    run(in_passes(model), model, tokenizer=tokenizer)
    for k, again in told:
        if again is not None:
            alone = tokenizer.accumulate(tokenizer.start(3, SQUARE), tokenizer.codes(again.tokens), k)
            assert torch.equal(again.inputs, tokenizer.next_input(alone, k))


def test_given_tokens_are_known_to_every_pass() -> None:
    model, told = free_model(), []
    embed = model.embed

    def watched(inputs: Any, k: int, condition: Any, schedule: Any, again: Any = None) -> Tensor:
        told.append((k, again))
        return embed(inputs, k, condition, schedule, again)

    model.embed = watched  # type: ignore[method-assign]
    tokens = [torch.full((3, *size), 7) for size in SQUARE]
    masks = [torch.arange(h * w).view(h, w) % 2 == 0 for h, w in SQUARE]
    events = run(in_passes(model).with_column(keep="given"), model, given=GivenTokens(tokens, masks))
    for k, again in told:
        assert again is None or bool((again.tokens[:, masks[k]] == 7).all())
    assert all(bool((event.tokens[:, masks[event.k]] == 7).all()) for event in events)


def test_given_tokens_are_surer_than_all_that_is_drawn() -> None:
    """No pass masks them, however many there are of them (arXiv 2506.04421)."""
    model, masked = free_model(), []
    embed = model.embed

    def watched(inputs: Any, k: int, condition: Any, schedule: Any, again: Any = None) -> Tensor:
        if again is not None:
            masked.append((k, again.masked))
        return embed(inputs, k, condition, schedule, again)

    model.embed = watched  # type: ignore[method-assign]
    tokens = [torch.full((3, *size), 7) for size in SQUARE]
    masks = [torch.arange(h * w).view(h, w) % 4 > 0 for h, w in SQUARE]
    masks[2] = torch.arange(9).view(3, 3) == 8
    run(in_passes(model).with_column(keep="given"), model, given=GivenTokens(tokens, masks))
    assert not any(bool(left[:, masks[k].flatten()].any()) for k, left in masked)
    assert [int(left.sum()) for _, left in masked] == [3 * n for n in (1, 7, 4, 4, 4)]


def test_masked_tokens_are_hidden_from_a_pass_where_a_model_says_so() -> None:
    """By default traces of them reach their neighbours, as published."""
    tokenizer, schedule = tiny_tokenizer(), SQUARE
    drawn = torch.arange(9).view(1, 3, 3)
    other = drawn.clone()
    other[0, 1, 1] = 40
    masked = (torch.arange(9) == 4)[None]
    seen, changed = (tokenizer.own_input(one, 2, schedule) for one in (drawn, other))
    assert bool(((seen - changed).abs().amax(1) > 0).all())  # phi carries it to all eight neighbours
    hidden, same_hidden = (tokenizer.own_input(one, 2, schedule, masked) for one in (drawn, other))
    assert torch.equal(hidden, same_hidden)
    for hides in (False, True):
        model, told = free_model(), list[Any]()
        model.hides_masked = hides
        embed = model.embed

        def watched(*given: Any, embed: Any = embed, told: Any = told) -> Tensor:
            told.extend((given[1], one) for one in given[4:] if one is not None)
            return embed(*given)

        model.embed = watched  # type: ignore[method-assign,assignment]
        run(in_passes(model), model, tokenizer=tokenizer)
        k, again = told[0]
        expected = tokenizer.own_input(again.tokens, k, SQUARE, again.masked if hides else None)
        assert torch.equal(again.inputs, expected)


def test_the_last_pass_computes_nothing_for_another_one() -> None:
    model, tokenizer = free_model(), tiny_tokenizer()
    accumulate, count = tokenizer.accumulate, [0]

    def counting(*given: Any) -> Any:
        count[0] += 1
        return accumulate(*given)

    tokenizer.accumulate = counting  # type: ignore[method-assign,assignment]
    plan = in_passes(model)
    run(plan, model, tokenizer=tokenizer)
    assert count[0] == sum(len(row.passes or ()) for row in plan.rows)  # one per scale, one in front of a later pass


def test_the_likeliest_tokens_stay() -> None:
    model = free_model(reads="past")
    plan = in_passes(model)
    first = run(plan.prefix(3).with_column(passes=None), model)[2]
    second = run(replace(plan, rows=(*plan.prefix(2).with_column(passes=None).rows, *plan.rows[2:])), model)[2]
    sure = first.logits.softmax(-1).gather(-1, first.tokens.flatten(1)[..., None])[..., 0]
    best = sure.argsort(1, descending=True)[:, :2]
    assert torch.equal(second.tokens.flatten(1).gather(1, best), first.tokens.flatten(1).gather(1, best))


def test_one_pass_written_out_is_one_pass_and_its_noise_is_not_that_of_another() -> None:
    model = free_model()
    plan = default_plan(model, schedule=SQUARE)
    written = replace(plan, rows=tuple(replace(row, passes=(row.size[0] * row.size[1],)) for row in plan.rows))
    assert same(run(plan, model), run(written, model))
    assert not same(run(plan, model), run(in_passes(model), model))


def test_a_branch_that_weighs_nothing_is_not_run_again_where_nothing_is_kept() -> None:
    counts: dict[str, list[int]] = {"own": [], "past": []}
    for reads, rows in counts.items():
        model = free_model(reads=reads)
        head = model.head

        def watched(hidden: Tensor, condition: Any, number: int = 0, head: Any = head, rows: Any = rows) -> Tensor:
            rows.append(len(hidden))
            return head(hidden, condition, number)

        model.head = watched  # type: ignore[method-assign]
        plan = in_passes(model)
        later = tuple(
            replace(row, again_guidance=(1.0, 0.0)) if len(row.passes or ()) > 1 else row for row in plan.rows
        )
        run(replace(plan, rows=later), model)
    assert counts["own"] == [6, 6, 3, 6, 3, 3, 6, 3, 3]
    assert counts["past"] == [6] * 9


def test_passes_are_refused_where_a_model_has_one(model: NextScaleModel) -> None:
    if model.has_passes:
        return
    plan = default_plan(model)
    rows = tuple(replace(row, passes=(1, 3)) if k == 1 else row for k, row in enumerate(plan.rows))
    with pytest.raises(PlanError, match="row 1 has 2 passes, but 'model' draws a scale in one"):
        run(replace(plan, rows=rows), model)


# Inside the stack, and canvases


def test_branches_mixed_inside_the_stack_give_one_picture_of_logits(model: NextScaleModel) -> None:
    plan = default_plan(model, guidance_scale=3.0)
    inside = run(plan.with_column(guidance_block=len(model.blocks) - 2), model)
    assert all(event.branch_logits.shape == event.logits.shape for event in inside)
    assert not same(inside, run(plan, model))
    last = [e.logits for e in run(plan.with_column(guidance_block=0, guidance=(1.0, 0.0)), model)]
    plain = [e.logits for e in run(plan.with_column(guidance=(1.0, 0.0)), model)]
    torch.testing.assert_close(last[0], plain[0], atol=1e-4, rtol=1e-4)  # the mixture is the first branch
    parts = {"tokenizer": tokenizer_of(model), "model": model}
    assert price(plan.with_column(guidance_block=0), parts).flops < price(plan, parts).flops
    with pytest.raises(PlanError, match="mixes after block 9, but 'model' has blocks 0 to"):
        run(plan.with_column(guidance_block=9), model)


def test_given_canvases_are_mixed_in_after_every_scale(model: NextScaleModel) -> None:
    other, plan = run(default_plan(model), model, noise=IndependentNoise([5, 6, 7])), default_plan(model)
    latents = [event.canvas.latent for event in other]
    left = torch.zeros(4, 4)
    left[:, :2] = 1
    kept = run(plan.with_column(keep="given"), model, given=GivenCanvases(latents, left))
    for event, latent in zip(kept, latents, strict=True):
        half = latent.shape[-1] // 2  # a canvas may be the last map
        assert torch.equal(event.canvas.latent[..., :half], latent[..., :half])
        assert not torch.equal(event.canvas.latent[..., half:], latent[..., half:])
    nothing = run(plan.with_column(keep="given"), model, given=GivenCanvases(latents, left * 0))
    assert same(nothing, run(plan, model))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda latents, mask: (latents[:1], mask), "row 1 keeps given canvases, but only 1 of them were given"),
        (
            lambda latents, mask: ([x[:1] for x in latents], mask),
            "row 0 is .1, 8, 4, 4.; expected a tensor of 3 images",
        ),
        (lambda latents, mask: ([x[..., :2] for x in latents], mask), r"is \(3, 8, 4, 2\); expected \(3, 8, 4, 4\)"),
        (lambda latents, mask: ([x / 0 for x in latents], mask), "row 0 holds NaN, or is not finite"),
        (
            lambda latents, mask: (latents, None),
            "mask of given canvases is None; expected a tensor of numbers from 0 to 1",
        ),
        (lambda latents, mask: (latents, mask + 1), "mask of given canvases is tensor.*; expected a tensor of numbers"),
        (lambda latents, mask: (latents, mask.to(torch.complex64)), "mask of given canvases is tensor.*; expected a"),
        (
            lambda latents, mask: (latents, mask[:0]),
            r"mask of given canvases has the shape \(0, 4\); expected \(H, W\)",
        ),
        (lambda latents, mask: (latents, mask[0]), r"has the shape \(4,\); expected \(H, W\) or \(3, H, W\)"),
        (lambda latents, mask: (latents, mask.expand(2, 4, 4)), r"has the shape \(2, 4, 4\); expected \(H, W\) or"),
    ],
)
def test_canvases_that_cannot_be_given_are_refused(change: Any, sentence: str) -> None:
    model = tiny_var()
    given = GivenCanvases(*change([torch.rand(3, CODE_DIM, 4, 4) for _ in SQUARE], torch.rand(4, 4)))
    with pytest.raises(PlanError, match=sentence):
        run(default_plan(model).with_column(keep="given"), model, given=given)


def test_canvases_that_are_the_last_map_are_mixed_at_its_size() -> None:
    model, tokenizer = bits(), bit_tokenizer(LastMapTokenizer())
    plan = default_plan(model, schedule=FREE)
    latents, left = [torch.zeros(3, CODE_DIM, *size) for size in FREE], torch.zeros(4, 4)
    left[:, :2] = 1
    events = run(plan.with_column(keep="given"), model, tokenizer=tokenizer, given=GivenCanvases(latents, left))
    assert [tuple(event.canvas.latent.shape[2:]) for event in events] == list(FREE)
    assert bool((events[1].canvas.latent[..., :1] == 0).all())
    assert bool((events[1].canvas.latent[..., 1:] != 0).all())


# Depth


def live_bytes(plan: Plan, model: NextScaleModel) -> list[int]:
    """Of the memory after every scale."""
    held: list[int] = []
    run(plan, model, callback=lambda event: held.append(event.memory.live_bytes))
    return held


def test_blocks_that_stopped_cost_nothing_any_more(model: NextScaleModel) -> None:
    depth = len(model.blocks)
    plan = default_plan(model, guidance_scale=2.0)
    rows = tuple(replace(row, blocks=(depth - 1,)) if k >= 2 else row for k, row in enumerate(plan.rows))
    parts = {"tokenizer": tokenizer_of(model), "model": model}
    shallow, whole = replace(plan, rows=rows), plan
    priced, live = price(shallow, parts, 3), []
    for event in generate(shallow, parts, features_of(model, 3), IndependentNoise([1, 2, 3])):
        live.append((event.memory.live_bytes, event.memory.allocated_bytes))
    assert [line.memory for line in priced.lines[1:-1]] == [held for held, _ in live]
    assert priced.flops < price(whole, parts, 3).flops
    full = live_bytes(whole, model)
    assert full[0] <= live[1][0] <= full[1]  # what no later scale reads of a block is not stored
    assert live[2][0] == full[2] // depth
    assert live[2][1] < live[1][1] or not remembers(model)
    assert live_bytes(whole.with_column(blocks=(0,)), model) == [held // depth for held in full]
    with pytest.raises(PlanError, match=r"blocks has .*, which did not run at the scale before"):
        replace(shallow, rows=(*rows[:3], plan.rows[3]))
