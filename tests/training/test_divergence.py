"""A run that has lost what it had learnt is noticed after a hundred steps, and no other is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.training.divergence import FLOOR, PATIENCE, WORSE, DivergenceWatch


def said_at(watch: DivergenceWatch, numbers: list[float]) -> tuple[int, str] | None:
    """The step, from 0, at which the watch first spoke, and what it said."""
    for step, number in enumerate(numbers):
        if said := watch.see({"l2": number, "more": 1e9}):
            return step, said
    return None


def test_worse_than_knowing_nothing_for_a_hundred_steps() -> None:
    watch = DivergenceWatch({"l2": 1.0})
    assert said_at(watch, [0.5] * 3 + [2.1] * 99) is None
    assert said_at(watch, [1.9] + [2.1] * 99) is None  # one step that is not resets the count
    assert said_at(watch, [2.1]) == (0, "l2 was above 2 for 100 steps")


def test_what_was_learnt_is_lost_though_it_is_better_than_nothing() -> None:
    """As an adversarial loss does it: the error rises tenfold, and single steps look better."""
    learnt = [0.02] * 50
    lost = [0.2, 0.4, 0.05, 0.3] * 60
    found = said_at(DivergenceWatch({"l2": 1.0}), learnt + lost)
    assert found is not None
    step, said = found
    assert 50 + PATIENCE <= step + 1 <= 50 + PATIENCE + 30
    assert said == f"l2 was above {WORSE * 0.02:.3g} on average, having been 0.02, for 100 steps"


def test_a_short_run_has_less_patience() -> None:
    assert said_at(DivergenceWatch({"l2": 1.0}, patience=10), [0.5] + [2.1] * 10) == (10, "l2 was above 2 for 10 steps")


@given(st.lists(st.floats(0, FLOOR), max_size=400))
def test_small_errors_are_never_bad(numbers: list[float]) -> None:
    watch = DivergenceWatch({"l2": 1.0})
    assert said_at(watch, numbers) is None
    assert watch.bad_steps == 0


@given(st.lists(st.floats(0.5, 1.9), max_size=400))
def test_what_stays_within_a_factor_is_never_bad(numbers: list[float]) -> None:
    assert said_at(DivergenceWatch({"l2": 1.0}), numbers) is None


@given(st.lists(st.sampled_from([0.01, 0.1, 3.0]), min_size=1, max_size=300), st.integers(0, 299))
def test_a_resumed_watch_sees_the_same(numbers: list[float], cut: int) -> None:
    whole, first, second = (DivergenceWatch({"l2": 1.0}) for _ in range(3))
    expected = [whole.see({"l2": number}) for number in numbers]
    said = [first.see({"l2": number}) for number in numbers[:cut]]
    second.load_state(first.state())
    said += [second.see({"l2": number}) for number in numbers[cut:]]
    assert said == expected
    assert second.state().tolist() == whole.state().tolist()


@pytest.mark.parametrize("count", [0, 7])
def test_a_count_alone_is_read_as_older_checkpoints_have_it(count: int) -> None:
    watch = DivergenceWatch({"l2": 1.0})
    watch.load_state(torch.tensor(count))
    assert watch.bad_steps == count
    assert watch.state().tolist() == [count, math.inf, math.inf]
    other = DivergenceWatch({"l2": 1.0, "vq": 20.0})
    other.load_state(watch.state())
    assert other.bad_steps == count
    assert other.see({"l2": 0.1, "vq": 0.1}) is None
