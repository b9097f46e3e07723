"""ScaleKV: a key-value memory in which every layer keeps as much as it looks back (arXiv 2505.19602).

Of what a layer holds every row and head keeps its own: the window, and the best of the rest. Rules in
``scalekv_rules.py``, what they need to know of a model in ``scalekv_calibration.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextscale.errors import PlanError, quoted
from nextscale.layers.slots import SlotSpec
from nextscale.memory.base import Course, Outlook
from nextscale.memory.cut import Look, Rule, cut_outlook, kept_tokens
from nextscale.memory.measured import check_method
from nextscale.memory.scalekv_calibration import Table
from nextscale.memory.scalekv_rules import ALLOCATIONS, SCORES, check_kernel, window_of


@dataclass(frozen=True)
class ScaleKVRule(Rule):
    """window, kernel, score: see ``scalekv_rules.py``."""

    window: int
    kernel: int
    score: str

    def chosen(self, look: Look, count: int) -> Tensor:
        length = look.size[0] * look.size[1]
        window = torch.tensor(window_of(look.size, self.window), device=look.keys.device)
        here, among = window + look.q.shape[2] - length, window + look.tokens - length
        if self.score == "logits":
            assert look.plain is not None, "a slot around this one must hand the plain queries on"
            queries = look.plain(here)
        else:
            queries = look.q[:, :, here]
        scores = SCORES[self.score](queries, look.keys[:, :, look.prefix :], among, self.kernel)
        return kept_tokens(scores, among, count)

    def flops(self, course: Course, k: int, spec: SlotSpec, held: int) -> int:
        asked, width = len(window_of(course.schedule[k], self.window)), spec.heads * spec.width
        among = held - course.prefix
        return 2 * width * (asked * width + among if self.score == "logits" else asked * among)


def outlook(
    course: Course,
    budget: int,
    window: int,
    kernel: int,
    score: str,
    calibration: Any,
    drafters: float | None = None,
    floor: int | None = None,
    allocation: str | None = None,
    literal: bool | None = None,
) -> Outlook:
    """What every layer keeps of ``course``; of a prefix all, which does not count.

    budget: mean tokens of a layer; the last four: see ``Statistics.table``; a table has none of them. Raises
    ``PlanError`` where the settings do not go together, or the calibration is not of this model.
    """
    rule = {"drafters": drafters, "floor": floor, "allocation": allocation, "literal": literal}
    _check_choice(budget, window, kernel, score)
    table = _table(course, budget, window, rule, calibration)

    def most(k: int, block: int) -> int | None:
        allotment = table.allotments.get(k + 1)
        return None if allotment is None or course.seen(k) - course.prefix <= budget else allotment.of(block)

    return cut_outlook(course, most, ScaleKVRule(window, kernel, score))


SETTINGS: Mapping[str, type] = {"budget": int, "window": int, "kernel": int, "score": str, "drafters": float}
SETTINGS = {**SETTINGS, "floor": int, "allocation": str, "literal": bool}
"""Of a plan's memory, with their types; what a budget file says itself is left out."""


def _check_choice(budget: int, window: int, kernel: int, score: str) -> None:
    if window < 1 or math.isqrt(window) ** 2 != window:
        raise PlanError(f"window is {window}; expected the number of a square grid, such as 16")
    if budget < window:
        raise PlanError(f"budget is {budget} tokens; expected at least {window}, the window, which is always kept")
    check_kernel(kernel)
    if score not in SCORES:
        raise PlanError(f"score is {quoted(score)}; expected {' or '.join(SCORES)}")


def _table(course: Course, budget: int, window: int, rule: dict[str, Any], calibration: Any) -> Table:
    """What the calibration gives the blocks. Raises ``PlanError`` where it cannot."""
    check_method(calibration, "scalekv")
    said = [name for name, value in rule.items() if value is not None]
    if isinstance(calibration, Table):
        calibration.check(course)
        if said:
            raise PlanError(
                f"{said[0]} is {quoted(rule[said[0]])}, but a budget file says what blocks keep; leave it out"
            )
        if budget != calibration.budget or calibration.least < window:
            raise PlanError(
                f"budget is {budget} and window {window}, but the budget file has {calibration.budget} tokens a block, "
                f"and blocks that keep {calibration.least}; expected that budget, and a window within these"
            )
        return calibration
    calibration.check(course)
    if len(said) < len(rule):
        raise PlanError(f"scalekv has {', '.join(said) or 'nothing'} of {', '.join(rule)}; expected all of them")
    if not 0 <= rule["drafters"] <= 1:
        raise PlanError(f"drafters is {rule['drafters']}; expected a share, 0 to 1")
    if not window <= rule["floor"] <= budget:
        raise PlanError(f"floor is {rule['floor']}; expected at least the window, {window}, and at most {budget}")
    if rule["allocation"] not in ALLOCATIONS:
        raise PlanError(f"allocation is {quoted(rule['allocation'])}; expected {' or '.join(ALLOCATIONS)}")
    table: Table = calibration.table(budget, **rule)
    return table
