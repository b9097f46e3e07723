"""What HACK knows of a model before it draws: which heads are contextual and which are structural."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nextscale.errors import InputError, PlanError, quoted
from nextscale.memory.base import Course
from nextscale.memory.measured import Measured

Heads = tuple[frozenset[int], ...]
"""Some of the heads of every block."""


@dataclass(frozen=True, kw_only=True)
class HeadStatistics(Measured):
    """How unlike one another the queries of the last scale look at the keys.

    variance: of every block, of every head: the variance of a key's attention over the queries, summed over the keys,
    mean of the pictures.
    """

    variance: tuple[tuple[float, ...], ...]
    method: Literal["hack"] = "hack"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(row and all(0 <= one <= 1 for one in row) for row in self.variance):
            raise InputError(f"variance is {quoted(self.variance)}; expected a list of numbers from 0 to 1 per block")

    @property
    def depth(self) -> int:
        return len(self.variance)

    def contextual(self, alpha: float) -> Heads:
        """The share ``alpha`` of all heads whose variance is the lowest, wherever they are; of equals the first. The
        others are structural.
        """
        ranked = sorted((one, block, head) for block, row in enumerate(self.variance) for head, one in enumerate(row))
        chosen = {(block, head) for _, block, head in ranked[: round(alpha * len(ranked))]}
        return tuple(
            frozenset(head for head in range(len(row)) if (block, head) in chosen)
            for block, row in enumerate(self.variance)
        )

    def check(self, course: Course) -> None:
        super().check(course)
        for spec in course.slots:
            found = len(self.variance[spec.block])
            if spec.reads == "past" and spec.heads != found:
                raise PlanError(
                    f"the calibration is of {found} heads in block {spec.block}, and the model has {spec.heads}; "
                    "expected as many"
                )
