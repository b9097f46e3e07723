"""Plans: plain data that survives JSON, and the reasons for which one is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nextscale.errors import PlanError
from nextscale.plan import Plan, Row, default_plan
from nextscale.scales import ScaleSchedule
from tests.makers import tiny_var

PLAN = default_plan(tiny_var(), guidance_scale=3.0, top_k=5, top_p=0.9, temperature=0.8, smooth=True)


def test_a_plan_survives_json() -> None:
    assert Plan.from_dict(json.loads(json.dumps(PLAN.to_dict()))) == PLAN
    short = PLAN.prefix(2)
    assert Plan.from_dict(json.loads(json.dumps(short.to_dict()))) == short


def test_defaults_are_left_out_of_the_recipe() -> None:
    plain = default_plan(tiny_var()).to_dict()
    assert plain["rows"][0] == {"size": (1, 1)}
    assert set(plain) == {"rows"}


def test_guidance_one_means_one_branch() -> None:
    assert default_plan(tiny_var()).branches == 1
    assert PLAN.branches == 2
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
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be a whole number"),
        ({"top_p": 1.2}, "top_p is 1.2; it must lie between 0 and 1"),
        ({"order": ("top_k",)}, "order is"),
        ({"smooth": (1.0, 0.0)}, "smooth is"),
        ({"guidance": (0.5, 0.4)}, "sum to 0.9; they must sum to 1"),
        ({"guidance": ()}, "guidance has 0 branches"),
        ({"blocks": (1, 0)}, "ascending order"),
        ({"memory": "perfect"}, "no memory 'perfect'"),
    ],
)
def test_impossible_rows_are_refused_with_the_reason(columns: dict, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        PLAN.with_column(**columns)


def test_branches_cannot_change_on_the_way() -> None:
    rows = (PLAN.rows[0], replace(PLAN.rows[1], guidance=(1.0,)))
    with pytest.raises(PlanError, match=r"row 1 .*1 branches, row 0 has 2"):
        Plan(rows)


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
    with pytest.raises(PlanError, match="guidance_scale is -1"):
        default_plan(tiny_var(), guidance_scale=-1)


def test_rows_are_plain_data() -> None:
    assert Row(size=(1, 1)) == Row(size=(1, 1))
    assert hash(PLAN) == hash(Plan(PLAN.rows))
