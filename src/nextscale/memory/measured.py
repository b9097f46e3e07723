"""What calibrations have in common, whichever policy they are for: of which weights and scales they are, how a file
keeps them, and by which digest a recipe knows them.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from nextscale.errors import PlanError, quoted
from nextscale.files import write_text
from nextscale.memory.base import Course
from nextscale.scales import ScaleSchedule, Size
from nextscale.settings import check_bounds

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Measured(ABC):
    """Numbers measured while a model drew. A subclass adds them, and ``method``, the policy that they are for.

    model, weights: its name, and their hash (``models/weights_hash.py``); sizes: the scales it drew; pictures: that
    were drawn.
    """

    model: str
    weights: str
    sizes: tuple[Size, ...]
    pictures: int
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        _ = ScaleSchedule(self.sizes)  # refuses impossible ones
        check_bounds(self, pictures=(1, 10**9), depth=(1, 1024))

    @property
    @abstractmethod
    def depth(self) -> int:
        """The blocks of the model."""

    @cached_property
    def digest(self) -> str:
        return digest_of(asdict(self))

    def check(self, course: Course) -> None:
        """Raises ``PlanError`` where it was made for another depth or schedule, or for other weights."""
        check_depth(self.depth, course)
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

    def save(self, path: Path, overwrite: bool = False) -> None:
        """Write the file that ``read_calibration`` reads."""
        write_text(path, json.dumps(asdict(self), indent=1) + "\n", overwrite)


def check_method(calibration: Any, method: str) -> None:
    """Raises ``PlanError`` for what is no calibration for the policy ``method``."""
    found = getattr(calibration, "method", None)
    if found is None:
        raise PlanError(f"the calibration is {quoted(calibration)}; expected one that read_calibration gave")
    if found != method:
        raise PlanError(
            f"the calibration is for {found}; expected one for {method}, which nextscale calibrate --method {method} "
            "writes"
        )


def check_depth(depth: int, course: Course) -> None:
    """Raises ``PlanError`` where the model of ``course`` has another number of blocks."""
    expected = 1 + max(spec.block for spec in course.slots)
    if depth != expected:
        raise PlanError(f"the calibration is of {depth} blocks, and the model has {expected}; expected as many")


def digest_of(data: Any) -> str:
    """The digest of plain data, whatever the order of their tables."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
