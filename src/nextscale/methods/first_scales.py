"""The coarse scales of a given image, finer ones drawn anew: variations that keep a layout.

The official code of Infinity (arXiv 2412.04431) calls this a leak of ground truth. Nothing is trained.
"""

from __future__ import annotations

from dataclasses import replace

from nextscale.errors import PlanError, quoted
from nextscale.plan import Plan
from nextscale.values import is_whole, plain


def first_scales(plan: Plan, count: int, part: str = "given") -> Plan:
    """The same plan, whose first ``count`` scales are those that the part named ``part`` holds, a ``GivenTokens``
    (``GivenTokens.whole(tokens)`` keeps whole maps). Raises ``PlanError`` for more scales than the plan draws.
    """
    scales = plain(count)
    if not is_whole(scales) or not 0 <= scales <= len(plan.rows):
        raise PlanError(f"count is {quoted(count)}; expected a number of scales from 0 to {len(plan.rows)}")
    rows = (replace(row, keep=part) if k < scales else row for k, row in enumerate(plan.rows))
    return replace(plan, rows=tuple(rows))
