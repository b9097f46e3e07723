"""Sizes, numbers of scales and whole schedules: what a model draws is what was asked for, or one sentence."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.errors import InputError, PlanError
from nextscale.models.base import NextScaleModel
from nextscale.plan import shaped_plan
from nextscale.ratios import PUBLISHED, PUBLISHED_LENGTHS, ratio_of
from nextscale.scales import ScaleSchedule, Size
from nextscale.sizes import asked_schedule
from tests.makers import CLASS_MODELS, SIZES, tiny_flexvar, tiny_infinity, tiny_var

STRIDE = 4
SQUARE = next(one for one in PUBLISHED if ratio_of(one) == "1:1")
PLAIN = tiny_infinity(schedules=())
MANY = tiny_infinity(
    levels=15, sizes=SQUARE.prefix(10).sizes, schedules=tuple(one.sizes for one in PUBLISHED), lengths=PUBLISHED_LENGTHS
)
"""A free model of the published schedules, and one of a single schedule; at most 15 and 6 scales."""
FREE = (MANY, PLAIN)
grids = st.tuples(st.integers(1, 80), st.integers(1, 80))


def asked(model: NextScaleModel, **given: Any) -> ScaleSchedule:
    return asked_schedule(model, STRIDE, **given)


@given(st.sampled_from(FREE), grids, st.data())
def test_every_size_is_drawn_in_just_so_many_scales(model: NextScaleModel, grid: Size, data: st.DataObject) -> None:
    assert model.levels is not None
    steps = data.draw(st.none() | st.integers(1, min(max(grid), model.levels)))
    schedule = asked(model, size=(grid[0] * STRIDE, grid[1] * STRIDE), steps=steps)
    assert schedule.grid == grid
    assert len(schedule) == steps if steps else len(schedule) <= model.levels
    model.check(schedule)
    assert all(max(a) < max(b) for a, b in pairwise(schedule))
    assert len(schedule) == 1 or schedule[0] == (1, 1), "drawing begins with the first map that was trained"
    assert asked(model, scales=schedule) == schedule


@pytest.mark.parametrize("largest", PUBLISHED, ids=ratio_of)
def test_what_was_trained_is_taken_where_it_ends_so(largest: ScaleSchedule) -> None:
    """By size, with and without its number of scales; another number is another schedule of that size."""
    for count in PUBLISHED_LENGTHS:
        h, w = largest.prefix(count).grid
        size = (h * STRIDE, w * STRIDE)
        assert asked(MANY, size=size) == asked(MANY, size=size, steps=count) == largest.prefix(count)
        assert len(asked(MANY, size=size, steps=count - 1)) == count - 1
        assert asked(MANY, ratio=ratio_of(largest), pixels=size[0] * size[1], steps=count) == largest.prefix(count)


def test_steps_are_of_the_shape_that_is_asked_for_else_of_the_models_own() -> None:
    assert asked(MANY, steps=4) == MANY.schedule_of((32, 32), 4)
    assert asked(MANY, ratio="3:2", steps=13) == MANY.schedule_of((26, 39), 13)
    assert asked(MANY) == MANY.schedule
    assert str(asked(MANY, size=(128, 96), steps=13)) == "1 2 3x2 4x3 5x4 7x5 9x7 11x8 12x9 16x12 21x16 27x20 32x24"


@pytest.mark.parametrize("size", ["128x96", " 128 X 96 ", (128, 96), [np.int64(128), 96.0], np.array([128, 96])])
def test_a_size_is_written_in_many_ways(size: Any) -> None:
    assert asked(MANY, size=size) == MANY.schedule_of((32, 24))


@pytest.mark.parametrize(
    "scales", ["1,2,4x6", [1, 2, (4, 6)], ["1", (2, 2), "4x6"], np.array([[1, 1], [2, 2], [4, 6]])]
)
def test_scales_are_written_in_many_ways(scales: Any) -> None:
    assert asked(PLAIN, scales=scales) == ScaleSchedule(((1, 1), (2, 2), (4, 6)))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"size": (130, 94)},
            r"size is \(130, 94\); the nearest that this model draws is 132x96 pixels \(height x width",
        ),
        ({"size": (1, 1)}, "is 4x4 pixels"),
        ({"size": "512"}, "size is '512'; expected height and width in pixels, as in 512x384"),
        ({"size": "0x4"}, "size is '0x4'; expected height and width"),
        ({"size": (4, -4)}, "expected height and width"),
        ({"size": (4, 4.5)}, "expected height and width"),
        ({"size": (4, True)}, "expected height and width"),
        ({"size": (4, float("nan"))}, "expected height and width"),
        ({"size": 16}, "expected height and width"),
        (
            {"size": (100_000, 100_000)},
            "which is too large; expected at most 80,000,000 pixels in a picture, and 65,536 tokens along a side",
        ),
        ({"size": (400_000, 4)}, "which is too large; expected at most"),
        (
            {"size": (8, 12), "steps": 4},
            "steps is 4; expected at most 3, the most scales that this model draws 8x12 pix",
        ),
        ({"steps": 20}, "steps is 20; expected at most 15, the most scales that this model draws 128x128 pixels by"),
        ({"steps": 0}, "steps is 0; expected a number of scales, at least 1"),
        ({"steps": 2.0}, "steps is 2.0; expected a number of scales"),
        ({"steps": "4"}, "steps is '4'; expected a number of scales"),
        ({"scales": "1,4,2"}, "scales are '1,4,2'; expected scales that do not shrink, as in 1,2,4"),
        ({"scales": [(2, 3), (3, 2)]}, "expected scales that do not shrink, as in 2,3"),
        ({"scales": range(1, 17)}, "this Infinity draws at most 15 scales, and 16 were asked for"),
        ({"scales": ""}, "scales are ''; expected the sides, or height and width, of one map or more"),
        ({"scales": [1, (2, 3, 4)]}, "expected the sides"),
        ({"scales": 4}, "expected the sides"),
        ({"scales": "1,2,..."}, "expected the sides"),
        ({"scales": [1, 10_000]}, "which is too large; expected at most"),
        (
            {"scales": "1,2", "steps": 2},
            "scales and steps were both given; scales are a whole schedule, so leave steps out",
        ),
        ({"scales": "1,2", "size": "8x8"}, "so leave size out"),
        ({"scales": "1,2", "ratio": 1}, "so leave ratio out"),
        ({"size": "8x8", "ratio": 1}, "size and ratio were both given; a size says both, so leave ratio out"),
        ({"size": "8x8", "pixels": 64}, "size and pixels were both given"),
        ({"ratio": "9:1"}, "expected what this model draws, .* 3:1; size asks for any other$"),
    ],
)
def test_what_is_impossible_is_refused_with_the_nearest_that_is_possible(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        asked(MANY, **given)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", CLASS_MODELS)
def test_a_model_of_one_schedule_takes_that_alone(name: str) -> None:
    model = CLASS_MODELS[name]()
    own: list[dict[str, Any]] = [
        {"size": (16, 16)},
        {"steps": 4},
        {"scales": [1, 2, 3, 4]},
        {"size": "16x16", "steps": 4},
    ]
    assert all(asked(model, **one) == model.schedule for one in own)
    others: list[dict[str, Any]]
    others = [
        {"size": (12, 12)},
        {"size": (9, 50)},
        {"steps": 3},
        {"scales": [1, 2, 3]},
        {"scales": [4]},
    ]
    for one in [*others, {"scales": "1,2,4,4"}, {"size": "16x16", "steps": 3}]:
        with pytest.raises(
            InputError, match=r"(is|are) .*; this .*(VAR|HMAR) was trained on the scales 1 2 3 4 and"
        ) as caught:
            asked(model, **one)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"draws no others: its pictures have 16x16 pixels \(height x width\)$"):
        asked(model, size="32x32")
    with pytest.raises(InputError, match=r"size is \(15, 17\); the nearest that this model draws is 16x16 pixels"):
        asked(model, size=(15, 17))
    with pytest.raises(InputError, match=r"width to height: 1:1$"):
        asked(model, ratio="3:2")


def test_a_model_that_draws_some_shapes_says_which_itself() -> None:
    """Whatever ``check`` refuses is refused, with what was asked for in front."""

    class Squares(type(PLAIN)):  # type: ignore[misc]
        def check(self, schedule: ScaleSchedule) -> None:
            if any(h != w for h, w in schedule):
                raise PlanError(f"it draws squares alone and not {schedule}")

    model = Squares(PLAIN.config)
    assert asked(model, size="20x20").grid == (5, 5)
    for one in ({"size": "20x24"}, {"scales": "1,5x6"}):
        with pytest.raises(InputError, match=r"^(size is|scales are) '.*'; it draws squares alone and not 1 .*5x6$"):
            asked(model, **one)


def test_a_plan_has_the_scales_and_the_settings() -> None:
    plan = shaped_plan(PLAIN, STRIDE, size="20x24", steps=3, top_p=0.5, ratio=None)
    assert (plan.schedule, plan.rows[2].top_p) == (PLAIN.schedule_of((5, 6), 3), 0.5)
    assert shaped_plan(tiny_var(), STRIDE, size=(16, 16)).schedule.sizes == SIZES


@pytest.mark.filterwarnings("error")
def test_a_picture_that_a_model_never_saw_is_drawn_with_a_word() -> None:
    """Of one size, of several, and of a model that saw smaller maps of every shape."""
    flexible = tiny_flexvar()
    for model, grid in ((PLAIN, PLAIN.schedule.grid), (MANY, MANY.schedule.grid), (flexible, (3, 2))):
        asked(model, size=(grid[0] * STRIDE, grid[1] * STRIDE))
    asked(PLAIN)
    height, width = (side * STRIDE for side in PLAIN.schedule.grid)
    with pytest.warns(UserWarning, match=f"never trained on pictures of 36x40 pixels .*; it learned {height}x{width} "):
        asked(PLAIN, size=(36, 40))
    with pytest.warns(UserWarning, match=f"in the scales 1 .*, .* in the scales {PLAIN.schedule}"):
        asked(PLAIN, steps=2)
    with pytest.warns(UserWarning, match="and others that nextscale info lists"):
        asked(MANY, size=(36, 40))
    with pytest.warns(UserWarning, match="it learned up to "):
        asked(flexible, size=(400, 8))
