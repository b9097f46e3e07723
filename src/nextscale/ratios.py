"""Aspect ratios and sizes of pictures: the schedules of a model, and which of them is asked for.

A ratio is width to height, as people say it: 3:2 is landscape. The published tables are named by height over width, cut
to three digits: 3:2 is their 0.666. Source of the tables: arXiv 2412.04431.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nextscale.errors import InputError, quoted, warn_user
from nextscale.scales import ScaleSchedule, Size
from nextscale.values import is_real, plain

NEAR = 1.1
"""A ratio that is off by no more than this factor is taken, with a warning."""
SAME = 1.005
"""A ratio that is off by no more than this factor is taken without a warning, as 0.333 is for 1:3."""
ABOUT = 1.4
"""The factor by which a number of pixels may be off: the published 0.06M is 65,536 pixels at 1:1, and 81,920 at 5:4."""
NUMBER = r"(\d{1,9}(?:\.\d{1,9})?)"

TALL = (
    "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
    "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
)
SQUARE = "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64"
PUBLISHED_LENGTHS = (7, 10, 12, 13)
"""How many scales of a published schedule make 0.06, 0.25, 0.60 and 1 million pixels, at 16 pixels to a token's side.
"""


def transposed(schedule: ScaleSchedule) -> ScaleSchedule:
    """The schedule with height and width exchanged."""
    return ScaleSchedule(tuple((w, h) for h, w in schedule))


def _published() -> Iterator[ScaleSchedule]:
    tall, square = (
        [ScaleSchedule.of(map(int, size.split("x")) for size in text.split()) for text in texts]
        for texts in (TALL, (SQUARE,))
    )
    yield from (*tall, *square, *map(transposed, reversed(tall)))


PUBLISHED = tuple(_published())
"""The published schedules of 1 million pixels, from 1:3 to 3:1."""


def ratio_of(schedule: ScaleSchedule) -> str:
    """The ratio of a schedule's pictures, width to height in lowest terms.

    >>> ratio_of(ScaleSchedule.of([1, (52, 78)]))
    '3:2'
    """
    h, w = schedule.grid
    common = math.gcd(h, w)
    return f"{w // common}:{h // common}"


@dataclass(frozen=True)
class Shapes:
    """The pictures that a model draws. default: its schedule where nothing is asked for, the first scales of one of
    ``schedules``; schedules: the largest of every ratio; lengths: how many of their scales make a picture; stride:
    pixels per token; smaller: whether it was trained on smaller pictures of every shape, too.
    """

    default: ScaleSchedule
    schedules: tuple[ScaleSchedule, ...]
    lengths: tuple[int, ...]
    stride: int
    smaller: bool = False

    @classmethod
    def of_one(cls, schedule: ScaleSchedule, stride: int) -> Shapes:
        """Pictures of one schedule alone."""
        return cls(schedule, (schedule,), (len(schedule),), stride)

    def choose(self, ratio: Any = None, pixels: Any = None) -> ScaleSchedule:
        """The schedule of pictures of this ratio ("3:2", or width / height) with about so many pixels ("0.25M", or a
        number); where either is None, it is that of the default.

        Warns where the nearest ratio is taken for another one. Raises ``InputError`` for what is not drawn.
        """
        if ratio is None and pixels is None:
            return self.default
        largest, exact = (self.nearest(*self.default.grid), True) if ratio is None else self._of_ratio(ratio)
        chosen = largest.prefix(len(self.default) if pixels is None else self._count(largest, pixels))
        if not exact:
            h, w = self.size(chosen)
            warn_user(
                f"ratio is {quoted(ratio)}; the nearest that this model draws is {ratio_of(largest)}, so pictures have "
                f"{h}x{w} pixels (height x width)"
            )
        return chosen

    def fitting(self, height: int, width: int) -> ScaleSchedule:
        """The schedule, as long as the default, that a picture of these pixels loses least on when it is cropped."""
        return self.nearest(height, width).prefix(len(self.default))

    def nearest(self, height: float, width: float) -> ScaleSchedule:
        """The largest schedule of the ratio nearest to this shape's."""
        return min(self.schedules, key=lambda one: apart(one.grid[1] / one.grid[0], width / height))

    def beginning(self, sizes: Sequence[tuple[int, ...]]) -> ScaleSchedule | None:
        """The schedule of maps of these sizes: of a whole picture, or the first that begins with them, the default
        before all others and the longer ones last.
        """
        sizes, lengths = tuple(sizes), sorted(self.lengths, key=lambda n: (n != len(self.default), n))
        every = [self.default, *(largest.prefix(n) for n in lengths for largest in self.schedules)]
        whole = next((one for one in every if one.sizes == sizes), None)
        return whole or next((one for one in every if one.sizes[: len(sizes)] == sizes), None)

    def trained(self, schedule: ScaleSchedule) -> bool:
        """Whether the model was trained on pictures of these scales."""
        if self.smaller and max(schedule.grid) <= max(self.default.grid):
            return True
        return any(schedule == largest.prefix(n) for largest in self.schedules for n in self.lengths)

    def size(self, schedule: ScaleSchedule) -> Size:
        """Height and width in pixels."""
        h, w = schedule.grid
        return h * self.stride, w * self.stride

    @property
    def sizes(self) -> dict[str, list[Size]]:
        """By ratio, height and width in pixels of all pictures that are drawn."""
        return {ratio_of(one): [self.size(one.prefix(n)) for n in self.lengths] for one in self.schedules}

    @property
    def several(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.schedules) > 1 or len(self.lengths) > 1

    def areas(self, largest: ScaleSchedule) -> list[str]:
        """The numbers of pixels of a ratio's pictures, in millions, as :meth:`choose` reads them."""
        return [f"{math.prod(self.size(largest.prefix(n))) / 1e6:.2g}M" for n in self.lengths]

    def _of_ratio(self, ratio: Any) -> tuple[ScaleSchedule, bool]:
        """The schedule of a ratio, and whether it is of just that."""
        if wide := _wide(ratio):
            largest = self.nearest(1, wide)
            off = apart(largest.grid[1] / largest.grid[0], wide)
            if off <= (NEAR if len(self.schedules) > 1 else SAME):
                return largest, off <= SAME
        raise InputError(
            f"ratio is {quoted(ratio)}; expected what this model draws, width to height: "
            f"{', '.join(map(ratio_of, self.schedules))}"
        )

    def _count(self, largest: ScaleSchedule, pixels: Any) -> int:
        """How many scales of a schedule make a picture of about so many pixels."""
        if asked := _number(pixels):
            off = {n: apart(math.prod(self.size(largest.prefix(n))), asked) for n in self.lengths}
            count = min(self.lengths, key=lambda n: off[n])
            if off[count] <= ABOUT:
                return count
        raise InputError(
            f"pixels is {quoted(pixels)}; expected what this model draws at {ratio_of(largest)}: "
            f"{', '.join(self.areas(largest))}"
        )


def apart(a: float, b: float) -> float:
    """The factor between two numbers, 1 or more."""
    return max(a / b, b / a)


def _wide(ratio: Any) -> float | None:
    """Width over height, or None for what is no ratio."""
    if isinstance(ratio, str) and (found := re.fullmatch(rf"\s*{NUMBER}\s*(?::\s*{NUMBER}\s*)?", ratio)):
        width, height = float(found[1]), float(found[2] or 1)
        return width / height if width and height else None
    return _positive(ratio)


def _number(pixels: Any) -> float | None:
    """A number of pixels, or None for what is none."""
    if isinstance(pixels, str) and (found := re.fullmatch(rf"\s*{NUMBER}\s*([mM]?)\s*", pixels)):
        return float(found[1]) * (1e6 if found[2] else 1) or None
    return _positive(pixels)


def _positive(value: Any) -> float | None:
    value = plain(value)
    return float(value) if is_real(value) and 0 < value < 1e12 else None
