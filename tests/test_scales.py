"""Scale schedules: the published tables, and the arithmetic of offsets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.errors import InputError
from nextscale.scales import PRESETS, ScaleSchedule, Size, spaced

grids = st.tuples(st.integers(1, 80), st.integers(1, 80))
rows = st.one_of(
    st.sampled_from([*PRESETS.values()]), st.lists(st.integers(1, 90), min_size=1, unique=True).map(sorted)
)
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


@given(rows, grids, st.data())
def test_spaced_scales_grow_to_the_grid_in_just_so_many_steps_and_in_proportion(
    row: Sequence[int], grid: Size, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, max(grid)))
    schedule = spaced(row, count, grid)
    longer = [max(size) for size in schedule]
    assert (len(schedule), schedule.grid) == (count, grid)
    assert all(a < b for a, b in pairwise(longer))
    for h, w in schedule:
        for side, whole, other, all_of_it in ((h, grid[0], w, grid[1]), (w, grid[1], h, grid[0])):
            if whole <= all_of_it:  # the shorter side
                assert side == 1 or abs(side - other * whole / all_of_it) <= 0.5
    assert spaced(row, count, grid[::-1]).sizes == tuple((w, h) for h, w in schedule)


@given(rows, st.integers(1, 90))
def test_spaced_scales_are_the_sides_scaled_where_these_grow(row: Sequence[int], side: int) -> None:
    scaled = [side * one / row[-1] for one in row]
    assert spaced(row, len(row), (row[-1], row[-1])).sizes == tuple((one, one) for one in row)
    if scaled[0] >= 0.5 and all(b - a >= 1 for a, b in pairwise(scaled)):
        assert all(abs(h - one) <= 0.5 for (h, _), one in zip(spaced(row, len(row), (side, side)), scaled, strict=True))


def test_sides_between_those_of_a_row_are_read_off() -> None:
    row = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16]
    assert str(spaced(row, 13, (32, 24))) == "2 4x3 6x5 8x6 10x8 12x9 14x11 16x12 18x14 20x15 24x18 28x21 32x24"
    assert str(spaced(row, 5, (16, 16))) == "1 4 7 10 16"
    assert str(spaced([1, 16], 4, (16, 16))) == "1 6 11 16"
    assert str(spaced(row, 6, (6, 2))) == "1 2x1 3x1 4x1 5x2 6x2"
