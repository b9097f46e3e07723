"""The recurrent memory: constant and predicted bytes, who may use it, and what losing a part of it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nextscale.conditions.classes import class_features
from nextscale.errors import PlanError
from nextscale.generate import generate
from nextscale.layers.slots import SlotSpec
from nextscale.memory.base import Course, MemoryPlan
from nextscale.memory.make import check_pairing, look_ahead, make_memory
from nextscale.memory.recurrent import LayerState, RecurrentMemory
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import default_plan
from nextscale.price import price
from nextscale.sampling import IndependentNoise
from nextscale.scales import ScaleSchedule
from tests.makers import new_memory, some_inputs, tiny_m_var, tiny_tokenizer, tiny_var

LABELS = torch.tensor([1, 3])


def stepwise(model: MVAR, between: Callable[[int, LayerState], LayerState] = lambda k, state: state) -> Tensor:
    """Logits of all scales one after the other; ``between`` may damage the states after every scale."""
    condition, inputs = model.condition(class_features(LABELS)), some_inputs(model)
    memory, logits = new_memory(model, 2), []
    assert isinstance(memory, RecurrentMemory)
    for k, inputs_k in enumerate([None, *inputs]):
        memory.begin_scale(k)
        logits.append(model.head(model.step(inputs_k, k, condition, memory), condition))
        memory.end_scale(k)
        memory.committed = {i: between(k, state) for i, state in memory.committed.items()}
    return torch.cat(logits, 1)


def test_stepping_is_recomputing_and_every_loss_shows() -> None:
    model = tiny_m_var()
    exact, inputs = model(some_inputs(model), model.condition(class_features(LABELS))), some_inputs(model)
    torch.testing.assert_close(stepwise(model), exact, atol=1e-4, rtol=1e-4)
    for k in range(4):  # the official sampler: the whole history anew at every scale, of which the last scale is kept
        history, scale = model(inputs[:k], model.condition(class_features(LABELS))), model.schedule.slice(k)
        torch.testing.assert_close(history[:, scale], exact[:, scale], atol=1e-4, rtol=1e-4)
    losses: dict[str, Callable[[int, LayerState], LayerState]] = {
        "tail": lambda k, state: (state[0] * 0, state[1]),
        "state": lambda k, state: (state[0], state[1] * 0),
        "last row of the tail": lambda k, state: (state[0] * torch.tensor([1.0, 1.0, 0.0])[:, None], state[1]),
        "state of the first scale": lambda k, state: (state[0], state[1] * (k > 0)),
    }
    for name, loss in losses.items():
        assert (stepwise(model, loss) - exact).abs().max() > 1e-3, name


def test_bytes_are_constant_over_scales_and_image_sizes() -> None:
    model, rows = tiny_m_var(), 3
    expected = rows * 2 * 4 * (3 * (64 + 2 * 16) + 4 * 16 * 16)
    for sizes in ([1, 2, 3, 4], [1, 2, 4, 8, 16, 64]):
        schedule = ScaleSchedule.of(sizes)
        outlook = look_ahead(MemoryPlan("recurrent"), Course(model.slots, schedule, ((0, 1),) * len(schedule)))
        memory = make_memory(MemoryPlan("recurrent"), outlook, rows, torch.float32, torch.device("cpu"))
        assert memory.live_bytes == memory.allocated_bytes == expected
        for k in range(len(schedule)):
            assert outlook.bytes(k, rows, 4) == outlook.bytes(k, rows, 2) == expected


def test_the_state_is_float32_under_bfloat16_weights() -> None:
    model = tiny_m_var().bfloat16()
    plan = default_plan(model)
    outlook = look_ahead(plan.memories["model"], plan.course(0, model))
    memory = make_memory(plan.memories["model"], outlook, 2, torch.bfloat16, torch.device("cpu"))
    assert isinstance(memory, RecurrentMemory)
    memory.begin_scale(0)
    model.step(None, 0, model.condition(class_features(LABELS)), memory)
    memory.end_scale(0)
    assert {t.dtype for state in memory.committed.values() for t in state} == {torch.float32}
    assert memory.live_bytes == outlook.bytes(0, 2, 2)


def test_the_predicted_bytes_are_there_during_a_generation_and_in_the_plan() -> None:
    model = tiny_m_var()
    parts = {"tokenizer": tiny_tokenizer(), "model": model}
    plan = default_plan(model, guidance_scale=2.0)
    assert plan.memories == {"model": MemoryPlan("recurrent")}
    priced = price(plan, parts, 2)
    for event in generate(plan, parts, class_features(LABELS), IndependentNoise([0, 1])):
        assert event.memory.live_bytes == event.memory.allocated_bytes == priced.lines[event.k + 1].memory


def test_at_1024_pixels_the_full_memory_of_var_is_forty_times_larger() -> None:
    schedule, rows = ScaleSchedule.preset("1024"), 2
    with torch.device("meta"):
        m_var = MVAR(MVARConfig.published(30, 1024))
        var = VAR(VARConfig.published(30, 1024))
    blocks = (tuple(range(30)),) * len(schedule)
    state, cache = (
        look_ahead(MemoryPlan(model.memory), Course(model.slots, schedule, blocks)).bytes(13, rows, 2)
        for model in (m_var, var)
    )
    assert state == rows * 30 * 4 * (8192 * 30 + 3 * (128 * 30 + 128))
    assert 39 < cache / state < 41


def test_a_memory_that_cannot_remember_what_a_model_reads_is_refused() -> None:
    with pytest.raises(PlanError, match="'recurrent' keeps a recurrent state, but this model reads keys and values"):
        check_pairing(MemoryPlan("recurrent"), tiny_var().slots)
    with pytest.raises(PlanError, match="'full' keeps keys and values of earlier scales, but this model reads"):
        check_pairing(MemoryPlan("full"), tiny_m_var().slots)
    with pytest.raises(PlanError, match="reads nothing of earlier scales"):
        check_pairing(MemoryPlan("full"), [SlotSpec("own", 1, 1)])
    check_pairing(MemoryPlan("full"), tiny_m_var("attention").slots)


def test_an_impossible_plan_is_refused_before_anything_runs() -> None:
    model = tiny_m_var()
    parts = {"tokenizer": tiny_tokenizer(), "model": model}
    plan = replace(default_plan(model), memories={"model": MemoryPlan("full")})
    with pytest.raises(PlanError, match="recurrent state"):
        next(generate(plan, parts, class_features(LABELS), IndependentNoise([0, 1])))
    with pytest.raises(PlanError, match="recurrent state"):
        price(plan, parts)


def test_the_memory_of_blocks_that_never_run_again_is_given_back() -> None:
    memory = new_memory(tiny_m_var(), 2)
    whole = memory.live_bytes
    memory.begin_scale(0, [1])
    assert memory.live_bytes == memory.allocated_bytes == whole // 2
