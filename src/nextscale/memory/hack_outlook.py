"""What HACK will keep and attend to, known before anything runs: what each kind of head holds at each scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from nextscale.errors import PlanError
from nextscale.layers.slots import Count, SlotSpec
from nextscale.memory import full, none
from nextscale.memory.base import Course, Outlook
from nextscale.memory.hack_calibration import Heads
from nextscale.memory.hack_rules import budgets
from nextscale.memory.measured import check_method


class Kind(NamedTuple):
    """The heads of a slot that are of one kind, ascending."""

    heads: tuple[int, ...]
    structural: bool


class Step(NamedTuple):
    """Tokens of each of these heads at one scale, a prefix included: before it is cut, in attention, and kept."""

    held: int
    attended: int
    kept: int


@dataclass(frozen=True)
class HackOutlook(Outlook):
    """kinds: of every slot; steps: ``steps[k][i]``, one for each kind of slot i; queries: how many choose; ahead:
    tokens of the first scales that structural heads always hold; grid: of the newest map, the most of those that they
    hold whatever their scores; merge: whether contextual heads mix in at the last scale what they drop.
    """

    kinds: tuple[tuple[Kind, ...], ...]
    steps: tuple[tuple[tuple[Step, ...], ...], ...]
    queries: int
    ahead: int
    grid: int
    merge: bool

    def merges(self, k: int, kind: Kind) -> bool:
        return self.merge and not kind.structural and k + 1 == len(self.course.schedule)

    def drop_flops(self, k: int) -> int:
        asked, flops = min(self.queries, self.course.schedule.lengths[k]), 0
        for spec, kinds, steps in zip(self.course.slots, self.kinds, self.steps[k], strict=True):
            for kind, step in zip(kinds, steps, strict=True):
                drop = step.held - step.attended
                looked = asked * step.held if drop else 0
                looked += drop * (step.attended - self.course.prefix) if self.merges(k, kind) else 0
                flops += 2 * len(kind.heads) * spec.width * looked
        return flops


def outlook(
    course: Course,
    budget: int,
    alpha: float,
    contextual_share: float,
    queries: int,
    protected: int,
    merge: bool,
    calibration: Any,
) -> Outlook:
    """What every head holds of ``course``; of a prefix all, which does not count.

    budget: mean tokens of a head, those at hand included; alpha: the share of heads that are contextual;
    contextual_share: what each of these holds, as a share of the budget; queries: of a map, how many choose; protected:
    how many of the first scales structural heads always hold; merge: whether contextual heads mix in at the last scale
    what they drop. Raises ``PlanError`` where these do not go together, or the calibration is not of this model.
    """
    if not 0 <= alpha <= 1 or not 0 < contextual_share <= 1 or queries < 1 or protected < 0:
        raise PlanError(
            f"alpha is {alpha}, contextual_share {contextual_share}, queries {queries} and protected {protected}; "
            "expected 0 to 1, above 0 and up to 1, 1 or more, and 0 or more"
        )
    check_method(calibration, "hack")
    calibration.check(course)
    contextual: Heads = calibration.contextual(alpha)
    few, heads, schedule = sum(map(len, contextual)), sum(map(len, calibration.variance)), course.schedule
    ahead = max(0, schedule.offsets[min(protected, len(schedule))] - schedule.offsets[course.first])
    least, most = budgets(budget, schedule.tokens, few, heads - few, contextual_share)
    _check_budget(budget, most, heads - few, ahead)
    kinds = tuple(_kinds(spec, contextual[spec.block]) for spec in course.slots)
    steps = tuple(_steps(course, kinds, (least, most)))
    own, whole = none.outlook(course).attended, full.outlook(course)
    kept = tuple(
        tuple(_mean(some, (step.kept for step in at)) for some, at in zip(kinds, row, strict=True)) for row in steps
    )
    attended = tuple(
        tuple(
            _mean(some, (step.attended for step in at)) if some else n
            for some, at, n in zip(kinds, row, alone, strict=True)
        )
        for row, alone in zip(steps, own, strict=True)
    )
    if (kept, attended) == (whole.kept, whole.attended):
        return whole
    return HackOutlook(course, kept, attended, kinds, steps, queries, ahead, max(1, most - ahead), merge)


SETTINGS: Mapping[str, type] = {"budget": int, "alpha": float, "contextual_share": float, "queries": int}
SETTINGS = {**SETTINGS, "protected": int, "merge": bool}
"""Of a plan's memory, with their types."""


def _check_budget(budget: int, most: int, structural: int, ahead: int) -> None:
    least = ahead + 1 if structural else 1
    if budget < 1 or most < least:
        raise PlanError(
            f"budget is {budget} tokens a head, {most} for each of the {structural} structural heads; expected at "
            f"least {least} for these: the {ahead} tokens of the first scales, which they always hold, and one more"
        )


def _kinds(spec: SlotSpec, contextual: frozenset[int]) -> tuple[Kind, ...]:
    """The heads of a slot by their kinds, of which there may be one; none where it sees no earlier scale."""
    every = range(spec.heads if spec.reads == "past" else 0)
    split = {structural: tuple(h for h in every if (h in contextual) != structural) for structural in (False, True)}
    return tuple(Kind(heads, structural) for structural, heads in split.items() if heads)


def _steps(
    course: Course, kinds: Sequence[Sequence[Kind]], budget: tuple[int, int]
) -> Iterator[tuple[tuple[Step, ...], ...]]:
    """What the kinds of every slot hold at each scale; budget: of a contextual and of a structural head."""
    before = [[0 if course.with_first else course.prefix] * len(some) for some in kinds]
    for k in range(len(course.blocks)):
        row = []
        for i, some in enumerate(kinds):
            last, found = course.last_of(i), []
            for g, kind in enumerate(some):
                if not course.first <= k <= last:
                    found.append(Step(0, 0, 0))
                    continue
                held = before[i][g] + course.tokens(k)
                attended = min(held, budget[kind.structural] + course.prefix)
                before[i][g] = attended if k < last else before[i][g]  # no later scale reads what the last one saw
                found.append(Step(held, attended, before[i][g]))
            row.append(tuple(found))
        yield tuple(row)


def _mean(kinds: Sequence[Kind], numbers: Iterable[int]) -> Count:
    """Tokens per head, of as many for each of the kinds."""
    counted = sum(len(kind.heads) * number for kind, number in zip(kinds, numbers, strict=True))
    return Fraction(counted, max(1, sum(len(kind.heads) for kind in kinds)))
