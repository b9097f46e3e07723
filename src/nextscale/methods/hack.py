"""HACK (arXiv 2504.09261): a plan whose model keeps a part of its key-value memory, more in heads that look around the
place where they stand than in heads that look at the same few tokens from everywhere.

>>> from nextscale.memory.calibration import read_calibration
>>> calibration = read_calibration("heads.json")  # doctest: +SKIP
>>> plan = hack(pipe.plan(guidance_scale=2.0), 0.5)  # doctest: +SKIP
>>> pipe("red heart", plan=plan, parts={"calibration": calibration})  # doctest: +SKIP
"""

from __future__ import annotations

from nextscale.methods.remember import CALIBRATION, tokens_of, with_memory
from nextscale.plan import Plan

ALPHA, SHARE = 0.5, 1 / 3
"""Ours: half of the heads are contextual, and hold a third of the mean. At a budget of 30 % these hold 10 % of the
tokens and the others half, which the paper finds to be about as little as each of them tolerates.
"""
QUERIES = 32
"""The authors' number."""


def hack(
    plan: Plan,
    budget: float,
    *,
    alpha: float = ALPHA,
    contextual_share: float = SHARE,
    queries: int = QUERIES,
    protected: int = 2,
    merge: bool = True,
    model: str = "model",
    part: str = CALIBRATION,
) -> Plan:
    """The same plan with this memory for one of its models.

    budget: what a head holds on average, the tokens of the scale at hand among it: up to 1 a share of all tokens, above
    1 that many; alpha: the share of heads that are contextual; contextual_share: what these hold, as a share of the
    budget; queries: how many of a map choose what stays; protected: the first scales that structural heads always hold;
    merge: whether contextual heads mix in at the last scale what they drop; model: the name of the model; part: what
    the calibration is handed over as, beside the plan. Raises ``PlanError`` for a budget that is none, and as
    ``with_memory`` does; all else is refused by what draws or prices the plan.
    """
    settings = {"budget": tokens_of(budget, plan, last=True), "alpha": alpha, "contextual_share": contextual_share}
    settings |= {"queries": queries, "protected": protected, "merge": merge}
    return with_memory(plan, "hack", settings, part, model)
