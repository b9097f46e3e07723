"""``--methods`` is a list: its methods are carried out in the order in which they stand."""

from __future__ import annotations

from typing import Any

import pytest

from nextscale.cli.methods import METHODS, Method, handed_over, with_methods
from nextscale.errors import InputError, PlanError
from nextscale.memory.base import MemoryPlan
from nextscale.methods.remember import with_memory
from nextscale.plan import Plan, default_plan
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
