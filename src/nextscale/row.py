"""One row of a plan: its columns, what a value of each must be, and what a row may say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nextscale.conditions.base import Branches
from nextscale.errors import PlanError, quoted
from nextscale.sampling import ORDER
from nextscale.scales import Size
from nextscale.values import is_real, is_whole, listed, plain

LEAST_TEMPERATURE = 1e-6
MOST_GUIDANCE = 1_000_000
"""What divides and multiplies logits: beyond these they leave the range of float32, and no token would be meant."""


def whole(value: Any) -> int:
    """A whole number. This reader and the next ones raise ``TypeError`` for a value of another type."""
    value = plain(value)
    if not is_whole(value):
        raise TypeError
    return value


def real(value: Any) -> float:
    """A number, finite or not."""
    value = plain(value)
    if not is_real(value):
        raise TypeError
    return value if abs(value) < 2**63 else float(value)  # PyTorch calculates with no larger whole number


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def several(read: Callable[[Any], Any], count: int | None = None) -> Callable[[Any], Any]:
    """A reader of lists, of ``count`` entries where that is given."""

    def read_all(value: Any) -> tuple[Any, ...]:
        entries = listed(value)
        if entries is None or count not in (None, len(entries)):
            raise TypeError
        return tuple(read(entry) for entry in entries)

    return read_all


def or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A reader that lets None pass."""
    return lambda value: None if value is None else read(value)


COLUMNS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "size": (several(whole, 2), "two whole numbers, height and width"),
    "model": (text, "a name"),
    "blocks": (or_none(several(whole)), "a list of whole numbers, or None for all"),
    "condition": (or_none(several(text)), "a list of names, or None for all"),
    "guidance": (several(real), "a list of numbers, one per branch"),
    "guidance_block": (or_none(whole), "the number of a block, or None"),
    "temperature": (real, "a number"),
    "top_k": (whole, "a whole number, 0 for off"),
    "top_p": (real, "a number"),
    "order": (several(text), f"a list of {', '.join(ORDER)}"),
    "smooth": (or_none(several(real, 2)), "(sharpen, temperature), or None"),
    "passes": (or_none(several(whole)), "a list of whole numbers, or None for one pass"),
    "again_guidance": (or_none(several(real)), "a list of numbers, one per branch, or None"),
    "population": (or_none(whole), "a whole number, or None"),
    "cull": (or_none(text), "a name, or None"),
    "keep": (or_none(text), "a name, or None"),
}
"""How a value of every column is read (NumPy's numbers as Python's, lists as tuples), and what it must be."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What happens at one scale.

    size: (h, w) of the token map; model: name of the network among the parts; blocks: which of its blocks run, a subset
    of those of the row before (None: all); condition: names of the sources that this scale sees (None: all);
    guidance: weight of every branch, summing to 1; guidance_block: the block after which the branches are mixed (None:
    their logits are); temperature (1 is off), top_k and top_p (0 is off), order: the order these are applied in;
    smooth: (sharpen, temperature) of VAR's "more smooth" sampling, or None; passes: how many tokens stay after each
    pass over the scale, together h w (None: one pass); again_guidance: weights of the later passes (None: those of the
    first); population: how many candidates per prompt live after this scale (None: as many as before); cull: name of
    the part that chooses them; keep: name of the part that holds what is given, or None.
    """

    size: Size
    model: str = "model"
    blocks: tuple[int, ...] | None = None
    condition: tuple[str, ...] | None = None
    guidance: tuple[float, ...] = (1.0,)
    guidance_block: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    order: tuple[str, ...] = ORDER
    smooth: tuple[float, float] | None = None
    passes: tuple[int, ...] | None = None
    again_guidance: tuple[float, ...] | None = None
    population: int | None = None
    cull: str | None = None
    keep: str | None = None

    def __post_init__(self) -> None:
        for name, (read, expected) in COLUMNS.items():
            object.__setattr__(self, name, read_value(name, getattr(self, name), read, expected))


