"""Aspect ratios: the published tables, and that what is asked for is what is chosen, or refused in a sentence."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.errors import InputError
from nextscale.ratios import PUBLISHED, PUBLISHED_LENGTHS, Shapes, ratio_of, transposed
from nextscale.scales import ScaleSchedule
from tests.makers import MODELS

SQUARE = next(one for one in PUBLISHED if ratio_of(one) == "1:1")
SHAPES = Shapes(SQUARE, PUBLISHED, PUBLISHED_LENGTHS, 16)
AREAS = dict(zip(("0.06M", "0.25M", "0.60M", "1M"), PUBLISHED_LENGTHS, strict=True))
KEYS = {"1:1": 1.0, "5:4": 0.8, "4:3": 0.75, "3:2": 0.666, "7:4": 0.571, "2:1": 0.5, "5:2": 0.4, "3:1": 0.333}
KEYS |= {"4:5": 1.25, "3:4": 1.333, "2:3": 1.5, "4:7": 1.75, "1:2": 2.0, "2:5": 2.5, "1:3": 3.0}
"""What the published code calls the ratios: height over width."""
every = st.sampled_from(PUBLISHED)


def area(schedule: ScaleSchedule) -> int:
    return math.prod(SHAPES.size(schedule))


def test_the_published_ratios_are_those_of_the_keys() -> None:
    assert {ratio_of(one): int(1000 * one.grid[0] / one.grid[1]) / 1000 for one in PUBLISHED} == KEYS
    assert {one.tokens for one in PUBLISHED if one is SQUARE} == {10521}
    assert (min(one.tokens for one in PUBLISHED), max(one.tokens for one in PUBLISHED)) == (10521, 11269)
    assert [SQUARE.prefix(n).tokens for n in PUBLISHED_LENGTHS] == [521, 2521, 6425, 10521]


@pytest.mark.parametrize("size", AREAS)
@pytest.mark.parametrize("ratio", KEYS)
def test_every_published_picture_is_found_exactly(ratio: str, size: str) -> None:
    """By its ratio, by the number that this is (in three digits too), by its area, whatever the default is."""
    wanted = next(one for one in PUBLISHED if ratio_of(one) == ratio).prefix(AREAS[size])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shapes in (SHAPES, Shapes(PUBLISHED[0].prefix(7), PUBLISHED, PUBLISHED_LENGTHS, 16)):
            assert shapes.choose(ratio, size) == wanted
            assert shapes.choose(1 / KEYS[ratio], area(wanted)) == wanted
            assert shapes.choose(np.float64(wanted.grid[1] / wanted.grid[0]), f"{area(wanted) / 1e6}M") == wanted
        own = Shapes(wanted, PUBLISHED, PUBLISHED_LENGTHS, 16)
        assert own.choose() == own.choose(ratio) == own.choose(pixels=size) == own.choose(pixels=area(wanted)) == wanted


@given(every, st.sampled_from(PUBLISHED_LENGTHS))
def test_transposing_the_ratio_transposes_the_schedule(one: ScaleSchedule, count: int) -> None:
    width, height = ratio_of(one).split(":")
    size = area(one.prefix(count))
    assert SHAPES.choose(f"{height}:{width}", size) == transposed(SHAPES.choose(ratio_of(one), size))


@given(every)
def test_more_scales_are_more_pixels_and_every_listed_number_is_read(one: ScaleSchedule) -> None:
    sizes = [SHAPES.choose(ratio_of(one), listed) for listed in SHAPES.areas(one)]
    assert [len(size) for size in sizes] == list(PUBLISHED_LENGTHS)
    assert [area(size) for size in sizes] == sorted({area(size) for size in sizes})
    assert SHAPES.sizes[ratio_of(one)] == [SHAPES.size(size) for size in sizes]


@given(every, st.floats(0.97, 1.03))
def test_a_ratio_that_is_near_is_taken_and_said(one: ScaleSchedule, off: float) -> None:
    wide = off * one.grid[1] / one.grid[0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert SHAPES.choose(wide).grid == one.grid
    assert bool(caught) == (not 1 / 1.005 <= off <= 1.005)


def test_the_warning_says_which_and_how_large() -> None:
    with pytest.warns(
        UserWarning, match="ratio is '16:9'; the nearest that this model draws is 7:4, .* 384x672 pixels"
    ):
        assert SHAPES.choose("16:9", "0.25M").grid == (24, 42)


@pytest.mark.parametrize(
    "ratio",
    [
        *("0:3", "3:0", "abc", "-3:2", "3:2:1", "", ":", "9:8", "10:1", "9" * 400, "1e9", b"3:2"),
        *(0, -1.5, math.nan, math.inf, 10**400, True, (3, 2), [1]),
    ],
)
def test_a_ratio_that_there_is_not_lists_those_there_are(ratio: Any) -> None:
    with pytest.raises(InputError, match=r"ratio is .*; expected what .*: 1:3, 2:5, .* 1:1, .* 3:2, .* 3:1") as caught:
        SHAPES.choose(ratio)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "pixels", ["0.4M", "2M", "512x512", "M", "", "-1M", "0M", 0, -5, math.nan, False, 10**400, [1]]
)
def test_a_size_that_there_is_not_lists_those_there_are(pixels: Any) -> None:
    with pytest.raises(InputError, match=r"pixels is .*; expected what .* at 3:2: 0\.075M, 0\.26M, 0\.68M, 1M$"):
        SHAPES.choose("3:2", pixels)


def test_a_model_of_one_schedule_draws_that_alone() -> None:
    one = Shapes.of_one(ScaleSchedule.preset("256"), 16)
    assert one.choose("1:1", "0.066M") == one.choose(1, 65536) == one.choose() == one.default
    for asked, sentence in (({"ratio": 1.05}, "width to height: 1:1$"), ({"pixels": "1M"}, r"at 1:1: 0\.066M$")):
        with pytest.raises(InputError, match=sentence):
            one.choose(**asked)


@given(every, st.floats(0.9, 1.1), st.integers(8, 5000))
def test_a_picture_fits_the_nearest_ratio(one: ScaleSchedule, off: float, height: int) -> None:
    width = max(1, round(height * off * one.grid[1] / one.grid[0]))
    fitting = SHAPES.fitting(height, width)
    assert len(fitting) == len(SQUARE)
    distances = {ratio_of(other): abs(math.log(other.grid[1] / other.grid[0] * height / width)) for other in PUBLISHED}
    assert distances[ratio_of(fitting)] == pytest.approx(min(distances.values()))


def test_maps_are_of_a_whole_picture_or_of_the_beginning_of_the_usual_one() -> None:
    shapes = Shapes(SQUARE.prefix(10), PUBLISHED, PUBLISHED_LENGTHS, 16)
    for one in PUBLISHED:
        for count in PUBLISHED_LENGTHS:
            assert shapes.beginning(one.sizes[:count]) == one.prefix(count)
        assert shapes.beginning(one.sizes[:8]) == one.prefix(10)
        assert shapes.beginning(one.sizes[:11]) == one.prefix(12)
    assert shapes.beginning(SQUARE.sizes[:1]) == shapes.default
    assert shapes.beginning([(1, 1), (5, 1)]) is None


@pytest.mark.parametrize("name", MODELS)
def test_a_model_draws_its_own_schedule(name: str) -> None:
    """What the default is stands in the tables: a law for models of several."""
    model = MODELS[name]()
    assert model.schedule in {one.prefix(n) for one in model.schedules for n in model.lengths}
