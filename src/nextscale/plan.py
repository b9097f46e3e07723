"""The plan of a generation: a table with one row per scale. It is plain data, built and checked before anything runs.

``Plan`` goes into a picture's metadata, into JSON and onto the screen; what is alive (networks, given images) is
handed over beside it, by the names its columns hold. An acceleration or editing method is a function from a plan to a
plan.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from nextscale.errors import PlanError
from nextscale.guidance import SCHEDULES
from nextscale.memory.make import check_memory
from nextscale.models.base import NextScaleModel
from nextscale.sampling import ORDER, smooth_settings
from nextscale.scales import ScaleSchedule, Size


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
        return replace(self, rows=tuple(replace(row, **columns) for row in self.rows))  # type: ignore[arg-type]

    def prefix(self, count: int) -> Plan:
        """A plan that stops after ``count`` scales; the canvas keeps its full size."""
        sizes = self.schedule.sizes
        self.schedule.prefix(count)
        return replace(self, rows=self.rows[:count], undrawn=sizes[count:])

    def check_top_k(self, codes: int) -> None:
        """Raises ``PlanError`` where a row would draw from more tokens than a tokenizer has ``codes``."""
        most = max(row.top_k for row in self.rows)
        if most > codes:
            raise PlanError(
                f"top_k is {most}, but the tokenizer has {codes} codes; expected at most as many, 0 for off"
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
        known, rows = {f.name for f in fields(Row)}, list[dict[str, Any]]()
        for row in data["rows"]:
            if not isinstance(row, Mapping) or set(row) - known or "size" not in row:
                found = sorted(row) if isinstance(row, Mapping) else row
                raise PlanError(f"a plan's row has the columns {sorted(known)} and must have a size; found {found}")
            rows.append({name: tuple(v) if isinstance(v, list) else v for name, v in row.items()})
        try:
            undrawn = tuple((h, w) for h, w in data.get("undrawn", ()))
            return cls(tuple(Row(**row) for row in rows), undrawn, bool(data.get("decode", True)))
        except (TypeError, AttributeError) as error:
            raise PlanError(f"a column of the plan has a value of the wrong type: {error}") from None


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
    if not 0 <= guidance_scale < math.inf:
        raise PlanError(f"guidance_scale is {guidance_scale}; it must be at least 0 and finite, and 1 switches it off")
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

    if not 0 < row.temperature < math.inf:
        refuse(f"temperature is {row.temperature}; it must be above 0 (for the most likely token use top_k=1)")
    if not isinstance(row.top_k, int) or row.top_k < 0:
        refuse(f"top_k is {row.top_k}; it must be a whole number, 0 for off")
    if not 0 <= row.top_p <= 1:
        refuse(f"top_p is {row.top_p}; it must lie between 0 and 1, 0 for off")
    if sorted(row.order) != sorted(ORDER):
        refuse(f"order is {row.order}; it must name {', '.join(ORDER)} once each")
    if row.smooth is not None and not (len(row.smooth) == 2 and row.smooth[1] > 0):
        refuse(f"smooth is {row.smooth}; it must be (sharpen, temperature) with a temperature above 0")
    if len(row.guidance) != len(first.guidance) or not row.guidance:
        refuse(f"guidance has {len(row.guidance)} branches, row 0 has {len(first.guidance)}; all rows need the same")
    if abs(sum(row.guidance) - 1) > 1e-6:
        refuse(f"guidance weights {row.guidance} sum to {sum(row.guidance):g}; they must sum to 1")
    if row.blocks is not None and (not row.blocks or list(row.blocks) != sorted(set(row.blocks))):
        refuse(f"blocks is {row.blocks}; it must list some blocks in ascending order, or be None for all")
    if row.blocks != first.blocks:
        refuse("blocks differ from row 0; memories here need the same blocks at every scale")
    try:
        check_memory(row.memory)
    except PlanError as error:
        refuse(str(error))
    if (row.memory, row.model) != (first.memory, first.model) and row.model == first.model:
        refuse(f"memory {row.memory!r} follows {first.memory!r}; one model keeps one kind of memory")
