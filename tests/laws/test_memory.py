"""Laws of every memory, over every model: what it holds, what it costs, and going back in time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nextscale.errors import PlanError
from nextscale.layers.slots import PlainQueries
from nextscale.memory.base import Memory, MemoryPlan
from nextscale.memory.make import look_ahead
from nextscale.models.base import Condition, NextScaleModel
from nextscale.plan import default_plan
from tests.makers import MODELS, branches_of, features_of, new_memory, remembers, some_inputs


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return MODELS[request.param]()


def run_scale(model: NextScaleModel, k: int, inputs: list[Tensor], condition: Condition, memory: Memory) -> Tensor:
    memory.begin_scale(k)
    hidden = model.step(None if k == 0 else inputs[k - 1], k, condition, memory)
    memory.end_scale(k)
    return hidden


def passes_overwrite_and_time_goes_back(model: NextScaleModel, make: Callable[[], Memory]) -> None:
    """The law of a memory of four scales that drops entries: a scale seen twice counts once, and a snapshot leads back.
    make: an empty memory.
    """
    inputs, condition = some_inputs(model), model.condition(features_of(model))
    once, twice = make(), make()
    for memory in (once, twice):
        model.prefill(condition, memory)
        run_scale(model, 0, inputs, condition, memory)
    snapshot = once.snapshot()
    hidden = [run_scale(model, k, inputs, condition, once) for k in (1, 2, 3)]
    for k in (1, 2, 3):
        twice.begin_scale(k)
        model.step(inputs[k - 1] + 3, k, condition, twice)
        assert torch.equal(run_scale(model, k, inputs, condition, twice), hidden[k - 1])
    once.restore(snapshot)
    assert torch.equal([run_scale(model, k, inputs, condition, once) for k in (1, 2, 3)][2], hidden[2])
    once.free()
    assert once.live_bytes == once.allocated_bytes == 0


def selected_rows_take_what_they_kept_along(model: NextScaleModel, make: Callable[[], Memory]) -> None:
    """The law of a memory of four scales and two rows that drops entries. make: an empty memory."""
    inputs, condition, rows = some_inputs(model), model.condition(features_of(model)), torch.tensor([1, 1, 0])
    memory, plain = make(), make()
    for one in (memory, plain):
        model.prefill(condition, one)
        for k in range(2):
            run_scale(model, k, inputs, condition, one)
    memory.select(rows)
    assert memory.live_bytes * 2 == plain.live_bytes * 3
    chosen = condition.select(rows)
    for k in (2, 3):
        found = run_scale(model, k, [x[rows] for x in inputs], chosen, memory)
        expected = run_scale(model, k, inputs, condition, plain)[rows]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_live_bytes_are_what_the_plan_predicts_and_what_is_there(model: NextScaleModel) -> None:
    inputs, condition = some_inputs(model), model.condition(features_of(model), branches_of(model))
    memory, plan = new_memory(model, 4), default_plan(model)
    outlook = look_ahead(plan.memories["model"], plan.course(0, model))
    allocated = memory.allocated_bytes
    for k in range(len(model.schedule)):
        run_scale(model, k, inputs, condition, memory)
        assert memory.live_bytes == outlook.bytes(k, 4, 4)
        assert memory.live_bytes <= memory.allocated_bytes == allocated


def test_a_second_pass_overwrites_the_first(model: NextScaleModel) -> None:
    inputs, condition = some_inputs(model), model.condition(features_of(model))
    once, twice = new_memory(model, 2), new_memory(model, 2)
    for k in range(3):
        run_scale(model, k, inputs, condition, once)
        twice.begin_scale(k)
        model.step(None if k == 0 else inputs[k - 1] + 3, k, condition, twice)
        run_scale(model, k, inputs, condition, twice)
    expected = run_scale(model, 3, inputs, condition, once)
    torch.testing.assert_close(run_scale(model, 3, inputs, condition, twice), expected, atol=0, rtol=0)


def test_restore_goes_back_bit_for_bit_as_often_as_wanted(model: NextScaleModel) -> None:
    inputs, condition = some_inputs(model), model.condition(features_of(model))
    memory = new_memory(model, 2)
    for k in range(2):
        run_scale(model, k, inputs, condition, memory)
    snapshot = memory.snapshot()
    expected = [run_scale(model, k, inputs, condition, memory) for k in (2, 3)]
    strange = [x + 1 for x in inputs]
    for _ in range(2):
        memory.restore(snapshot)
        for k in (2, 3):
            run_scale(model, k, strange, condition, memory)
        memory.restore(snapshot)
        again = [run_scale(model, k, inputs, condition, memory) for k in (2, 3)]
        for found, wanted in zip(again, expected, strict=True):
            torch.testing.assert_close(found, wanted, atol=0, rtol=0)


@pytest.mark.parametrize("rows", [[1, 0], [1], [0, 1, 1], [1, 1, 0, 0, 1]])
def test_select_follows_the_rows(model: NextScaleModel, rows: list[int]) -> None:
    inputs, chosen = some_inputs(model), torch.tensor(rows)
    memory, condition = new_memory(model, 2), model.condition(features_of(model))
    for k in range(2):
        run_scale(model, k, inputs, condition, memory)
    memory.select(chosen)
    moved = [x[chosen] for x in inputs]
    found = [run_scale(model, k, moved, condition.select(chosen), memory) for k in (2, 3)]
    direct, fresh = model.condition(features_of(model).select(chosen)), new_memory(model, len(rows))
    wanted = [run_scale(model, k, moved, direct, fresh) for k in range(4)][2:]
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_free_gives_everything_back(model: NextScaleModel) -> None:
    memory = new_memory(model, 2)
    assert (memory.allocated_bytes > 0) == remembers(model)
    memory.free()
    assert memory.allocated_bytes == memory.live_bytes == 0


def test_scales_out_of_order_are_caught(model: NextScaleModel) -> None:
    memory = new_memory(model, 2)
    with pytest.raises(AssertionError):
        memory.begin_scale(1)


def test_what_the_last_scale_leaves_is_stored_where_it_is_asked_for() -> None:
    model, plan = MODELS["var"](), default_plan(MODELS["var"]())
    inputs, condition, stored = some_inputs(model), model.condition(features_of(model)), {}
    for keep_last in (False, True):
        asked = replace(plan, memories={"model": MemoryPlan("full", {"keep_last": keep_last})})
        memory = new_memory(model, 2, asked)
        hidden = [run_scale(model, k, inputs, condition, memory) for k in range(4)]
        stored[keep_last] = (hidden[-1], memory.live_bytes)
    assert torch.equal(stored[True][0], stored[False][0])
    assert stored[True][1] * 14 == stored[False][1] * 30  # tokens of three scales, and of four


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        ({"policy": "perfect"}, "no memory 'perfect'; choose one of none, full, recurrent"),
        ({"settings": {"budget": 0.5}}, r"'full' has budget 0.5; it takes keep_last \(bool\)"),
        ({"settings": {"keep_last": 1}}, r"'full' has keep_last 1; it takes keep_last \(bool\)"),
        ({"policy": "none", "settings": {"keep_last": True}}, "it takes no settings"),
        ({"calibration": "mine"}, "takes no calibration; leave out 'mine'"),
        ({"takeover": "perhaps"}, "takeover is 'perhaps'; expected catch_up or empty"),
        ({"settings": 3}, "settings is 3, of the wrong type"),
        ({"policy": 3}, "policy is 3, of the wrong type"),
    ],
)
def test_a_memory_that_cannot_be_is_refused_by_its_plan(memory: dict[str, object], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        replace(default_plan(MODELS["var"]()), memories={"model": MemoryPlan(**memory)})  # type: ignore[arg-type]


def test_a_calibration_watches_through_a_memory_and_no_model_changes() -> None:
    """Queries, keys and values of every layer pass through a slot, so whoever stands around it sees them all."""
    model = MODELS["var"]()
    inputs, condition = some_inputs(model), model.condition(features_of(model))
    memory, seen = new_memory(model, 2), list[tuple[int, tuple[int, ...]]]()

    class Watching:
        schedule = memory.schedule

        def slot(self, index: int) -> Watching:
            self.index = index
            return self

        def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
            seen.append((self.index, tuple(k.shape)))
            return memory.slot(self.index).attend(q, k, v, plain)

    plain = new_memory(model, 2)
    for k in range(4):
        memory.begin_scale(k)
        hidden = model.step(None if k == 0 else inputs[k - 1], k, condition, Watching())
        memory.end_scale(k)
        assert torch.equal(hidden, run_scale(model, k, inputs, condition, plain))
    assert seen == [(layer, (2, 4, n, 8)) for n in (1, 4, 9, 16) for layer in range(3)]
