"""Laws of methods together: every memory that drops entries with fewer blocks, given coarse scales, passes and
candidates. Each keeps its own law: with all it may have, the other one is left as if alone.
"""

from __future__ import annotations

from typing import Any

import pytest

from nextscale.errors import PlanError
from nextscale.given import GivenTokens
from nextscale.methods.baselines import BASELINES
from nextscale.methods.first_scales import first_scales
from nextscale.methods.hack import hack
from nextscale.methods.refine import refined
from nextscale.methods.scalekv import scalekv
from nextscale.methods.variant import variant
from nextscale.plan import Plan, default_plan
from nextscale.price import price
from tests.laws.test_hack import heads
from tests.laws.test_loop import Best, culled, run, same
from tests.laws.test_scalekv import statistics
from tests.makers import MODELS, tiny_hmar, tokenizer_of
from tests.test_price import counted

pytestmark = pytest.mark.filterwarnings("ignore:scale . runs the blocks")

POLICIES = ("scalekv", "hack", *BASELINES)
LESS = {"hack": 9.0}
"""Of how many tokens a layer or head holds; 8 where nothing stands."""
PAIRS = [(name, "var") for name in POLICIES] + [
    (name, kind) for name in ("hack", "h2o") for kind in ("flexvar", "infinity")
]
pairs = pytest.mark.parametrize(("name", "kind"), PAIRS)


class Case:
    """A model, a policy, what its calibration is, and a guided plan."""

    def __init__(self, name: str, kind: str) -> None:
        self.model = MODELS[kind]()
        self.name, self.budget = name, LESS.get(name, 8.0)
        self.plan = default_plan(self.model, guidance_scale=2.0, top_k=1)
        measured: dict[str, Any] = {"scalekv": statistics, "hack": heads}
        self.parts: dict[str, Any] = {"calibration": measured[name](self.model)} if name in measured else {}

    def cut(self, plan: Plan, budget: float) -> Plan:
        """A smaller memory."""
        if self.name == "scalekv":
            return scalekv(plan, statistics(self.model), budget, window=4, kernel=3)
        return {"hack": hack, **BASELINES}[self.name](plan, budget)

    def fewer(self, plan: Plan, full_scales: int = 2) -> Plan:
        """Two blocks after the first scales."""
        return variant(plan, self.model, full_scales, 2)

    def drawn(self, plan: Plan, **more: Any) -> Any:
        return run(plan, self.model, **self.parts | more)


@pairs
def test_fewer_blocks_and_a_smaller_memory_go_together_in_any_order(name: str, kind: str) -> None:
    """And what is remembered is what was predicted."""
    case = Case(name, kind)
    plan = case.cut(case.fewer(case.plan), case.budget)
    assert plan == case.fewer(case.cut(case.plan, case.budget))
    parts = case.parts | {"tokenizer": tokenizer_of(case.model), "model": case.model}
    flops, live = counted(plan, case.model, 2, **case.parts)
    priced, alone = price(plan, parts, 2), price(case.fewer(case.plan), parts, 2)
    assert [line.memory for line in priced.lines[1:-1]] == live
    assert priced.flops == pytest.approx(flops, rel=0.02)
    assert max(live) < max(line.memory for line in alone.lines)


@pairs
def test_with_all_it_may_have_each_leaves_the_other_as_if_alone(name: str, kind: str) -> None:
    case, every = Case(name, kind), 1.0
    fewer, smaller = case.fewer(case.plan), case.cut(case.plan, case.budget)
    assert same(case.drawn(case.cut(fewer, every)), case.drawn(fewer))
    assert case.fewer(smaller, len(case.plan.rows)) == smaller
    assert not same(case.drawn(fewer), case.drawn(case.plan)), "the law would hold for methods that do nothing"


@pairs
def test_given_coarse_scales_stand_and_candidates_are_chosen(name: str, kind: str) -> None:
    case = Case(name, kind)
    plan = case.cut(case.fewer(case.plan), case.budget)
    whole = case.drawn(case.plan)
    given = GivenTokens.whole([event.tokens for event in whole])
    events = case.drawn(first_scales(plan, 2), given=given)
    assert same(events[:2], whole[:2])
    several = case.drawn(culled(plan, 2, {1: 1}), best=Best())
    assert same(several[2:], case.drawn(plan)[2:])


def test_passes_over_a_scale_run_the_blocks_of_the_plan() -> None:
    """A later pass runs those blocks of its branch that the first one ran; either order is the same plan."""
    model = tiny_hmar(1)
    plan = default_plan(model, guidance_scale=2.0)
    both = variant(refined(plan, "1,3"), model, 1, 2)
    assert both == refined(variant(plan, model, 1, 2), "1,3")
    assert len(run(both, model)) == len(plan.rows)
    assert not same(run(both, model), run(refined(plan, "1,3"), model))


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("kind", "reads"), [("m-var", "a recurrent state"), ("hmar", "nothing of earlier scales")])
def test_a_model_without_keys_of_the_past_says_why_it_refuses_after_any_method(
    name: str, kind: str, reads: str
) -> None:
    case = Case(name, kind)
    with pytest.raises(PlanError, match=f"this model reads {reads}"):
        case.drawn(case.cut(case.fewer(case.plan), case.budget))
