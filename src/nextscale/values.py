"""Values as people hand them over: NumPy's and torch's numbers are read as Python's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Set
from operator import index
from typing import Any


def plain(value: Any) -> Any:
    """NumPy's and torch's numbers and texts as Python's; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    if hasattr(value, "__index__") and not isinstance(value, int) and not hasattr(value, "ndim"):
        return index(value)
    return value


def is_whole(value: Any) -> bool:
    """Whether a plain value is a whole number; ``True`` and ``1.0`` are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: Any) -> bool:
    """Whether a plain value is a number that computers can calculate with: whole or not, but neither ``True`` nor 10 to
    the 400.
    """
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and float(value) is not None
    except OverflowError:
        return False


def listed(value: Any) -> list[Any] | None:
    """The plain entries of a list, a tuple, an array, a tensor or whatever else has an order; None for all others."""
    unordered = str | bytes | bytearray | Mapping | Set
    if isinstance(value, unordered) or getattr(value, "ndim", 1) == 0 or not isinstance(value, Iterable):
        return None
    return [plain(entry) for entry in value]


def takes(function: Any, count: int) -> bool:
    """Whether it can be called with so many arguments, as far as it says."""
    try:
        inspect.signature(function).bind(*[None] * count)
    except ValueError:  # functions in C do not tell their arguments
        return True
    except TypeError:
        return False
    return True
