"""Plans: plain data that survives JSON, and the reasons for which one is refused."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch

from nextscale.errors import PlanError
from nextscale.memory.base import MemoryPlan
from nextscale.plan import PLAN_WIDE, Plan, default_plan
from nextscale.row import COLUMNS, Row
from nextscale.sampling import ORDER
from nextscale.scales import ScaleSchedule
from tests.makers import tiny_var

PLAN = default_plan(tiny_var(), guidance_scale=3.0, top_k=5, top_p=0.9, temperature=0.8, smooth=True)


def test_a_plan_survives_json() -> None:
    assert Plan.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN
    short = PLAN.prefix(2)
    assert Plan.from_dict(json.loads(json.dumps(short.to_dict()))) == short


def test_every_column_is_written_with_the_format() -> None:
    """A later change of a default changes no plan that is stored."""
    plain = default_plan(tiny_var()).to_dict()
    assert all(set(row) == set(COLUMNS) for row in plain["rows"])
    assert plain["format"] == 2
    assert set(plain) == {"format", "rows", *PLAN_WIDE}


def test_guidance_one_means_one_branch() -> None:
    assert default_plan(tiny_var()).branches == (("class",),)
    assert PLAN.branches == (("class",), ())
    assert PLAN.rows[0].guidance == (1.0, 0.0)
    assert PLAN.rows[-1].guidance == (3.0, -2.0)


def test_a_prefix_keeps_the_whole_schedule() -> None:
    short = PLAN.prefix(2)
    assert len(short.rows) == 2
    assert short.schedule == PLAN.schedule


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"temperature": 0}, "temperature is 0; it must be above 0 .*top_k=1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 1e-300}, "temperature is 1e-300; it must be above 0 and finite, at least 1e-06"),
        ({"temperature": float("inf")}, "temperature is inf; .* finite"),
        ({"smooth": (1.0, 1e-40)}, "smooth is"),
        ({"smooth": (1e38, 1.0)}, "smooth is"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number"),
        ({"top_p": 1.2}, "top_p is 1.2; it must lie between 0 and 1"),
        ({"order": ("top_k",)}, "order is"),
        ({"smooth": (1.0, 0.0)}, "smooth is"),
        ({"guidance": (0.5, 0.4)}, "sum to 0.9; they must sum to 1"),
        ({"guidance": ()}, "guidance has 0 weights; expected one for each of the plan's 2 branches"),
        ({"blocks": (1, 0)}, "ascending order"),
        ({"blocks": (-1,)}, "ascending order"),
        ({"guidance": (1.0,)}, "guidance has 1 weights; expected one for each of the plan's 2 branches"),
        ({"condition": ("class", "text")}, "condition names 'text', which no branch sees"),
        ({"guidance_block": -1}, "guidance_block is -1, which does not run here"),
        ({"blocks": (0, 2), "guidance_block": 1}, "guidance_block is 1, which does not run here"),
        ({"passes": (3,)}, "passes is .3,.; the tokens that stay after each must be at least 1 and together 1"),
        ({"passes": ()}, "passes is "),
        ({"again_guidance": (1.0, 0.0)}, "again_guidance weighs later passes, and there is one pass"),
        ({"again_guidance": ()}, "again_guidance has 0 weights; expected one for each of the plan's 2 branches"),
        ({"population": 3}, "population 3 and the cull None; expected both or neither"),
        ({"population": 0, "cull": "best"}, "population of 0; expected at least 1"),
    ],
)
def test_impossible_rows_are_refused_with_the_reason(columns: dict, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        PLAN.with_column(**columns)


def test_a_guidance_scale_beyond_all_use_is_refused_by_its_own_name() -> None:
    for scale in (1e7, 1e30, float("inf"), float("nan"), -1):
        with pytest.raises(PlanError, match=r"guidance_scale is .*; it must lie between 0 and 1,000,000"):
            default_plan(tiny_var(), guidance_scale=scale)
    assert default_plan(tiny_var(), guidance_scale=1e6).branches == (("class",), ())


def test_branches_cannot_change_on_the_way() -> None:
    rows = (PLAN.rows[0], replace(PLAN.rows[1], guidance=(1.0,)))
    with pytest.raises(PlanError, match=r"row 1 .*guidance has 1 weights; expected one for each of .* 2 branches"):
        replace(PLAN, rows=rows)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "keys 'rows'"),
        ({"rows": [], "colour": 1}, "keys 'rows'"),
        ({"rows": []}, "at least one row"),
        ({"rows": [{"size": [1, 1], "temprature": 1}]}, "must have a size; found .*temprature"),
        ({"rows": [{"top_k": 1}]}, "must have a size"),
        ({"rows": [3]}, "must have a size; found 3"),
        ({"rows": [{"size": [1, 1], "temperature": "hot"}]}, "wrong type"),
        ({"rows": [{"size": [1, 1], "guidance": None}]}, "wrong type"),
        ({"rows": [{"size": 1}]}, "wrong type"),
        ({"rows": [{"size": [1, 1]}], "undrawn": [2]}, "wrong type"),
    ],
)
def test_foreign_data_is_refused(data: dict, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        Plan.from_dict(data)


def test_a_foreign_schedule_and_a_negative_guidance_are_refused() -> None:
    with pytest.raises(PlanError, match="cannot draw the scales 1 2 5"):
        default_plan(tiny_var(), schedule=ScaleSchedule.of([1, 2, 5]))
    for scale in (-1, 1e30, math.inf, math.nan):
        with pytest.raises(PlanError, match=r"guidance_scale is .*; it must lie between 0 and 1,000,000"):
            default_plan(tiny_var(), guidance_scale=scale)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((1, 1), "scales must not shrink, but 1x1 follows 4x4"),
        ((0, 5), "a scale of 0x5 is impossible"),
        ((10**30, 5), "expected at most 65,536"),
    ],
)
def test_sizes_that_cannot_be_are_an_impossible_plan(size: tuple[int, int], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        replace(PLAN, undrawn=(size,))


@pytest.mark.parametrize("count", [0, 3, 5, 10**30])
def test_a_prefix_of_more_scales_than_are_drawn_is_refused(count: int) -> None:
    """One beyond the rows of a prefix used to lose the scales between."""
    short = PLAN.prefix(2)
    assert short.prefix(2) == short
    with pytest.raises(PlanError, match="scales were asked for; the plan draws 1 to 2"):
        short.prefix(count)


def test_rows_are_plain_data() -> None:
    assert Row(size=(1, 1)) == Row(size=(1, 1))
    assert hash(PLAN) == hash(Plan(PLAN.rows, PLAN.branches))


OTHER_TYPES: dict[str, list[object]] = {
    "size": ["x", 3, None, True, [1], [1, 2, 3], [1.5, 2], ["1", "2"], [True, 1], {"h": 1}],
    "model": [3, None, ["model"], b"model", True],
    "blocks": ["01", 3, [1.5], [None], [True], {"a": 1}],
    "guidance": ["x", 3, None, [None], ["1"], [True], {"a": 1}, [10**400]],
    "temperature": ["1", None, True, [1.0], {}, 10**400],
    "top_k": ["5", None, True, 5.0, [5], {}],
    "top_p": ["0.5", None, True, [0.5], {}],
    "order": ["top_k", 3, None, [1, 2, 3], {}],
    "smooth": ["x", 3, True, [1.0], [1.0, None], [1.0, "2"], [1, 2, 3], {}],
    "condition": ["class", 3, [3], {}],
    "guidance_block": ["1", 1.5, True, [1]],
    "passes": ["1", 1, [0.5], [None], {}],
    "again_guidance": ["x", 3, [None], ["1"], {}],
    "population": ["2", 1.5, True, [2]],
    "cull": [3, ["best"], True, {}],
    "keep": [3, ["x"], True, {}],
}


@pytest.mark.parametrize(
    ("column", "value"), [(name, value) for name, values in OTHER_TYPES.items() for value in values]
)
def test_every_column_says_what_it_must_be(column: str, value: object) -> None:
    data = PLAN.to_dict()
    data["rows"][1] = data["rows"][1] | {column: value}
    for make in (lambda: Plan.from_dict(data), lambda: PLAN.with_column(**{column: value})):
        with pytest.raises(PlanError, match=f"wrong type: {column} is .*; it must be .*") as caught:
            make()
        assert len(str(caught.value)) < 300


def test_every_column_is_checked() -> None:
    assert set(OTHER_TYPES) == set(COLUMNS) == {field.name for field in fields(Row)}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"rows": [{"size": [1, 1]}], "decode": "no"}, "decode is 'no', of the wrong type"),
        ({"rows": [{"size": [1, 1]}], "decode": 1}, "decode is 1"),
        ({"rows": [{"size": [1, 1]}], "undrawn": None}, "undrawn is None"),
        ({"rows": [{"size": [1, 1]}], "undrawn": [[1, "2"]]}, "undrawn is"),
        ({"rows": {"size": [1, 1]}}, "keys 'rows'"),
        ({"rows": [{1: 2, "a": 3}]}, "must have a size; found"),
        ({1: 2, "rows": []}, "keys 'rows'"),
        ([], "keys 'rows'"),
    ],
)
def test_whatever_stands_beside_the_columns_is_checked_too(data: object, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        Plan.from_dict(data)  # type: ignore[arg-type]


def test_numpys_and_torchs_numbers_become_plain_data() -> None:
    row = {
        "size": np.array([1, 1]),
        "top_k": np.int64(3),
        "temperature": torch.tensor(0.5),
        "guidance": [np.float32(1)],
    }
    assert Row(**row) == Row(size=(1, 1), top_k=3, temperature=0.5)  # type: ignore[arg-type]
    numpys: dict[str, Any] = {"guidance_scale": np.float32(2), "top_k": np.int8(4)}
    plan = default_plan(tiny_var(), **numpys)
    assert json.loads(json.dumps(plan.to_dict())) == json.loads(
        json.dumps(default_plan(tiny_var(), guidance_scale=2.0, top_k=4).to_dict())
    )


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"guidance": (float("nan"), 1.0)}, "sum to nan; they must sum to 1"),
        ({"smooth": (float("nan"), 1.0)}, "smooth is"),
        ({"smooth": (1.0, float("inf"))}, "smooth is"),
        ({"tempreture": 1}, "a plan has no column 'tempreture'; it has size, model"),
    ],
)
def test_columns_that_are_not_finite_or_not_there(columns: dict, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        PLAN.with_column(**columns)


@pytest.mark.parametrize(
    "arguments", [{"guidance_scale": "3"}, {"guidance_scale": True}, {"top_k": 2.0}, {"smooth": 1}]
)
def test_a_default_plan_says_which_argument_is_wrong(arguments: dict) -> None:
    with pytest.raises(PlanError, match=f"{next(iter(arguments))} is .*; it must be"):
        default_plan(tiny_var(), **arguments)


def test_rows_are_rows_and_a_prefix_has_a_whole_number() -> None:
    with pytest.raises(PlanError, match="the rows of a plan are 3; expected a list of Row"):
        Plan(3)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="the number of scales is 'x'; it must be a whole number"):
        PLAN.prefix("x")  # type: ignore[arg-type]
    assert replace(PLAN, rows=list(PLAN.rows)) == PLAN  # type: ignore[arg-type]


WHOLE = Plan(
    (
        Row(size=(1, 1), guidance=(2.0, -0.5, -0.5), cull="best", population=2, keep="given"),
        Row(
            size=(2, 3),
            guidance=(2.0, -1.0, 0.0),
            blocks=(0, 1, 4),
            condition=("class",),
            guidance_block=1,
            passes=(2, 4),
            again_guidance=(1.0, 0.0, 0.0),
        ),
        Row(size=(4, 4), guidance=(1.0, 0.0, 0.0), model="refiner", smooth=(1.0, 0.5), order=ORDER[::-1]),
    ),
    branches=(("class", "subject"), ("subject",), ()),
    memories={"model": MemoryPlan("full", {"keep_last": True}), "refiner": MemoryPlan("none", takeover="empty")},
    candidates=4,
    undrawn=((5, 5),),
    decode=False,
)


def test_every_column_survives_json_as_what_it_was() -> None:
    back = Plan.from_dict(json.loads(json.dumps(WHOLE.to_dict())))
    assert back == WHOLE
    assert back.memories == WHOLE.memories
    assert isinstance(back.branches[0], tuple)
    assert isinstance(back.rows[1].passes, tuple)


def test_a_plan_of_format_1_is_read() -> None:
    """Branches follow from the number of weights, memories from the rows."""
    rows = [
        {"size": [1, 1], "guidance": [1.5, -0.5], "memory": "recurrent"},
        {"size": [2, 2], "guidance": [2, -1], "model": "refiner"},
    ]
    plan = Plan.from_dict({"rows": rows})
    assert plan.branches == (("class",), ())
    assert plan.memories == {"model": MemoryPlan("recurrent"), "refiner": MemoryPlan("full")}
    assert Plan.from_dict({"rows": [{"size": [1, 1]}]}).branches == (("class",),)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"format": 3}, "the plan has the format 3; this version reads 1 and 2"),
        ({"format": "2"}, "the plan has the format '2'"),
        ({"format": True}, "the plan has the format True"),
        ({"rows": [], "branches": [[]]}, r"format 1 is a table .*'format'; found \['branches'\]"),
        ({"format": 2, "rows": [], "colours": 1}, r"format 2 is a table .*'branches'.*; found \['colours'\]"),
        ({"format": 2, "rows": [Row(size=(1, 1)).__dict__ | {"topp": 1}]}, r"must have a size; found \['topp'\]"),
        ({"format": 2, "rows": [{"size": [1, 1], "memory": "full"}]}, "must have a size; found .*memory"),
        ({"rows": [{"size": [1, 1], "passes": [1]}]}, "must have a size; found .*passes"),
        ({"rows": [{"size": [1, 1], "guidance": [1, 0, 0]}]}, "3 branches and does not say what they see"),
        ({"rows": [{"size": [1, 1], "memory": 3}]}, "policy is 3, of the wrong type"),
        (
            {"rows": [{"size": [1, 1]}, {"size": [2, 2], "memory": "recurrent"}]},
            "row 1 has the memory 'recurrent' after 'full'; one model keeps one kind of memory",
        ),
        ({"format": 2, "branches": "class"}, "branches is 'class'; it must be a list of lists of names"),
        ({"format": 2, "branches": []}, "at least one branch"),
        ({"format": 2, "candidates": 0}, "0 candidates per prompt; expected at least 1"),
        ({"format": 2, "candidates": "2"}, "candidates is '2'; it must be a whole number"),
        ({"format": 2, "memories": []}, "memories are .*; expected a table of model names and memories"),
        ({"format": 2, "memories": {"model": {"budget": 1}}}, "a memory has policy, settings, calibration, takeover"),
        ({"format": 2, "memories": {"other": {}}}, "a memory for 'other', but its rows draw with model"),
    ],
)
def test_foreign_formats_branches_and_memories_are_refused(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        Plan.from_dict({"rows": [{"size": [1, 1]}], **data})
