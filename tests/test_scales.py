"""Scale schedules: the published tables, and the arithmetic of offsets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.errors import InputError
from nextscale.scales import PRESETS, ScaleSchedule

growing = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=8)


@pytest.mark.parametrize(("name", "tokens"), [("256", 680), ("512", 2240), ("1024", 9451)])
def test_presets_have_the_published_token_counts(name: str, tokens: int) -> None:
    assert ScaleSchedule.preset(name).tokens == tokens


@given(growing)
def test_slices_tile_the_sequence(steps: list[tuple[int, int]]) -> None:
    h = w = 1
    sizes = [(h := h + dh, w := w + dw) for dh, dw in steps]
    schedule = ScaleSchedule.of(sizes)
    positions = [p for k in range(len(schedule)) for p in range(schedule.tokens)[schedule.slice(k)]]
    assert positions == list(range(schedule.tokens))
    assert schedule.offsets[-1] == schedule.tokens
    assert schedule.grid == sizes[-1]


@given(st.sampled_from(sorted(PRESETS)), st.integers(1, 10))
def test_a_prefix_shares_its_offsets(name: str, count: int) -> None:
    schedule = ScaleSchedule.preset(name)
    assert schedule.prefix(count).offsets == schedule.offsets[: count + 1]


def test_progress_runs_from_zero_to_one() -> None:
    schedule = ScaleSchedule.of([1, 2, 3])
    assert [schedule.progress(k) for k in range(3)] == [0, 0.5, 1]
    assert ScaleSchedule.of([4]).progress(0) == 0


def test_sides_and_pairs_print_shortly() -> None:
    assert str(ScaleSchedule.of([1, (2, 3)])) == "1 2x3"


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ([], "at least one scale"),
        ([0], "0x0 is impossible"),
        ([3, 2], "2x2 follows 3x3"),
        ([(1, 2), (2, 1)], "2x1 follows 1x2"),
        ([(1, 2, 3)], "not \\(1, 2, 3\\)"),
        ([1.5], "not 1.5"),
    ],
)
def test_impossible_schedules_are_refused(sizes: list, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ScaleSchedule.of(sizes)


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(InputError, match="'300'; there are 256, 512, 1024"):
        ScaleSchedule.preset("300")


def test_a_prefix_must_fit() -> None:
    with pytest.raises(InputError, match="prefix of 5 scales"):
        ScaleSchedule.of([1, 2]).prefix(5)
