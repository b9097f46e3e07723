"""Laws of every next-scale model: teacher forcing and stepping agree, and no scale sees a finer one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from nextscale.conditions.base import Branches
from nextscale.models.base import Again, NextScaleModel
from nextscale.scales import ScaleSchedule
from tests.makers import (
    CLASS_MODELS,
    MODELS,
    branches_of,
    features_of,
    new_memory,
    remembers,
    some_inputs,
    tiny_infinity,
)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return MODELS[request.param]()


def stepwise(
    model: NextScaleModel, inputs: Sequence[Tensor], branches: Branches, remembered: Sequence[Tensor] | None = None
) -> Tensor:
    """Logits (R, L, V) of all scales one after the other; the memory may be fed ``remembered`` instead of
    ``inputs``.
    """
    condition = model.condition(features_of(model), branches)
    memory, logits = new_memory(model, condition.rows), []
    for k, inputs_k in enumerate([None, *inputs]):
        before = memory.snapshot()
        memory.begin_scale(k)
        logits.append(model.head(model.step(inputs_k, k, condition, memory), condition))
        if remembered is not None and k:
            memory.restore(before)
            memory.begin_scale(k)
            model.step(remembered[k - 1], k, condition, memory)
        memory.end_scale(k)
    return torch.cat(logits, 1)


def teacher_forced(model: NextScaleModel, inputs: Sequence[Tensor], branches: Branches | None = None) -> Tensor:
    branches = branches or branches_of(model)[:1]
    return model([x.repeat(len(branches), 1, 1, 1) for x in inputs], model.condition(features_of(model), branches))


def told(model: NextScaleModel) -> list[Again | None]:
    """What a later pass over each of the scales after the first is told of two images."""
    found: list[Again | None] = [None]
    for k, drawn in enumerate(some_inputs(model, seed=4), 1):
        tokens = torch.zeros(2, *model.schedule[k], dtype=torch.long)
        masked = torch.rand(2, model.schedule.lengths[k], generator=torch.Generator().manual_seed(k)) < 0.5
        found.append(Again(tokens, drawn, masked, 1))
    return found


@pytest.mark.parametrize("name", [name for name, make in MODELS.items() if make().has_passes])
def test_a_later_pass_over_a_scale_is_that_over_all_scales(name: str) -> None:
    """And is not the first one: other weights draw."""
    model = MODELS[name]()
    inputs, condition, again = some_inputs(model), model.condition(features_of(model)), told(model)
    whole, memory, first = model(inputs, condition, again=again), new_memory(model, 2), model(inputs, condition)
    for k, inputs_k in enumerate([None, *inputs]):
        memory.begin_scale(k)
        if again[k] is not None:
            logits = model.head(model.step(inputs_k, k, condition, memory, again=again[k]), condition, 1)
            torch.testing.assert_close(logits, whole[:, model.schedule.slice(k)], atol=1e-4, rtol=1e-4)
            assert (logits - first[:, model.schedule.slice(k)]).abs().amax((0, 2)).min() > 1e-3
        memory.end_scale(k)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_stepping_equals_teacher_forcing(model: NextScaleModel, count: int) -> None:
    inputs, branches = some_inputs(model), (*branches_of(model), model.sources)[:count]
    torch.testing.assert_close(
        stepwise(model, inputs, branches), teacher_forced(model, inputs, branches), atol=1e-4, rtol=1e-4
    )


def test_a_memory_of_something_else_shows(model: NextScaleModel) -> None:
    inputs = some_inputs(model)
    remembered = [x * 0 for x in inputs]
    whole, confused = teacher_forced(model, inputs), stepwise(model, inputs, branches_of(model)[:1], remembered)
    second = model.schedule.offsets[2]
    torch.testing.assert_close(confused[:, :second], whole[:, :second], atol=1e-4, rtol=1e-4)
    assert ((confused[:, second:] - whole[:, second:]).abs().max() > 1e-2) == remembers(model)


@pytest.mark.parametrize("changed", [1, 2, 3])
def test_no_scale_sees_a_finer_one(model: NextScaleModel, changed: int) -> None:
    inputs = some_inputs(model)
    other = [x + (1.0 if k + 1 == changed else 0.0) for k, x in enumerate(inputs)]
    difference = (teacher_forced(model, other) - teacher_forced(model, inputs)).abs().amax((0, 2))
    start = model.schedule.offsets[changed]
    assert difference[:start].max() == 0
    assert difference[start : model.schedule.offsets[changed + 1]].min() > 1e-4
    finer = difference[model.schedule.offsets[changed + 1] :]
    assert changed == 3 or (finer.min() > 1e-5 if remembers(model) else finer.max() == 0)


def test_a_token_sees_all_of_its_own_scale(model: NextScaleModel) -> None:
    inputs = some_inputs(model)
    changed = [x.clone() for x in inputs]
    changed[1][:, :, -1, -1] += 1.0
    difference = (teacher_forced(model, changed) - teacher_forced(model, inputs)).abs().amax((0, 2))
    assert difference[model.schedule.slice(2)].min() > 1e-5


def test_branches_are_independent_rows(model: NextScaleModel) -> None:
    inputs = some_inputs(model)
    both = teacher_forced(model, inputs, branches_of(model))
    features = features_of(model).drop(model.sources[0], torch.ones(2, dtype=torch.bool))
    null = model(inputs, model.condition(features))
    torch.testing.assert_close(both[:2], teacher_forced(model, inputs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(both[2:], null, atol=1e-5, rtol=1e-5)
    assert (both[:2] - both[2:]).abs().max() > 1e-2


def test_batch_equals_single(model: NextScaleModel) -> None:
    inputs = some_inputs(model)
    single = model([x[1:] for x in inputs], model.condition(features_of(model).select(torch.tensor([1]))))
    torch.testing.assert_close(teacher_forced(model, inputs)[1:], single, atol=1e-5, rtol=1e-5)


def test_training_mode_changes_nothing_without_drop_path(model: NextScaleModel) -> None:
    inputs = some_inputs(model)
    evaluated = teacher_forced(model, inputs)
    torch.testing.assert_close(teacher_forced(model.train(), inputs), evaluated, atol=0, rtol=0)


def test_gradients_reach_every_parameter(model: NextScaleModel) -> None:
    model.requires_grad_(True)
    loss = teacher_forced(model, some_inputs(model), branches_of(model)).square().mean()
    if model.has_passes:
        loss = loss + model(some_inputs(model), model.condition(features_of(model)), again=told(model)).square().mean()
    loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", CLASS_MODELS)
def test_a_foreign_schedule_is_refused_with_both_schedules(name: str) -> None:
    model = CLASS_MODELS[name]()
    model.check(model.schedule)
    with pytest.raises(ValueError, match="1 2 3 4 and cannot draw the scales 1 2 4"):
        model.check(ScaleSchedule.of([1, 2, 4]))


def test_a_model_of_any_schedule_refuses_more_scales_than_it_knows() -> None:
    model = tiny_infinity()
    for free in ([1, 2, 4], [(1, 1), (2, 3), (7, 9)], [1] * 6):
        model.check(ScaleSchedule.of(free))
    with pytest.raises(ValueError, match="draws at most 6 scales, and 7 were asked for"):
        model.check(ScaleSchedule.of([1] * 7))
