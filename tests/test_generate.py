"""The loop: noise, populations, given tokens, changing the model mid-way, and what it refuses before it starts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.conditions.classes import class_features
from nextscale.errors import InputError, PlanError
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.memory.base import MemoryPlan
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan, default_plan
from nextscale.row import Row
from nextscale.sampling import IndependentNoise, OfficialNoise
from nextscale.state import Keep, ScaleEvent
from nextscale.tokenizers.base import Canvas
from tests.makers import BOTH, CLASS_MODELS, CLASSES, CODE_DIM, tiny_tokenizer, tiny_var
from tests.toys import free_model

TOKENIZER = tiny_tokenizer()
LABELS = torch.tensor([0, 3, 2])


@pytest.fixture(params=CLASS_MODELS)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return CLASS_MODELS[request.param]()


def run(
    plan: Plan, model: Any, labels: torch.Tensor = LABELS, seeds: list[int] | None = None, **more: Any
) -> list[ScaleEvent]:
    noise = more.pop("noise", None) or IndependentNoise(seeds or [int(x) + 10 for x in range(len(labels))])
    callback = more.pop("callback", None)
    parts = {"tokenizer": TOKENIZER, "model": model} | more
    return list(generate(plan, parts, class_features(labels), noise, callback))


def same_tokens(a: list[ScaleEvent], b: list[ScaleEvent], rows: slice = slice(None)) -> bool:
    return all(torch.equal(x.tokens[rows], y.tokens) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("smooth", [False, True])
def test_an_image_does_not_depend_on_its_batch(model: NextScaleModel, smooth: bool) -> None:
    plan = default_plan(model, guidance_scale=2.0, top_k=20, smooth=smooth)
    together = run(plan, model)
    alone = run(plan, model, LABELS[1:2], [11])
    assert same_tokens(together, alone, slice(1, 2))
    torch.testing.assert_close(together[-1].canvas.latent[1:2], alone[-1].canvas.latent, atol=1e-4, rtol=1e-4)


def test_seeds_change_the_picture_and_greedy_sampling_ignores_them(model: NextScaleModel) -> None:
    plan, greedy = default_plan(model), default_plan(model, top_k=1)
    assert not same_tokens(run(plan, model, seeds=[1, 2, 3]), run(plan, model, seeds=[4, 5, 6]))
    assert same_tokens(run(greedy, model, seeds=[1, 2, 3]), run(greedy, model, seeds=[4, 5, 6]))


def test_guidance_does_not_touch_the_first_scale_and_is_irrelevant_for_the_null_class(model: NextScaleModel) -> None:
    weak, strong = default_plan(model, guidance_scale=1.5), default_plan(model, guidance_scale=6.0)
    assert torch.equal(run(weak, model)[0].tokens, run(strong, model)[0].tokens)
    assert not same_tokens(run(weak, model), run(strong, model))
    null = torch.full((3,), CLASSES)
    assert same_tokens(run(weak, model, null), run(strong, model, null))


def test_one_branch_equals_two_with_guidance_off(model: NextScaleModel) -> None:
    one = default_plan(model)
    assert same_tokens(run(one, model), run(guided(one), model))


def test_smooth_sampling_with_one_token_left_is_hard_sampling(model: NextScaleModel) -> None:
    hard, smooth = default_plan(model, top_k=1), default_plan(model, top_k=1, smooth=True)
    a, b = run(hard, model), run(smooth, model)
    assert same_tokens(a, b)
    torch.testing.assert_close(a[-1].canvas.latent, b[-1].canvas.latent, atol=1e-5, rtol=1e-5)


def test_official_noise_is_one_stream_for_the_batch(model: NextScaleModel) -> None:
    plan = default_plan(model)
    first = run(plan, model, noise=OfficialNoise(torch.Generator().manual_seed(5)))
    again = run(plan, model, noise=OfficialNoise(torch.Generator().manual_seed(5)))
    assert same_tokens(first, again)


def handed(plan: Plan, rows: tuple[Row, ...], model: NextScaleModel) -> Plan:
    """Rows of two models, which remember alike."""
    return replace(plan, rows=rows, memories={"model": MemoryPlan(model.memory), "refiner": MemoryPlan(model.memory)})


def test_a_model_that_takes_over_from_itself_changes_nothing(model: NextScaleModel) -> None:
    plan = default_plan(model, guidance_scale=2.0)
    for k in range(1, 4):
        rows = tuple(replace(row, model="refiner") if j >= k else row for j, row in enumerate(plan.rows))
        handed_over = run(handed(plan, rows, model), model, refiner=model)
        assert same_tokens(run(plan, model), handed_over)


def test_another_model_takes_over_with_the_first_ones_tokens() -> None:
    plan, first, second = default_plan(tiny_var()), tiny_var(), tiny_var(seed=9)
    rows = tuple(replace(row, model="refiner") if j >= 2 else row for j, row in enumerate(plan.rows))
    mixed = run(handed(plan, rows, first), first, refiner=second)
    only_first, only_second = run(plan, first), run(plan, second)
    assert same_tokens(mixed[:2], only_first[:2])
    assert not same_tokens(mixed[2:], only_first[2:])
    assert not same_tokens(mixed[2:], only_second[2:])


def guided(plan: Plan) -> Plan:
    """Two branches, of which the second weighs nothing."""
    rows = tuple(replace(row, guidance=(1.0, 0.0)) for row in plan.rows)
    return replace(plan, rows=rows, branches=BOTH)


def given_tokens(keep: bool) -> GivenTokens:
    torch.manual_seed(4)
    tokens = TOKENIZER.encode(TOKENIZER.latent(torch.rand(3, 3, 16, 16))).tokens
    return GivenTokens(tokens, [torch.full(size, keep) for size in TOKENIZER.schedule])


def test_keeping_every_token_is_reconstruction(model: NextScaleModel) -> None:
    given = given_tokens(True)
    events = run(default_plan(model, smooth=True).with_column(keep="source"), model, source=given)
    assert all(torch.equal(e.tokens, t) for e, t in zip(events, given.tokens, strict=True))
    torch.testing.assert_close(
        events[-1].canvas.latent, TOKENIZER.follow(given.tokens).canvas.latent, atol=1e-6, rtol=1e-6
    )


def test_keeping_no_token_is_plain_generation(model: NextScaleModel) -> None:
    plan = default_plan(model)
    assert same_tokens(run(plan, model), run(plan.with_column(keep="source"), model, source=given_tokens(False)))


def test_kept_tokens_consume_their_noise(model: NextScaleModel) -> None:
    """Keeping the first scale as it was drawn changes nothing later, even with one stream of noise."""
    plan = default_plan(model)
    plain = run(plan, model, noise=OfficialNoise(torch.Generator().manual_seed(5)))
    given = GivenTokens([plain[0].tokens], [torch.ones(1, 1, dtype=torch.bool)])
    rows = (replace(plan.rows[0], keep="source"), *plan.rows[1:])
    kept = run(replace(plan, rows=rows), model, source=given, noise=OfficialNoise(torch.Generator().manual_seed(5)))
    assert same_tokens(plain, kept)


def test_a_prefix_draws_the_same_first_scales_on_the_full_grid(model: NextScaleModel) -> None:
    plan = default_plan(model, guidance_scale=2.0)
    events = run(plan.prefix(2), model)
    assert len(events) == 2
    assert events[-1].canvas.latent.shape[-2:] == (4, 4)
    assert same_tokens(run(plan, model)[:2], events)


def test_blocks_choose_the_depth() -> None:
    model = tiny_var()
    plan = default_plan(model)
    assert same_tokens(run(plan, model), run(plan.with_column(blocks=(0, 1, 2)), model))
    assert not same_tokens(run(plan, model), run(plan.with_column(blocks=(0, 2)), model))


def test_a_callback_may_stop(model: NextScaleModel) -> None:
    assert len(run(default_plan(model), model, callback=lambda event: event.k < 1)) == 2


def test_a_callback_that_answers_something_else_is_refused(model: NextScaleModel) -> None:
    plan = default_plan(model)
    with pytest.raises(InputError, match="returned a Tensor; expected a Canvas"):
        run(plan, model, callback=lambda event: event.canvas.latent)
    with pytest.raises(InputError, match=r"a canvas of shape \(1, .* expected \(3, "):
        run(plan, model, callback=lambda event: event.canvas.select(torch.tensor([0])))
    kept: list[Canvas] = []

    def stale(event: ScaleEvent) -> Canvas:
        kept.append(event.canvas)
        return kept[0]

    with pytest.raises(InputError, match=r"after 1 scales of 4; expected .* after 2 of 4"):
        run(plan, model, callback=stale)
    run(plan, model, callback=lambda event: True)  # as progress bars answer


def test_a_callback_may_change_the_canvas(model: NextScaleModel) -> None:
    def blank(event: ScaleEvent) -> Canvas | None:
        return replace(event.canvas, latent=event.canvas.latent * 0) if event.k == 0 else None

    plan = default_plan(model, top_k=1)
    plain, changed = run(plan, model), run(plan, model, callback=blank)
    assert torch.equal(plain[0].tokens, changed[0].tokens)
    assert not torch.equal(plain[-1].canvas.latent, changed[-1].canvas.latent)


def test_images_can_be_dropped_repeated_and_reordered_between_scales(model: NextScaleModel) -> None:
    """What goes on mid-way gives what drawing those images alone would give."""
    plan, rows = default_plan(model, guidance_scale=2.0, top_k=1), [2, 0, 0]
    kept = run(plan, model, seeds=[1, 2, 3], callback=lambda event: Keep(rows) if event.k == 1 else None)
    direct = run(plan, model, LABELS[rows], [3, 1, 1])
    assert same_tokens(kept[1:], direct[1:])
    assert all(torch.equal(a, b) for a, b in zip(kept[-1].history, direct[-1].history, strict=True))
    torch.testing.assert_close(kept[-1].canvas.latent, direct[-1].canvas.latent, atol=1e-4, rtol=1e-4)
    assert kept[-1].lineage.ids == (2, 0, 3)
    assert kept[-1].lineage.parents == (None, None, 0)


@pytest.mark.parametrize("rows", [[], [3], [-1], ["0"], None, [0.5]])
def test_images_that_are_not_there_cannot_be_kept(rows: Any) -> None:
    with pytest.raises(InputError, match=r"Keep\(.*\); expected numbers of images from 0 to 2"):
        run(default_plan(tiny_var()), tiny_var(), callback=lambda event: Keep(rows))


def test_what_cannot_be_done_is_refused_before_it_starts() -> None:
    model = tiny_var()
    plan = default_plan(model)
    with pytest.raises(InputError, match="0 images were asked for"):
        list(generate(plan, {"tokenizer": TOKENIZER, "model": model}, class_features(LABELS[:0]), IndependentNoise([])))
    with pytest.raises(PlanError, match="a part named 'refiner', but the parts are model, tokenizer"):
        run(plan.with_column(model="refiner"), model)
    with pytest.raises(PlanError, match="runs block 7, but 'model' has blocks 0 to 2"):
        run(plan.with_column(blocks=(0, 7)), model)
    with pytest.raises(PlanError, match=r"shape \(3, 1, 1\); expected \(2, 1, 1\)"):
        run(plan.with_column(keep="source"), model, LABELS[:2], source=given_tokens(True))
    with pytest.raises(PlanError, match="sees 'text', but the sources of this call are: class"):
        run(replace(plan, branches=(("text",),)), model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_canvas_that_is_not_finite_is_refused_with_its_scale(value: float) -> None:
    model = tiny_var()
    plan = default_plan(model)

    def spoilt(event: ScaleEvent) -> Canvas | None:
        return replace(event.canvas, latent=event.canvas.latent + value) if event.k == 1 else None

    def spoil(event: ScaleEvent) -> None:
        if event.k == 1:
            event.canvas.latent[0, 0, 0, 0] = value

    for callback in (spoilt, spoil):
        with pytest.raises(InputError, match="the canvas of scale 1 holds NaN, or is not finite"):
            run(plan, model, callback=callback)


@pytest.mark.parametrize(
    "latent",
    [
        lambda latent: latent.double(),
        lambda latent: latent.long(),
        lambda latent: latent.to_sparse(),
        lambda latent: latent.to("meta"),
        lambda latent: 3,
    ],
)
def test_a_canvas_of_other_numbers_is_refused(latent: Any) -> None:
    model = tiny_var()
    with pytest.raises(InputError, match=r"returned a canvas of .*; expected torch.float32 on cpu, as it was given"):
        run(
            default_plan(model),
            model,
            callback=lambda event: replace(event.canvas, latent=latent(event.canvas.latent)),
        )


def test_a_canvas_changed_at_the_last_scale_is_the_last_canvas() -> None:
    model = tiny_var()
    events = run(
        default_plan(model), model, callback=lambda event: replace(event.canvas, latent=event.canvas.latent * 0)
    )
    assert float(events[-1].canvas.latent.abs().max()) == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda tokens: tokens.float(), "row 0 is given the tokens tensor.*; expected a tensor of torch.int64"),
        (lambda tokens: tokens.numpy(), "expected a tensor of torch.int64"),
        (lambda tokens: None, "row 0 is given the tokens None"),
        (lambda tokens: tokens + 10_000, "the given tokens of row 0 go from .*; expected 0 to"),
        (lambda tokens: tokens - 10_000, "the given tokens of row 0 go from -"),
        (lambda tokens: tokens[:, :0], "have the shape"),
    ],
)
def test_given_tokens_are_looked_at_before_anything_runs(change: Callable[[Tensor], Any], sentence: str) -> None:
    model = tiny_var()
    tokens = [torch.zeros(3, *size, dtype=torch.int64) for size in TOKENIZER.schedule]
    masks = [torch.ones(size, dtype=torch.bool) for size in TOKENIZER.schedule]
    for given, what in (
        (GivenTokens([change(one) for one in tokens], masks), sentence),
        (GivenTokens(tokens, [one.int() for one in masks]), "row 0 is given the mask tensor"),
        (GivenTokens(tokens, [one[None].expand(2, *one.shape) for one in masks]), "the mask of row 0 has the shape"),
        (
            GivenTokens(tokens, [one.flatten() for one in masks]),
            r"has the shape \(1,\); expected \(1, 1\) or \(3, 1, 1",
        ),
        (GivenTokens(None, None), "only 0 maps of them were given"),  # type: ignore[arg-type]
    ):
        with pytest.raises(PlanError, match=what):
            run(default_plan(model).with_column(keep="given"), model, given=given)


def test_parts_of_the_wrong_kind_are_refused_before_anything_runs() -> None:
    model = tiny_var()
    for tokenizer in (None, torch.nn.Linear(1, 1)):
        with pytest.raises(PlanError, match=r"the part 'tokenizer' is .*; expected a tokenizer"):
            run(default_plan(model), model, tokenizer=tokenizer)
    with pytest.raises(PlanError, match="the part 'refiner'; expected a model, not int"):
        run(default_plan(model).with_column(model="refiner"), model, refiner=3)
    with pytest.raises(PlanError, match="keeps tokens of the part 'source', which holds none"):
        run(default_plan(model).with_column(keep="source"), model, source=[])
    culled = default_plan(model).with_column(population=1, cull="best")
    for cull in (3, lambda event: [0], lambda event, n: [0]):
        with pytest.raises(PlanError, match=r"culls by the part 'best'; expected a function \(event, n, noise\)"):
            run(culled, model, best=cull)


def test_a_model_of_other_tokens_is_refused_before_anything_runs() -> None:
    plan = default_plan(free_model(draws=CODE_DIM, choices=2))
    with pytest.raises(PlanError, match="the tokenizer has draws 1, but 'model' was made for 8"):
        run(plan, free_model(draws=CODE_DIM, choices=2))
    with pytest.raises(PlanError, match="the tokenizer has choices 48, but 'model' was made for 2"):
        run(plan, free_model(choices=2))