def read_value(name: str, value: Any, read: Callable[[Any], Any], expected: str) -> Any:
    """A value as ``read`` has it. Raises ``PlanError`` with the name and what was expected for one of another type."""
    try:
        return read(value)
    except TypeError:
        raise PlanError(
            f"a column of the plan has a value of the wrong type: {name} is {quoted(value)}; it must be {expected}"
        ) from None


def check_row(k: int, row: Row, before: Row | None, branches: Branches) -> None:
    """Raises ``PlanError`` for a row that is impossible; before: the row before, None for the first."""

    def refuse(what: str) -> None:
        raise PlanError(f"row {k} ({row.size[0]}x{row.size[1]}): {what}")

    if not LEAST_TEMPERATURE <= row.temperature < math.inf:
        refuse(
            f"temperature is {row.temperature}; it must be above 0 and finite, at least {LEAST_TEMPERATURE:g} (for "
            "the most likely token use top_k=1)"
        )
    if row.top_k < 0:
        refuse(f"top_k is {quoted(row.top_k)}; it must be a whole number, 0 for off")
    if not 0 <= row.top_p <= 1:
        refuse(f"top_p is {row.top_p}; it must lie between 0 and 1, 0 for off")
    if sorted(row.order) != sorted(ORDER):
        refuse(f"order is {row.order}; it must name {', '.join(ORDER)} once each")
    if row.smooth is not None and not (
        abs(row.smooth[0]) <= MOST_GUIDANCE and LEAST_TEMPERATURE <= row.smooth[1] < math.inf
    ):
        refuse(
            f"smooth is {row.smooth}; it must be (sharpen, temperature), of at most {MOST_GUIDANCE:,} and at least "
            f"{LEAST_TEMPERATURE:g}"
        )
    for name, weights in (("guidance", row.guidance), ("again_guidance", row.again_guidance)):
        if weights is None:
            continue
        if len(weights) != len(branches):
            refuse(f"{name} has {len(weights)} weights; expected one for each of the plan's {len(branches)} branches")
        if not abs(sum(weights) - 1) <= 1e-6:
            refuse(f"{name} weights {weights} sum to {sum(weights):g}; they must sum to 1")
    if row.condition is not None and (strange := set(row.condition) - {name for seen in branches for name in seen}):
        refuse(f"condition names {quoted(min(strange))}, which no branch sees")
    _check_blocks(row, before, refuse)
    tokens, passes = row.size[0] * row.size[1], row.passes
    if passes is not None and (not passes or min(passes) < 1 or sum(passes) != tokens):
        refuse(f"passes is {quoted(passes)}; the tokens that stay after each must be at least 1 and together {tokens}")
    if row.again_guidance is not None and (passes is None or len(passes) < 2):
        refuse("again_guidance weighs later passes, and there is one pass; leave it out")
    if row.top_k == 1 and passes is not None and len(passes) > 1:
        refuse('top_k is 1, so its tokens are all equally sure and no pass could choose; use another, or refine="none"')
    if row.smooth is not None and passes is not None and len(passes) > 1:
        refuse("smooth mixes codes, so no token of a pass could stay; use one pass")


def _check_blocks(row: Row, before: Row | None, refuse: Callable[[str], None]) -> None:
    blocks = row.blocks
    if blocks is not None and (not blocks or list(blocks) != sorted(set(blocks)) or blocks[0] < 0):
        refuse(f"blocks is {quoted(blocks)}; it must list some blocks in ascending order, or be None for all")
    if before is not None and before.model == row.model and before.blocks is not None:
        more = "all of them" if blocks is None else ", ".join(map(str, sorted(set(blocks) - set(before.blocks))))
        if more:
            refuse(f"blocks has {more}, which did not run at the scale before; expected a subset of {before.blocks}")
    mixed_after = row.guidance_block
    if mixed_after is not None and (mixed_after < 0 or (blocks is not None and mixed_after not in blocks)):
        refuse(f"guidance_block is {mixed_after}, which does not run here; expected one of the row's blocks")
