"""What ScaleKV knows of a model before it draws: measured by us, or published by its authors; and the files of both.

``Statistics`` say where a model's attention goes; with a budget they become a ``Table`` of what every block keeps. The
authors publish such tables alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nextscale.documents import read_json
from nextscale.errors import InputError, PlanError, quoted, warn_user
from nextscale.files import write_text
from nextscale.memory.base import Course
from nextscale.memory.scalekv_rules import Allotment, allotted, compressed, drafters_of, selectivity
from nextscale.scales import ScaleSchedule, Size
from nextscale.settings import build, check_bounds
from nextscale.values import is_whole

FORMAT = 1
COUNTS = ("High", "Max", "Min", "Limit")
"""What a scale of an official file has beside its blocks: drafters, what these keep, what the others keep, and how much
a drafter can hold.
"""


@dataclass(frozen=True)
class Table:
    """What the blocks keep for the scales that have more than a budget before them, by the number of the scale."""

    depth: int
    allotments: Mapping[int, Allotment]

    @property
    def budget(self) -> int:
        """Mean tokens per block at the first of these scales."""
        return round(sum(map(next(iter(self.allotments.values())).of, range(self.depth))) / self.depth)

    @property
    def least(self) -> int:
        return min(one.least for one in self.allotments.values())

    @cached_property
    def digest(self) -> str:
        return _digest(self.to_official())

    def check(self, course: Course) -> None:
        """Raises ``PlanError`` where it was made for another depth or schedule than that of ``course``."""
        _check_depth(self.depth, course)
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
class Statistics:
    """Where a model's attention goes, measured while it drew.

    model, weights: its name, and their hash (``models/weights_hash.py``); sizes: the scales it drew; share: the part of
    earlier tokens, those that get the most, whose attention ``history`` adds up; pictures: that were drawn; current,
    history: for every scale after the first, for every block, the mean attention that stays in the map at hand, and
    that goes to those tokens.
    """

    model: str
    weights: str
    sizes: tuple[Size, ...]
    share: float
    pictures: int
    current: tuple[tuple[float, ...], ...]
    history: tuple[tuple[float, ...], ...]
    method: Literal["scalekv"] = "scalekv"
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        scales, depth = len(ScaleSchedule(self.sizes)) - 1, self.depth
        check_bounds(self, share=(1e-6, 1), pictures=(1, 10**9), depth=(1, 1024))
        for name in ("current", "history"):
            rows = getattr(self, name)
            if [len(row) for row in rows] != [depth] * scales or not all(0 <= x <= 1.001 for row in rows for x in row):
                raise InputError(f"{name} is {quoted(rows)}; expected {scales} lists of {depth} shares")

    @property
    def depth(self) -> int:
        return len(self.current[0]) if self.current else 0

    @cached_property
    def digest(self) -> str:
        return _digest(asdict(self))

    def check(self, course: Course) -> None:
        """Raises ``PlanError`` where it was made for another depth or schedule, or for other weights."""
        _check_depth(self.depth, course)
        if self.sizes != course.schedule.sizes:
            raise PlanError(
                f"the calibration is of the scales {ScaleSchedule(self.sizes)}, and the plan draws {course.schedule}; "
                "expected the same"
            )
        if course.weights not in (None, self.weights):
            raise PlanError(
                f"the calibration was made for the weights {self.weights} of {self.model}, and the model has "
                f"{course.weights}; calibrate it anew with nextscale calibrate"
            )

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

    def save(self, path: Path, overwrite: bool = False) -> None:
        """Write the file that :func:`read_calibration` reads."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n", overwrite)


Calibration = Statistics | Table


def read_calibration(path: Path | str) -> Calibration:
    """What ``nextscale calibrate --method scalekv`` wrote, or an official budget file, which says nothing of the
    weights that it is for, and so is warned of. Raises ``InputError`` for any other file.
    """
    data = read_json(Path(path))
    if not isinstance(data, Mapping):
        raise InputError(f"{path} holds {quoted(data)}; expected a calibration, or an official budget file")
    if "format" in data or "method" in data:
        said = (data.get("method"), data.get("format"))
        if said != ("scalekv", FORMAT):
            raise InputError(f"{path} has the method and the format {quoted(said)}; expected 'scalekv' and {FORMAT}")
        try:
            return build(Statistics, data)
        except InputError as error:
            raise InputError(f"{path} is no calibration that can be read: {error}") from None
    table = Table.from_official(data, str(path))
    warn_user(
        f"{path} does not say which weights it was made for; it is taken for those of any model of {table.depth} blocks"
    )
    return table


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _check_depth(depth: int, course: Course) -> None:
    expected = 1 + max(spec.block for spec in course.slots)
    if depth != expected:
        raise PlanError(f"the calibration is of {depth} blocks, and the model has {expected}; expected as many")


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
