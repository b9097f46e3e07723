"""Laws of what models may say beside VAR: free schedules, bits, prefixes, blocks per scale, wrapped slots, branches
that are mixed inside the stack. Every law has a case in which it must fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.conditions.base import Branches, Features
from nextscale.conditions.classes import class_features
from nextscale.guidance import mix
from nextscale.memory.base import MemoryPlan
from nextscale.memory.make import look_ahead, make_memory
from nextscale.models.base import Blocks, Condition, Mix, NextScaleModel
from nextscale.plan import Plan
from nextscale.row import Row
from nextscale.scales import ScaleSchedule
from tests.makers import BOTH, CODE_DIM, FREE_CLASS_MODELS, MODELS, TEXT_MODELS, branches_of, features_of
from tests.toys import Pinned, PlacedModel, Pooled, Reference, free_model

FREE = {
    "own scale": lambda: free_model(),
    "past": lambda: free_model(reads="past"),
    "bits": lambda: free_model(reads="past", draws=CODE_DIM, choices=2),
    "prefix": lambda: free_model(reads="past", prefix=3),
    "prefix with the first scale": lambda: free_model(reads="past", prefix=3, with_first=True),
    "positions": lambda: free_model(kind=PlacedModel, reads="past", prefix=3),
    "positions with the first scale": lambda: free_model(kind=PlacedModel, prefix=2, with_first=True),
}
ANY = FREE | FREE_CLASS_MODELS | TEXT_MODELS
"""Models of any schedule."""
ALL = MODELS | FREE
FEATURES = class_features(torch.tensor([1, 3]))
SCHEDULES = ["1 2 3 4", "2x1 2x3 5", "1 1 1 1 1 1", "1 2 4 8 9"]


def schedule_of(text: str) -> ScaleSchedule:
    pairs = (side.split("x") if "x" in side else (side, side) for side in text.split())
    return ScaleSchedule(tuple((int(h), int(w)) for h, w in pairs))


def some_inputs(schedule: ScaleSchedule, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn((images, CODE_DIM, h, w), generator=generator) for h, w in schedule.sizes[1:]]


def stepwise(
    model: NextScaleModel,
    condition: Condition,
    inputs: Sequence[Tensor],
    schedule: ScaleSchedule,
    blocks: Sequence[Blocks] | None = None,
    mixed: Mix | None = None,
    prefill: bool = True,
) -> Tensor:
    """Logits (R, L, ...) scale by scale, with the memory that the model names."""
    runs = [None] * len(schedule) if blocks is None else blocks
    rows = tuple(
        Row(size=size, blocks=None if run is None else tuple(run)) for size, run in zip(schedule, runs, strict=True)
    )
    plan = Plan(rows, memories={"model": MemoryPlan(model.memory)})
    outlook = look_ahead(plan.memories["model"], plan.course(0, model))
    memory = make_memory(plan.memories["model"], outlook, condition.rows, torch.float32, torch.device("cpu"))
    if prefill:
        model.prefill(condition, memory, runs[0])
    logits = []
    for k, inputs_k in enumerate([None, *inputs]):
        memory.begin_scale(k, runs[k])
        hidden = model.step(inputs_k, k, condition, memory, runs[k], mix=mixed)
        memory.end_scale(k)
        assert memory.live_bytes == outlook.bytes(k, condition.rows, 4)
        logits.append(model.head(hidden, condition))
    return torch.cat(logits, 1)


def repeated(inputs: Sequence[Tensor], branches: Branches) -> list[Tensor]:
    return [x.repeat(len(branches), 1, 1, 1) for x in inputs]


@pytest.mark.parametrize("sizes", SCHEDULES)
@pytest.mark.parametrize("name", ANY)
def test_stepping_equals_teacher_forcing_on_any_schedule(name: str, sizes: str) -> None:
    model, schedule = ANY[name](), schedule_of(sizes)
    inputs, branches = some_inputs(schedule), (*branches_of(model), model.sources)
    condition = model.condition(features_of(model), branches, schedule)
    whole = model(repeated(inputs, branches), condition, schedule)
    torch.testing.assert_close(stepwise(model, condition, inputs, schedule), whole, atol=1e-4, rtol=1e-4)
    assert (whole[:2] - whole[2:4]).abs().max() > 1e-2
    torch.testing.assert_close(whole[:2], whole[4:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_teacher_forcing_may_stop_before_the_schedule_does(name: str) -> None:
    """Places are those of the whole schedule, however many of its scales stand in the sequence."""
    model, schedule = ALL[name](), schedule_of("1 2 3 4")
    inputs, condition = some_inputs(schedule), model.condition(features_of(model))
    whole = model(inputs, condition, schedule)
    torch.testing.assert_close(model(inputs[:2], condition, schedule), whole[:, :14], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["prefix"])
def test_entries_of_a_prefix_stay_and_are_seen_by_all_scales(name: str) -> None:
    model, schedule = FREE[name](), schedule_of("1 2 3 4")
    inputs, condition = some_inputs(schedule), model.condition(features_of(model))
    assert condition.prefix is not None
    other = replace(condition, prefix=replace(condition.prefix, vectors=condition.prefix.vectors + 1))
    moved = (model(inputs, other) - model(inputs, condition)).abs().amax((0, 2))
    assert moved.min() > 1e-4
    with pytest.raises(AssertionError, match="ended after"):  # a prefix that was forgotten is noticed
        stepwise(model, condition, inputs, schedule, prefill=False)


@pytest.mark.parametrize("name", ALL)
def test_blocks_per_scale_equal_teacher_forcing_of_mixed_depth(name: str) -> None:
    model, schedule = ALL[name](), schedule_of("1 2 3 4")
    depth, inputs = len(model.blocks), some_inputs(schedule)
    every = tuple(range(depth))
    blocks: list[Blocks] = [every, every, every[1:], every[1:] if depth == 2 else (2,)]
    condition = model.condition(features_of(model), branches_of(model))
    whole = model(repeated(inputs, branches_of(model)), condition, blocks=blocks)
    torch.testing.assert_close(stepwise(model, condition, inputs, schedule, blocks), whole, atol=1e-4, rtol=1e-4)
    full = model(repeated(inputs, branches_of(model)), condition)
    early = schedule.offsets[2]
    torch.testing.assert_close(whole[:, :early], full[:, :early], atol=1e-5, rtol=1e-5)
    assert (whole[:, early:] - full[:, early:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ANY)
def test_what_comes_first_runs_through_the_blocks_of_the_first_scale(name: str) -> None:
    model, schedule = ANY[name](), schedule_of("1 2 3 4")
    inputs, condition, blocks = (
        some_inputs(schedule),
        model.condition(features_of(model), branches_of(model)),
        [(0, 2)] * 4,
    )
    whole = model(repeated(inputs, branches_of(model)), condition, blocks=blocks)
    torch.testing.assert_close(stepwise(model, condition, inputs, schedule, blocks), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_branches_mixed_inside_the_stack_go_on_with_the_mixture(name: str) -> None:
    """After the block the rows of all branches are w x_0 + (1 - w) x_1; what follows is computed by hand."""
    model, schedule = ALL[name](), schedule_of("1 2 3 4").prefix(1)
    condition, weights = model.condition(features_of(model), branches_of(model)), (2.0, -1.0)
    last = len(model.blocks) - 1

    def by_hand(after: int) -> Tensor:
        rows = tuple(Row(size=size) for size in schedule)
        plan = Plan(rows, memories={"model": MemoryPlan(model.memory)})
        outlook = look_ahead(plan.memories["model"], plan.course(0, model))
        memory = make_memory(plan.memories["model"], outlook, 4, torch.float32, torch.device("cpu"))
        model.prefill(condition, memory)
        memory.begin_scale(0)
        first, rest = range(after + 1), range(after + 1, last + 1)
        x = model.embed(None, 0, condition, schedule)
        if condition.prefix is not None and condition.prefix.with_first:
            x = torch.cat([condition.prefix.vectors, x], 1)
        x = model.run(x, 0, condition, memory, first)
        x = model.run(mix(x, weights).repeat(2, 1, 1), 0, condition, memory, rest)
        return model.head(x[:, -1:], condition)

    found = stepwise(model, condition, [], schedule, mixed=(0, weights))
    torch.testing.assert_close(found, by_hand(0), atol=1e-5, rtol=1e-5)
    assert (found - stepwise(model, condition, [], schedule, mixed=(last, weights))).abs().max() > 1e-4


def wrapped(model: NextScaleModel, condition: Condition, w0: float) -> Condition:
    """The condition with an adapter around the attention of every block."""
    generator = torch.Generator().manual_seed(2)
    wrappers: list[Any] = []
    for spec in model.slots:
        shape = (condition.rows, spec.heads, 5, spec.width)
        keys, values = (torch.randn(shape, generator=generator) for _ in range(2))
        wrappers.append(None if spec.reads == "state" else Reference(keys, values, w0))
    return replace(condition, slots=tuple(wrappers))


@pytest.mark.parametrize("name", ALL)
def test_a_wrapped_slot_that_adds_nothing_is_the_base_to_the_bit(name: str) -> None:
    model, schedule = ALL[name](), schedule_of("1 2 3 4")
    inputs, condition = some_inputs(schedule), model.condition(features_of(model), branches_of(model))
    for forward in (
        lambda given: model(repeated(inputs, branches_of(model)), given),
        lambda given: stepwise(model, given, inputs, schedule),
    ):
        base = forward(condition)
        assert torch.equal(forward(wrapped(model, condition, 0.0)), base)
        assert (forward(wrapped(model, condition, 0.5)) - base).abs().max() > 1e-3


@pytest.mark.parametrize("name", ALL)
def test_wrapped_slots_step_as_they_are_taught_and_follow_the_rows(name: str) -> None:
    model, schedule = ALL[name](), schedule_of("1 2 3 4")
    inputs, condition = some_inputs(schedule), wrapped(model, model.condition(features_of(model)), 0.5)
    whole = model(inputs, condition)
    torch.testing.assert_close(stepwise(model, condition, inputs, schedule), whole, atol=1e-4, rtol=1e-4)
    rows = torch.tensor([1, 0, 1])
    moved = model([x[rows] for x in inputs], condition.select(rows))
    torch.testing.assert_close(moved, whole[rows], atol=1e-5, rtol=1e-5)
    unmoved = replace(condition.select(rows[:2]), slots=condition.slots)
    assert (model([x[rows[:2]] for x in inputs], unmoved) - whole[rows[:2]]).abs().max() > 1e-3


def pinned(model: NextScaleModel, condition: Condition) -> Condition:
    """The condition with one pair more, from scale 2 on, in the first block."""
    generator, spec = torch.Generator().manual_seed(2), model.slots[0]
    keys, values = (torch.randn((condition.rows, spec.heads, 1, spec.width), generator=generator) for _ in range(2))
    ahead = 0 if condition.prefix is None else condition.prefix.vectors.shape[1]
    return replace(condition, slots=(Pinned(keys, values, 2, ahead), *(None for _ in model.slots[1:])))


def pooled(model: NextScaleModel, condition: Condition) -> Condition:
    """The condition with a prefix that the first block sees the mean of."""
    assert condition.prefix is not None
    return replace(condition, slots=(Pooled(condition.prefix.vectors.shape[1]), *(None for _ in model.slots[1:])))


@pytest.mark.parametrize(
    ("name", "around"),
    [*((name, pinned) for name in ALL), ("prefix", pooled)],
)
def test_a_slot_may_change_what_the_one_inside_it_sees(name: str, around: Any) -> None:
    model, schedule = ALL[name](), schedule_of("1 2 3 4")
    inputs, plain = some_inputs(schedule), model.condition(features_of(model), branches_of(model))
    condition = around(model, plain)
    whole = model(repeated(inputs, branches_of(model)), condition)
    torch.testing.assert_close(stepwise(model, condition, inputs, schedule), whole, atol=1e-4, rtol=1e-4)
    changed = (whole - model(repeated(inputs, branches_of(model)), plain)).abs().amax((0, 2))
    first = schedule.offsets[2] if around is pinned else 0
    assert changed[first:].min() > 1e-3
    assert first == 0 or changed[:first].max() < 1e-4


def test_a_mixture_of_classes_lies_between_them_and_a_class_alone_is_itself() -> None:
    model = MODELS["var"]()
    ids, weights = torch.tensor([[1, 3], [1, 3]]), torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    vector = model.condition(class_features(ids, weights), BOTH).vector
    alone = model.condition(FEATURES, BOTH).vector
    assert vector is not None
    assert alone is not None
    torch.testing.assert_close(vector[0], alone[0])
    torch.testing.assert_close(vector[1], alone[:2].mean(0))
    torch.testing.assert_close(vector[2:], alone[2:])


def test_what_an_image_has_nothing_of_is_the_null_of_the_model() -> None:
    model = MODELS["m-var"]()
    dropped = model.condition(FEATURES.drop("class", torch.tensor([False, True])), BOTH).vector
    kept = model.condition(FEATURES, BOTH).vector
    assert dropped is not None
    assert kept is not None
    assert torch.equal(dropped[0], kept[0])
    assert torch.equal(dropped[1], kept[3])
    nobody = model.condition(FEATURES, ((),)).vector
    assert nobody is not None
    assert torch.equal(nobody, kept[2:])


def test_every_branch_sees_its_own_class() -> None:
    model, labels = MODELS["var"](), torch.tensor([1, 3])
    sources = {"class": FEATURES.sources["class"], "other": class_features(labels.flip(0)).sources["class"]}
    vector = model.condition(Features(2, sources), (("class",), ("other",), ())).vector
    assert vector is not None
    assert torch.equal(vector[:2].flip(0), vector[2:4])
    assert not torch.equal(vector[:2], vector[2:4])
