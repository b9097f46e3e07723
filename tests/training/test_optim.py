"""The laws of the optimiser's settings: learning-rate courses, which weights decay, and the moving average."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nextscale.training.optim import MovingAverage, decay_at, lr_factor, parameter_groups
from tests.makers import tiny_var

Form = Literal["lin0", "cosine"]
FORMS = st.sampled_from(["lin0", "cosine"])


@given(FORMS, st.integers(20, 5000), st.floats(0, 0.5), st.floats(0, 0.9))
def test_the_rate_peaks_when_the_warm_up_ends_and_ends_at_end(
    form: Form, total: int, warmup: float, end: float
) -> None:
    warm = round(warmup * total)
    assert lr_factor(form, warm, total, warmup, end=end) == pytest.approx(1)
    assert lr_factor(form, total - 1, total, warmup, end=end) == pytest.approx(end)
    assert lr_factor(form, total + 5, total, warmup, end=end) == pytest.approx(end)


@given(FORMS, st.integers(20, 2000), st.floats(0, 0.5), st.floats(0, 0.9))
def test_the_rate_rises_in_the_warm_up_and_never_after(form: Form, total: int, warmup: float, end: float) -> None:
    factors = [lr_factor(form, step, total, warmup, 0.0, end) for step in range(total)]
    warm = round(warmup * total)
    assert factors[: warm + 1] == sorted(factors[: warm + 1])
    assert all(a >= b - 1e-12 for a, b in zip(factors[warm:], factors[warm + 1 :], strict=False))
    assert all(0 <= factor <= 1 for factor in factors)


def test_lin0_holds_for_a_twentieth_and_then_falls_in_a_line() -> None:
    factors = [lr_factor("lin0", step, 1001, 0.0, end=0.1) for step in range(1001)]
    assert factors[:51] == [1.0] * 51
    steps = torch.tensor(factors[51:]).diff()
    assert torch.allclose(steps, torch.full_like(steps, -0.9 / 950), atol=1e-6)


def test_the_warm_up_starts_where_it_is_told() -> None:
    assert lr_factor("lin0", 0, 100, 0.1, 0.005) == 0.005
    assert lr_factor("lin0", 5, 100, 0.1, 0.005) == pytest.approx(0.5025)


@given(st.integers(2, 500), st.floats(0, 0.2), st.floats(0, 0.2))
def test_weight_decay_runs_from_its_first_value_to_its_last(total: int, first: float, last: float) -> None:
    values = [decay_at(step, total, first, last) for step in range(total)]
    assert values[0] == pytest.approx(first)
    assert values[-1] == pytest.approx(last)
    assert all(min(first, last) - 1e-9 <= value <= max(first, last) + 1e-9 for value in values)
    assert decay_at(total // 2, total, first, None) == first


@pytest.mark.parametrize("shared", [False, True])
def test_only_matrices_that_are_no_positions_decay(shared: bool) -> None:
    model = tiny_var(shared_adaln=shared).requires_grad_(True)
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, spared = parameter_groups(model.named_parameters(), 0.05)
    in_decayed = {names[id(p)] for p in decayed["params"]}  # type: ignore[attr-defined]
    in_spared = {names[id(p)] for p in spared["params"]}  # type: ignore[attr-defined]
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert in_decayed | in_spared == set(names.values())
    assert not in_decayed & in_spared
    expected = {n for n in names.values() if n.endswith("weight") or n.endswith("codebook")}
    assert in_decayed == expected
    assert {"pos_start", "pos_embedding", "level_embedding"} <= in_spared
    assert any("scale_mul" in name for name in in_spared)
    assert any("ada_gss" in name for name in in_spared) == shared


def test_frozen_parameters_are_in_no_group() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    decayed, spared = parameter_groups(layer.named_parameters(), 0.1)
    assert (decayed["params"], spared["params"]) == ([], [layer.bias])


@given(st.floats(0.5, 0.9999), st.integers(1, 40))
def test_the_average_follows_its_law(decay: float, updates: int) -> None:
    source, kept = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()
    average = MovingAverage(kept, decay)
    expected = float(kept.weight)
    for t in range(updates):
        nn.init.constant_(source.weight, float(t % 7))
        average.update(source, t)
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * (t % 7)
    assert float(kept.weight) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert not kept.weight.requires_grad


def test_a_decay_of_zero_copies() -> None:
    source, kept = nn.Linear(3, 3), nn.Linear(3, 3)
    MovingAverage(kept, 0.0).update(source, 50)
    assert torch.equal(kept.weight, source.weight)
