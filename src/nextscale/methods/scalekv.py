"""ScaleKV (arXiv 2505.19602): a plan whose model keeps a part of its key-value memory, more in layers that look back.

>>> from nextscale.memory.scalekv_calibration import read_calibration
>>> calibration = read_calibration("calibration.json")  # doctest: +SKIP
>>> plan = scalekv(pipe.plan(guidance_scale=2.0), calibration, 0.1)  # doctest: +SKIP
>>> pipe("red heart", plan=plan, parts={"calibration": calibration})  # doctest: +SKIP
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nextscale.errors import PlanError, quoted
from nextscale.memory.base import MemoryPlan
from nextscale.memory.scalekv_calibration import Calibration, Table
from nextscale.memory.scalekv_rules import lowest
from nextscale.plan import Plan
from nextscale.values import is_real, plain

CALIBRATION = "calibration"
"""The part that holds one, where it has no other name."""
DRAFTERS = 1 / 16
"""The share of pairs of a scale and a layer that are drafters. Published: 9 of 160 pairs, and 15 of 200."""


def scalekv(
    plan: Plan,
    calibration: Calibration,
    budget: float | None = None,
    *,
    drafters: float = DRAFTERS,
    floor: int | None = None,
    allocation: str = "saturate",
    literal: bool = False,
    window: int = 16,
    kernel: int = 5,
    score: str = "logits",
    model: str = "model",
    part: str = CALIBRATION,
) -> Plan:
    """The same plan with this memory for one of its models.

    budget: what a layer keeps on average: up to 1 a share of all tokens before the last scale, above 1 that many
    tokens; a table of the authors has its own. drafters, floor (least of a layer: a third of the budget, or the
    window), allocation, literal: see ``Statistics.table``, for which they are; window, kernel, score: see
    ``scalekv_rules``; model: the name of the model; part: what the calibration is handed over as, beside the plan.
    Raises ``PlanError`` for a budget that is none; all else is refused by what draws or prices the plan.
    """
    if model not in plan.memories:
        raise PlanError(f"the plan has no model {quoted(model)}; it draws with {', '.join(plan.memories)}")
    settings: dict[str, Any] = {"window": window, "kernel": kernel, "score": score}
    if isinstance(calibration, Table):
        settings["budget"] = calibration.budget if budget is None else tokens_of(budget, plan)
    else:
        if budget is None:
            raise PlanError("no budget was given; expected a share, such as 0.1, or a number of tokens")
        settings["budget"] = tokens = tokens_of(budget, plan)
        settings |= {"floor": lowest(tokens, window) if floor is None else floor, "drafters": drafters}
        settings |= {"allocation": allocation, "literal": literal}
    memory = MemoryPlan("scalekv", settings, part, plan.memories[model].takeover)
    return replace(plan, memories={**plan.memories, model: memory})


def tokens_of(budget: Any, plan: Plan) -> int:
    """A budget in tokens."""
    found = plain(budget)
    if not is_real(found) or not 0 < found < 2**40 or (found > 1 and found != int(found)):
        raise PlanError(f"the budget is {quoted(budget)}; expected a share above 0, up to 1, or a number of tokens")
    return int(found) if found > 1 else max(1, round(found * plan.schedule.offsets[-2]))
