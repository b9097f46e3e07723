"""What methods that change a model's memory share: the memory's place in a plan, and budgets in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nextscale.errors import PlanError, quoted
from nextscale.memory.base import MemoryPlan
from nextscale.memory.make import policies
from nextscale.plan import Plan
from nextscale.values import is_real, plain

CALIBRATION = "calibration"
"""The part that holds one, where it has no other name."""


def with_memory(
    plan: Plan, policy: str, settings: Mapping[str, Any], calibration: str | None = None, model: str = "model"
) -> Plan:
    """The same plan with this memory for one of its models, in place of a full one. Arguments as of ``MemoryPlan``.

    Raises ``PlanError`` where the plan has no such model, or another method gave it a memory; a model that such a
    memory does not suit is refused by what draws or prices the plan.
    """
    if not isinstance(model, str) or model not in plan.memories:
        raise PlanError(f"the plan has no model {quoted(model)}; it draws with {', '.join(plan.memories)}")
    before, known = plan.memories[model], policies()
    if before.policy != "full" and known[before.policy].serves == known[policy].serves:
        raise PlanError(
            f"{policy} would replace {before.policy}, the memory that another method gave {quoted(model)}; expected "
            "one of them, since a model has one memory"
        )
    return replace(plan, memories={**plan.memories, model: MemoryPlan(policy, settings, calibration, before.takeover)})


def tokens_of(budget: Any, plan: Plan, last: bool = False) -> int:
    """A budget in tokens: up to 1 a share of all tokens before the last scale, or (last) of that one's, too, above 1
    that many tokens. Raises ``PlanError`` for what is none.
    """
    found = plain(budget)
    if not is_real(found) or not 0 < found < 2**40 or (found > 1 and found != int(found)):
        raise PlanError(f"the budget is {quoted(budget)}; expected a share above 0, up to 1, or a number of tokens")
    return int(found) if found > 1 else max(1, round(found * plan.schedule.offsets[-1 if last else -2]))
