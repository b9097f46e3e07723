"""Masked refinement: several passes over a scale, each of which draws the least sure tokens anew (arXiv 2506.04421).

For models with a masked branch. A refinement lists, from the second scale on (2x2 in published schedules), how many
tokens stay after each pass; scales that it does not list are drawn at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from nextscale.errors import PlanError, quoted
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan, shaped_plan
from nextscale.values import is_whole, listed, plain

PAPER = "1,3;1,1,2,5"
"""Two passes over 2x2 and four over 3x3: the fourteen steps of the paper's ten scales."""
EXPECTED = 'expected "paper", "none", or how many tokens stay after each pass over the second scale, the third, ..., '
EXPECTED += f'as in "{PAPER}"'


def refined(plan: Plan, passes: str | Sequence[Sequence[int]]) -> Plan:
    """The same plan with these passes over its scales; the later ones are guided by the first branch alone, as good as
    published (where the other one weighs 1e-6).

    passes: "paper", "none", or lists of numbers from the second scale on, also as text, "1,3;1,1,2,5". Raises
    ``PlanError`` where they do not add up to a scale's tokens, are more than there are scales, or tokens cannot be told
    by how sure they are.
    """
    lists = parsed(passes)
    if len(lists) >= len(plan.schedule):
        raise PlanError(
            f"refine lists passes for {len(lists)} scales; expected at most {len(plan.schedule) - 1}, those after the "
            "first"
        )
    rows = list(plan.rows)
    for k, stay in enumerate(lists[: len(rows) - 1], 1):
        h, w = rows[k].size
        if min(stay) < 1 or sum(stay) != h * w:
            said = ",".join(map(str, stay))
            raise PlanError(
                f"refine has {said} for the scale {h}x{w}; expected numbers of at least 1 that add up to its {h * w} "
                f"tokens, and these add up to {sum(stay)}"
            )
        if len(stay) > 1:
            unguided = (1.0, *(0.0,) * (len(plan.branches) - 1))
            rows[k] = replace(rows[k], passes=stay, again_guidance=unguided)
    return replace(plan, rows=tuple(rows))


def refined_plan(model: NextScaleModel, stride: int, *, refine: Any = None, **sampling: Any) -> Plan:
    """The plan of a plain generation, see :func:`nextscale.plan.shaped_plan`, refined as ``refine`` says. Raises
    ``PlanError`` where the model has no masked branch.
    """
    plan = shaped_plan(model, stride, **sampling)
    if refine is not None and parsed(refine) and not model.has_passes:
        raise PlanError(f"refine is {quoted(refine)}, but this model draws every scale in one pass; leave it out")
    return plan if refine is None else refined(plan, refine)


def parsed(passes: Any) -> list[tuple[int, ...]]:
    """What ``refine`` is given, as lists of numbers. Raises ``PlanError`` for what is none."""
    if isinstance(passes, str):
        text = PAPER if passes == "paper" else passes.replace(" ", "")
        if text == "none":
            return []
        if re.fullmatch(r"[0-9]{1,6}([,;][0-9]{1,6})*", text) is None:
            raise PlanError(f"refine is {quoted(passes)}; {EXPECTED}")
        return [tuple(map(int, one.split(","))) for one in text.split(";")]
    lists = [listed(one) for one in listed(passes) or [None]]
    found = [tuple(map(plain, one or ())) for one in lists]
    if not all(one and all(map(is_whole, one)) for one in found):
        raise PlanError(f"refine is {quoted(passes)}; {EXPECTED}")
    return found
