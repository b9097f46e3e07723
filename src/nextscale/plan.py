"""The plan of a generation: a table with one row per scale. It is plain data, built and checked before anything runs.

``Plan`` goes into a picture's metadata, into JSON and onto the screen; what is alive (networks, given images) is
handed over beside it, by the names its columns hold. An acceleration or editing method is a function from a plan to a
plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nextscale.errors import PlanError, quoted
from nextscale.guidance import SCHEDULES
from nextscale.memory.make import check_memory
from nextscale.models.base import NextScaleModel
from nextscale.sampling import ORDER, smooth_settings
from nextscale.scales import ScaleSchedule, Size
from nextscale.values import is_real, is_whole, listed, plain

LEAST_TEMPERATURE = 1e-6
MOST_GUIDANCE = 1_000_000
"""What divides and multiplies logits: beyond these they leave the range of float32, and no token would be meant."""


def _whole(value: Any) -> int:
    value = plain(value)
    if not is_whole(value):
        raise TypeError
    return value


def _real(value: Any) -> float:
    value = plain(value)
    if not is_real(value):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return str(value)


def _several(read: Callable[[Any], Any], count: int | None = None) -> Callable[[Any], Any]:
    def read_all(value: Any) -> tuple[Any, ...]:
        entries = listed(value)
        if entries is None or count not in (None, len(entries)):
            raise TypeError
        return tuple(read(entry) for entry in entries)

    return read_all


def _or_none(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


COLUMNS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "size": (_several(_whole, 2), "two whole numbers, height and width"),
    "model": (_text, "a name"),
    "blocks": (_or_none(_several(_whole)), "a list of whole numbers, or None for all"),
    "guidance": (_several(_real), "a list of numbers, one per branch"),
    "temperature": (_real, "a number"),
    "top_k": (_whole, "a whole number, 0 for off"),
    "top_p": (_real, "a number"),
    "order": (_several(_text), f"a list of {', '.join(ORDER)}"),
    "smooth": (_or_none(_several(_real, 2)), "(sharpen, temperature), or None"),
    "memory": (_text, "a name"),
    "keep": (_or_none(_text), "a name, or None"),
}
"""How a value of every column is read (NumPy's numbers as Python's, lists as tuples), and what it must be."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What happens at one scale.

    size: (h, w) of the token map; model: name of the network among the parts; blocks: which of its blocks run (None:
    all); guidance: weight of every branch, conditional first, summing to 1; temperature (1 is off), top_k and top_p
    (0 is off), order: the order these are applied in; smooth: (sharpen, temperature) of VAR's "more smooth" sampling,
    or None; memory: what is remembered of earlier scales; keep: name of the part that holds given tokens, or None.
    """

    size: Size
    model: str = "model"
    blocks: tuple[int, ...] | None = None
    guidance: tuple[float, ...] = (1.0,)
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    order: tuple[str, ...] = ORDER
    smooth: tuple[float, float] | None = None
    memory: str = "full"
    keep: str | None = None

    def __post_init__(self) -> None:
        for name, (read, expected) in COLUMNS.items():
            object.__setattr__(self, name, _read(name, getattr(self, name), read, expected))


def _read(name: str, value: Any, read: Callable[[Any], Any], expected: str) -> Any:
    try:
        return read(value)
    except TypeError:
        raise PlanError(
            f"a column of the plan has a value of the wrong type: {name} is {quoted(value)}; it must be {expected}"
        ) from None


@dataclass(frozen=True)
class Plan:
    """The rows of one generation, coarse to fine.

    undrawn: sizes of finer scales that exist but are not drawn (the rows are a prefix of the schedule); decode:
    whether the canvas is decoded to pixels at the end.
    """

    rows: tuple[Row, ...]
    undrawn: tuple[Size, ...] = ()
    decode: bool = True

    def __post_init__(self) -> None:
        rows = listed(self.rows)
        if rows is None or not all(isinstance(row, Row) for row in rows):
            raise PlanError(f"the rows of a plan are {quoted(self.rows)}; expected a list of Row")
        object.__setattr__(self, "rows", tuple(rows))
        sizes = _read("undrawn", self.undrawn, _several(_several(_whole, 2)), "a list of sizes (height, width)")
        object.__setattr__(self, "undrawn", sizes)
        if not isinstance(self.decode, bool):
            raise PlanError(f"a plan's decode is {quoted(self.decode)}, of the wrong type; it must be True or False")
        if not self.rows:
            raise PlanError("a plan needs at least one row, and this one has none")
        for k, row in enumerate(self.rows):
            _check_row(k, row, self.rows[0])
        ScaleSchedule((*(row.size for row in self.rows), *self.undrawn))

    @property
    def schedule(self) -> ScaleSchedule:
        """All scales, those that are not drawn included."""
        return ScaleSchedule((*(row.size for row in self.rows), *self.undrawn))

    @property
    def branches(self) -> int:
        return len(self.rows[0].guidance)

    def with_column(self, **columns: object) -> Plan:
        """The same plan with one or more columns set in every row, e.g. ``plan.with_column(top_k=1)``."""
        unknown = sorted(set(columns) - set(COLUMNS))
        if unknown:
            raise PlanError(f"a plan has no column {unknown[0]!r}; it has {', '.join(COLUMNS)}")
        return replace(self, rows=tuple(replace(row, **columns) for row in self.rows))  # type: ignore[arg-type]

    def prefix(self, count: int) -> Plan:
        """A plan that stops after ``count`` scales; the canvas keeps its full size."""
        sizes = self.schedule.sizes
        count = _read("the number of scales", count, _whole, "a whole number")
        self.schedule.prefix(count)
        return replace(self, rows=self.rows[:count], undrawn=sizes[count:])

    def check_top_k(self, codes: int) -> None:
        """Raises ``PlanError`` where a row would draw from more tokens than a tokenizer has ``codes``."""
        most = max(row.top_k for row in self.rows)
        if most > codes:
            raise PlanError(
                f"top_k is {quoted(most)}, but the tokenizer has {codes} codes; expected at most as many, 0 for off"
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; columns that hold their default are left out."""
        defaults = {f.name: f.default for f in fields(Row)}
        rows = [{name: v for name, v in asdict(row).items() if v != defaults[name]} for row in self.rows]
        return (
            {"rows": rows}
            | ({"undrawn": self.undrawn} if self.undrawn else {})
            | ({} if self.decode else {"decode": False})
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_dict`. Raises ``PlanError`` for unknown columns and impossible rows."""
        allowed = {"rows", "undrawn", "decode"}
        if not isinstance(data, Mapping) or set(data) - allowed or not isinstance(data.get("rows"), list):
            raise PlanError("a plan is a mapping with the keys 'rows' (a list), 'undrawn' and 'decode'")
        for row in data["rows"]:
            if not isinstance(row, Mapping) or set(row) - set(COLUMNS) or "size" not in row:
                found = quoted(sorted(map(str, row)) if isinstance(row, Mapping) else row)
                raise PlanError(f"a plan's row has the columns {sorted(COLUMNS)} and must have a size; found {found}")
        rows = tuple(Row(**row) for row in data["rows"])
        return cls(rows, data.get("undrawn", ()), data.get("decode", True))


def default_plan(
    model: NextScaleModel,
    *,
    schedule: ScaleSchedule | None = None,
    guidance_scale: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.0,
    smooth: bool = False,
) -> Plan:
    """The plan of a plain generation with ``model``: its published guidance schedule, the same sampling at every scale.

    ``guidance_scale`` 1 means one branch only. Raises ``PlanError`` for values out of range.
    """
    schedule = schedule or model.schedule
    model.check(schedule)
    guidance_scale = _read("guidance_scale", guidance_scale, _real, "a number")
    if not isinstance(smooth, bool):
        raise PlanError(f"smooth is {quoted(smooth)}; it must be True or False")
    if not 0 <= guidance_scale <= MOST_GUIDANCE:
        raise PlanError(
            f"guidance_scale is {guidance_scale}; it must lie between 0 and {MOST_GUIDANCE:,}, and 1 switches it off"
        )
    weights = SCHEDULES[model.guidance](guidance_scale, schedule)
    rows = []
    for k, size in enumerate(schedule):
        rows.append(
            Row(
                size=size,
                guidance=(1.0,) if guidance_scale == 1 else (weights[k], 1 - weights[k]),
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                smooth=smooth_settings(schedule.progress(k)) if smooth else None,
                memory=model.memory,
            )
        )
    return Plan(tuple(rows))


def _check_row(k: int, row: Row, first: Row) -> None:
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
    if len(row.guidance) != len(first.guidance) or not row.guidance:
        refuse(f"guidance has {len(row.guidance)} branches, row 0 has {len(first.guidance)}; all rows need the same")
    if not abs(sum(row.guidance) - 1) <= 1e-6:
        refuse(f"guidance weights {row.guidance} sum to {sum(row.guidance):g}; they must sum to 1")
    if row.blocks is not None and (not row.blocks or list(row.blocks) != sorted(set(row.blocks)) or row.blocks[0] < 0):
        refuse(f"blocks is {quoted(row.blocks)}; it must list some blocks in ascending order, or be None for all")
    if row.blocks != first.blocks:
        refuse("blocks differ from row 0; memories here need the same blocks at every scale")
    try:
        check_memory(row.memory)
    except PlanError as error:
        refuse(str(error))
    if (row.memory, row.model) != (first.memory, first.model) and row.model == first.model:
        refuse(f"memory {row.memory!r} follows {first.memory!r}; one model keeps one kind of memory")
