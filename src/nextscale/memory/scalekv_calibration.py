"""What ScaleKV knows of a model before it draws: measured by us, or published by its authors.

``Statistics`` say where a model's attention goes; with a budget they become a ``Table`` of what every block keeps. The
authors publish such tables alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nextscale.errors import InputError, PlanError, quoted
from nextscale.files import write_text
from nextscale.memory.base import Course
from nextscale.memory.measured import Measured, check_depth, digest_of
from nextscale.memory.scalekv_rules import Allotment, allotted, compressed, drafters_of, selectivity
from nextscale.scales import ScaleSchedule
from nextscale.settings import check_bounds
from nextscale.values import is_whole

COUNTS = ("High", "Max", "Min", "Limit")
"""What a scale of an official file has beside its blocks: drafters, what these keep, what the others keep, and how much
a drafter can hold.
"""


@dataclass(frozen=True)
class Table:
    """What the blocks keep for the scales that have more than a budget before them, by the number of the scale."""

    depth: int
    allotments: Mapping[int, Allotment]
    method: Literal["scalekv"] = "scalekv"

    @property
    def budget(self) -> int:
        """Mean tokens per block at the first of these scales."""
        return round(sum(map(next(iter(self.allotments.values())).of, range(self.depth))) / self.depth)

    @property
    def least(self) -> int:
        return min(one.least for one in self.allotments.values())

    @cached_property
    def digest(self) -> str:
        return digest_of(self.to_official())

    def check(self, course: Course) -> None:
        """Raises ``PlanError`` where it was made for another depth or schedule than that of ``course``."""
        check_depth(self.depth, course)
        schedule, first = course.schedule, next(iter(self.allotments))
        limit, expected = self.allotments[first].limit, compressed(schedule, self.budget)
        if tuple(self.allotments) != expected or limit != schedule.offsets[first]:
            raise PlanError(
                f"the budget file is of the scales {first + 1} to {max(self.allotments) + 1}, with {limit} tokens "
                f"before the first of them; the plan has {len(schedule)} scales, with these tokens before each: "
                f"{', '.join(map(str, schedule.offsets[:-1]))}"
            )

    def to_official(self) -> dict[str, dict[str, int]]:
        """The form of the authors' files."""
        return {
            f"Scale {k + 1}": {f"Block {block}": int(block in one.drafters) for block in range(self.depth)}
            | dict(zip(COUNTS, (len(one.drafters), one.most, one.least, one.limit), strict=True))
            for k, one in self.allotments.items()
        }

    @classmethod
    def from_official(cls, data: Mapping[str, Any], name: str = "the budget file") -> Table:
        """The inverse. Raises ``InputError`` for what is no such file."""
        found, depths = dict[int, Allotment](), set[int]()
        for scale, row in data.items():
            word, _, number = str(scale).partition(" ")
            if word != "Scale" or not number.isdecimal() or not 1 <= int(number[:4]) <= 1000:
                raise InputError(f"{name} has {quoted(scale)}; expected 'Scale N' with N up to 1000")
            found[int(number) - 1] = _allotment(row, f"{name}, {scale}")
            depths.add(len(row) - len(COUNTS))
        first = min(found, default=0)
        if not found or list(found) != list(range(first, first + len(found))) or len(depths) > 1:
            raise InputError(f"{name} has {', '.join(data) or 'no scale'}; expected scales in a row, of equal blocks")
        return cls(depths.pop(), found)

    def save_official(self, path: Path, overwrite: bool = False) -> None:
        """Write the authors' form."""
        write_text(path, json.dumps(self.to_official(), indent=2) + "\n", overwrite)


@dataclass(frozen=True, kw_only=True)
class Statistics(Measured):
    """Where a model's attention goes.

    share: the part of earlier tokens, those that get the most, whose attention ``history`` adds up; current, history:
    for every scale after the first, for every block, the mean attention that stays in the map at hand, and that goes to
    those tokens.
    """

    share: float
    current: tuple[tuple[float, ...], ...]
    history: tuple[tuple[float, ...], ...]
    method: Literal["scalekv"] = "scalekv"

    def __post_init__(self) -> None:
        super().__post_init__()
        scales, depth = len(self.sizes) - 1, self.depth
        check_bounds(self, share=(1e-6, 1))
        for name in ("current", "history"):
            rows = getattr(self, name)
            if [len(row) for row in rows] != [depth] * scales or not all(0 <= x <= 1.001 for row in rows for x in row):
                raise InputError(f"{name} is {quoted(rows)}; expected {scales} lists of {depth} shares")

    @property
    def depth(self) -> int:
        return len(self.current[0]) if self.current else 0

    def table(
        self, budget: int, floor: int, drafters: float, allocation: str = "saturate", literal: bool = False
    ) -> Table:
        """What every block keeps.

        budget: mean tokens of the blocks; floor: the least of a refiner; drafters: the share of pairs of a scale and a
        block that are drafters; allocation: see ``scalekv_rules.ALLOCATIONS``; literal: see ``selectivity``.
        """
        schedule = ScaleSchedule(self.sizes)
        indices = {
            k: [selectivity(c, h, literal) for c, h in zip(self.current[k - 1], self.history[k - 1], strict=True)]
            for k in compressed(schedule, budget)
        }
        chosen = drafters_of(indices, round(drafters * len(indices) * self.depth))
        return Table(self.depth, allotted(schedule, chosen, self.depth, budget, floor, allocation))


def _allotment(row: Any, where: str) -> Allotment:
    """One scale of an official file."""
    if not isinstance(row, Mapping) or not row.keys() >= set(COUNTS) or len(row) == len(COUNTS):
        raise InputError(f"{where} is {quoted(row)}; expected blocks, {', '.join(COUNTS)}")
    high, most, least, limit = (row[name] for name in COUNTS)
    if not all(is_whole(n) and 0 <= n < 2**40 for n in (high, most, least, limit)):
        raise InputError(f"{where} has {', '.join(COUNTS)} {quoted([high, most, least, limit])}; expected numbers")
    roles = [row.get(f"Block {block}") for block in range(len(row) - len(COUNTS))]
    if not all(is_whole(role) and role in (0, 1) for role in roles) or roles.count(1) != high or not 1 <= least <= most:
        raise InputError(
            f"{where} has High {high}, Min {least}, Max {most} and the blocks {quoted(roles)}; expected Block 0, 1, "
            "... with 1 for each of the High drafters and 0 for the others, and Max of at least Min"
        )
    return Allotment(frozenset(block for block, role in enumerate(roles) if role), most, least, limit)
