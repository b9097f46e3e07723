"""Scale schedules: the sizes of the token maps of one image, coarse to fine.

Shape letters: ``h w`` size of one map, ``K`` number of scales, ``L`` tokens of all scales together.
Sources: VAR (arXiv 2404.02905) for the square presets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from nextscale.errors import InputError, quoted

Size = tuple[int, int]
LARGEST_SIDE = 2**16
"""Tokens along one side of a map; the largest published map has 64."""


@dataclass(frozen=True)
class ScaleSchedule:
    """A tuple of ``(h, w)`` sizes, non-decreasing in both directions; the last one is the grid of the latent.

    >>> schedule = ScaleSchedule.of([1, 2, 3])
    >>> schedule.sizes, schedule.tokens, schedule.offsets
    (((1, 1), (2, 2), (3, 3)), 14, (0, 1, 5, 14))
    """

    sizes: tuple[Size, ...]

    def __post_init__(self) -> None:
        if not self.sizes:
            raise InputError("a scale schedule needs at least one scale, and none was given")
        for h, w in self.sizes:
            if h < 1 or w < 1:
                raise InputError(f"a scale of {h}x{w} is impossible; height and width must be at least 1")
            if max(h, w) > LARGEST_SIDE:
                raise InputError(
                    f"a scale of {quoted(h)} x {quoted(w)} is impossible; expected at most {LARGEST_SIDE:,}"
                )
        for (h0, w0), (h1, w1) in zip(self.sizes, self.sizes[1:], strict=False):
            if h1 < h0 or w1 < w0:
                raise InputError(f"scales must not shrink, but {h1}x{w1} follows {h0}x{w0}")

    @classmethod
    def of(cls, sizes: Iterable[int | Iterable[int]]) -> ScaleSchedule:
        """Build a schedule from sides (``3`` means 3x3) or ``(h, w)`` pairs. Raises ``InputError`` for anything
        else.
        """
        pairs: list[Size] = []
        for size in sizes:
            pair = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, Iterable) else ()
            if len(pair) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) for n in pair):
                raise InputError(f"a scale is a side or a (height, width) pair of whole numbers, not {size!r}")
            pairs.append((pair[0], pair[1]))
        return cls(tuple(pairs))

    @classmethod
    def preset(cls, name: str) -> ScaleSchedule:
        """One of the published VAR schedules: ``"256"``, ``"512"`` or ``"1024"`` (pixels at stride 16)."""
        if name not in PRESETS:
            raise InputError(f"no scale preset {name!r}; there are {', '.join(PRESETS)}")
        return cls.of(PRESETS[name])

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Size]:
        return iter(self.sizes)

    def __getitem__(self, k: int) -> Size:
        return self.sizes[k]

    @property
    def grid(self) -> Size:
        """Size of the last map, which is the grid of the latent."""
        return self.sizes[-1]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Number of tokens of every scale."""
        return tuple(h * w for h, w in self.sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """``K + 1`` positions: scale k holds tokens ``offsets[k]`` to ``offsets[k + 1]`` of the sequence."""
        total, offsets = 0, [0]
        for length in self.lengths:
            total += length
            offsets.append(total)
        return tuple(offsets)

    @property
    def tokens(self) -> int:
        """``L``, the tokens of all scales together."""
        return sum(self.lengths)

    def slice(self, k: int) -> slice:
        """Where scale ``k`` stands in the sequence of all tokens."""
        return slice(self.offsets[k], self.offsets[k + 1])

    def progress(self, k: int) -> float:
        """rho = k / (K - 1), from 0 at the first scale to 1 at the last (0 if there is only one)."""
        return k / (len(self) - 1) if len(self) > 1 else 0.0

    def prefix(self, count: int) -> ScaleSchedule:
        """The first ``count`` scales."""
        if not 1 <= count <= len(self):
            raise InputError(f"a prefix of {count} scales was asked for, but the schedule has 1 to {len(self)}")
        return ScaleSchedule(self.sizes[:count])

    def __str__(self) -> str:
        return " ".join(str(h) if h == w else f"{h}x{w}" for h, w in self.sizes)


def spaced(sides: Sequence[float], count: int, grid: Size) -> ScaleSchedule:
    """``count`` scales up to ``grid``, spaced as ``sides`` are, those of a schedule that is known.

    The sides are scaled so that the last one is the longer side of the grid, rounded (halves up), and made to grow by
    at least one; the other side is in proportion, rounded, at least 1. Where there are more or fewer sides than scales,
    they are read off between the sides, at equal steps. count: from 1 to the longer side.

    >>> str(spaced([1, 2, 4, 6], 4, (12, 18)))
    '2x3 4x6 8x12 12x18'
    >>> str(spaced([1, 2, 4, 6], 7, (7, 7)))
    '1 2 3 4 5 6 7'
    """
    longer, shorter = max(grid), min(grid)
    assert 1 <= count <= longer, f"{count} scales do not grow to a side of {longer}"
    last, grown = 0, list[Size]()
    for k in range(count):
        side = math.floor(longer * _read_off(sides, k, count) / sides[-1] + 0.5)
        last = min(max(side, last + 1), longer - (count - 1 - k))
        other = max(1, (2 * last * shorter + longer) // (2 * longer))
        grown.append((last, other) if grid[0] >= grid[1] else (other, last))
    return ScaleSchedule(tuple(grown))


def _read_off(sides: Sequence[float], k: int, count: int) -> float:
    """The k-th of ``count`` numbers at equal steps along a line through ``sides``."""
    if k == count - 1:
        return sides[-1]
    place = k * (len(sides) - 1) / (count - 1)
    low, high = sides[int(place)], sides[min(int(place) + 1, len(sides) - 1)]
    return low + (place - int(place)) * (high - low)


PRESETS: dict[str, tuple[int, ...]] = {
    "256": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    "512": (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    "1024": (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
}
