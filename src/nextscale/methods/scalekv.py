"""ScaleKV (arXiv 2505.19602): a plan whose model keeps a part of its key-value memory, more in layers that look back.

>>> from nextscale.memory.calibration import read_calibration
>>> calibration = read_calibration("calibration.json")  # doctest: +SKIP
>>> plan = scalekv(pipe.plan(guidance_scale=2.0), calibration, 0.1)  # doctest: +SKIP
>>> pipe("red heart", plan=plan, parts={"calibration": calibration})  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from nextscale.errors import PlanError
from nextscale.memory.calibration import Calibration
from nextscale.memory.scalekv_calibration import Table
from nextscale.memory.scalekv_rules import lowest
from nextscale.methods.remember import CALIBRATION, tokens_of, with_memory
from nextscale.plan import Plan

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
    Raises ``PlanError`` for a budget that is none, and as ``with_memory`` does; all else is refused by what draws or
    prices the plan.
    """
    settings: dict[str, Any] = {"window": window, "kernel": kernel, "score": score}
    if isinstance(calibration, Table):
        settings["budget"] = calibration.budget if budget is None else tokens_of(budget, plan)
    else:
        if budget is None:
            raise PlanError("no budget was given; expected a share, such as 0.1, or a number of tokens")
        settings["budget"] = tokens = tokens_of(budget, plan)
        settings |= {"floor": lowest(tokens, window) if floor is None else floor, "drafters": drafters}
        settings |= {"allocation": allocation, "literal": literal}
    return with_memory(plan, "scalekv", settings, part, model)
