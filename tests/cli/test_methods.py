"""``--methods`` is a list: its methods are carried out in the order in which they stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nextscale.cli.methods import METHODS, Method, handed_over, with_methods
from nextscale.errors import InputError, PlanError
from nextscale.memory.base import MemoryPlan
from nextscale.methods.remember import with_memory
from nextscale.plan import Plan, default_plan
from tests.cli.conftest import Command
from tests.makers import tiny_m_var, tiny_var


@pytest.fixture(autouse=True)
def _two_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def prefix(plan: Plan, count: int, calibration: Any) -> Plan:
        assert calibration is None
        return plan.prefix(count)

    def top_k(plan: Plan, count: int, calibration: Any) -> Plan:
        return plan.with_column(top_k=len(plan.rows) if count == 0 else count)

    monkeypatch.setitem(METHODS, "prefix", Method("prefix:N, a number of scales", int, prefix))
    monkeypatch.setitem(METHODS, "top-k", Method("top-k:N, a number of codes", int, top_k))


def test_methods_are_carried_out_in_their_order() -> None:
    plan = default_plan(tiny_var())
    for said, expected in (("prefix:2,top-k:0", 2), ("top-k:0, prefix:2", 4)):
        assert handed_over(said, None) == {}
        found = with_methods(plan, said, {})
        assert [row.top_k for row in found.rows] == [expected] * 2
    assert with_methods(plan, None, {}) is plan


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("prefix:2,magic:3", "--methods has 'magic'; expected some of scalekv, .*, joined by commas"),
        ("prefix:two,top-k:1", "--methods has 'prefix:two'; expected prefix:N, a number of scales"),
        ("prefix:2,,top-k:1", "--methods has ''; expected some of"),
        ("prefix:2,scalekv:0.1", "--methods scalekv needs --calibration FILE"),
    ],
)
def test_a_method_of_a_list_that_cannot_be_read_is_named(said: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        handed_over(said, None)


def test_a_second_memory_does_not_replace_the_first() -> None:
    settings = {"budget": 16, "window": 16, "kernel": 5, "score": "logits"}
    once = with_memory(default_plan(tiny_var()), "scalekv", settings, "calibration")
    assert once.memories == {"model": MemoryPlan("scalekv", settings, "calibration")}
    with pytest.raises(PlanError, match="scalekv would replace scalekv, the memory that another method gave 'model'"):
        with_memory(once, "scalekv", settings | {"budget": 20}, "calibration")
    with pytest.raises(PlanError, match="no model 'refiner'; it draws with model"):
        with_memory(once, "scalekv", settings, "calibration", "refiner")
    recurrent = with_memory(default_plan(tiny_m_var()), "scalekv", settings, "calibration")
    assert recurrent.memories["model"].policy == "scalekv"  # refused where the model is known, with the reason


@pytest.mark.parametrize("name", ["window", "streaming", "h2o", "snapkv", "pyramidkv"])
def test_a_baseline_needs_no_calibration(name: str) -> None:
    plan = default_plan(tiny_var())
    found = with_methods(plan, f"{name}:0.5", handed_over(f"{name}:0.5", None)).memories["model"]
    assert (found.policy, found.settings["budget"], found.calibration) == (name, 7, None)
    with pytest.raises(
        InputError, match=f"--methods has '{name}'; expected {name}:X, a share such as 0.5, or a number"
    ):
        handed_over(name, None)
    with pytest.raises(InputError, match="--calibration is for --methods scalekv or hack, which was not given"):
        handed_over(f"{name}:6", Path("some.json"))
    with pytest.raises(PlanError, match=f"h2o would replace {name}, the memory"):
        with_methods(plan, f"{name}:0.5,h2o:0.5", {})


def test_what_was_drawn_with_a_baseline_is_priced_told_and_repeated(nextscale: Command, tiny_model: Path) -> None:
    words = ["--methods", "h2o:8", "--dtype", "float32", "--json"]
    told = json.loads(nextscale("plan", tiny_model, *words, "--guidance-scale", 1).out)
    # Keys and values of 2 x 32 numbers in three layers; before the last cut a sum for each token of the four heads.
    assert [row["memory"] for row in told["rows"][1:5]] == [
        3 * n * 4 * (2 * 32) + 3 * m * 4 * 4 for n, m in ((1, 1), (5, 5), (8, 0), (8, 0))
    ]
    assert [row["attended"] for row in told["rows"][1:5]] == [1, 5, 14, 24]
    drawn = json.loads(nextscale("generate", "--model", tiny_model, "-c", "flag", "--seed", 3, *words, "-o", "one").out)
    picture = drawn["images"][0]["file"]
    again = nextscale("generate", "--model", tiny_model, "--like", picture, "-o", "again", "--json")
    assert again.code == 0, again.err
    assert Image.open(json.loads(again.out)["images"][0]["file"]).tobytes() == Image.open(picture).tobytes()
