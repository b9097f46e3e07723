"""The plan of a generation: a table with one row per scale. It is plain data, built and checked before anything runs.

``Plan`` goes into a picture's metadata, into JSON and onto the screen; what is alive (networks, given images) is
handed over beside it, by the names its columns hold. An acceleration or editing method is a function from a plan to a
plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nextscale.conditions.base import Branches
from nextscale.errors import PlanError, quoted
from nextscale.guidance import SCHEDULES
from nextscale.memory.base import Course, MemoryPlan
from nextscale.memory.make import check_memory
from nextscale.models.base import NextScaleModel
from nextscale.sampling import ORDER, smooth_settings
from nextscale.scales import ScaleSchedule, Size
from nextscale.values import is_real, is_whole, listed, plain

FORMAT = 2
LEAST_TEMPERATURE = 1e-6
MOST_GUIDANCE = 1_000_000
"""What divides and multiplies logits: beyond these they leave the range of float32, and no token would be meant."""
CLASS_BRANCHES: Mapping[int, Branches] = {1: (("class",),), 2: (("class",), ())}
"""The branches of a plan of format 1, which had nothing but their number."""


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
    "condition": (_or_none(_several(_text)), "a list of names, or None for all"),
    "guidance": (_several(_real), "a list of numbers, one per branch"),
    "guidance_block": (_or_none(_whole), "the number of a block, or None"),
    "temperature": (_real, "a number"),
    "top_k": (_whole, "a whole number, 0 for off"),
    "top_p": (_real, "a number"),
    "order": (_several(_text), f"a list of {', '.join(ORDER)}"),
    "smooth": (_or_none(_several(_real, 2)), "(sharpen, temperature), or None"),
    "passes": (_or_none(_several(_whole)), "a list of whole numbers, or None for one pass"),
    "again_guidance": (_or_none(_several(_real)), "a list of numbers, one per branch, or None"),
    "population": (_or_none(_whole), "a whole number, or None"),
    "cull": (_or_none(_text), "a name, or None"),
    "keep": (_or_none(_text), "a name, or None"),
}
"""How a value of every column is read (NumPy's numbers as Python's, lists as tuples), and what it must be."""
PLAN_WIDE = ("branches", "candidates", "memories", "undrawn", "decode")


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

    branches: the sources that each branch sees; branch i has weight i in every row; memories: what each model
    remembers, by the model's name (where one is left out, it is a full memory); candidates: images per prompt at the
    first row; undrawn: sizes of finer scales that exist but are not drawn (the rows are a prefix of the schedule);
    decode: whether the canvas is decoded to pixels at the end.
    """

    rows: tuple[Row, ...]
    branches: Branches = (("class",),)
    memories: Mapping[str, MemoryPlan] = field(default_factory=dict, hash=False)
    candidates: int = 1
    undrawn: tuple[Size, ...] = ()
    decode: bool = True

    def __post_init__(self) -> None:
        rows = listed(self.rows)
        if rows is None or not all(isinstance(row, Row) for row in rows):
            raise PlanError(f"the rows of a plan are {quoted(self.rows)}; expected a list of Row")
        object.__setattr__(self, "rows", tuple(rows))
        sizes = _read("undrawn", self.undrawn, _several(_several(_whole, 2)), "a list of sizes (height, width)")
        object.__setattr__(self, "undrawn", sizes)
        names = _read("branches", self.branches, _several(_several(_text)), "a list of lists of names, one per branch")
        object.__setattr__(self, "branches", names)
        object.__setattr__(self, "candidates", _read("candidates", self.candidates, _whole, "a whole number"))
        if not isinstance(self.decode, bool):
            raise PlanError(f"a plan's decode is {quoted(self.decode)}, of the wrong type; it must be True or False")
        if not self.rows:
            raise PlanError("a plan needs at least one row, and this one has none")
        if not self.branches:
            raise PlanError("a plan needs at least one branch, and this one has none; the null branch is ()")
        if self.candidates < 1:
            raise PlanError(f"a plan has {self.candidates} candidates per prompt; expected at least 1")
        for k, row in enumerate(self.rows):
            _check_row(k, row, self.rows[k - 1] if k else None, self.branches)
        _check_populations(self)
        ScaleSchedule((*(row.size for row in self.rows), *self.undrawn))
        object.__setattr__(self, "memories", _memories(self))

    @property
    def schedule(self) -> ScaleSchedule:
        """All scales, those that are not drawn included."""
        return ScaleSchedule((*(row.size for row in self.rows), *self.undrawn))

    @property
    def alive(self) -> tuple[int, ...]:
        """Candidates per prompt in front of every scale that is drawn, and at the end."""
        found = [self.candidates]
        for row in self.rows:
            found.append(found[-1] if row.population is None else row.population)
        return tuple(found)

    def course(self, k: int, model: NextScaleModel) -> Course:
        """How the scales of the model that takes over at row k will run, until another one does."""
        name, every = self.rows[k].model, tuple(range(len(model.blocks)))
        end = next((j for j in range(k, len(self.rows)) if self.rows[j].model != name), len(self.rows))
        runs = [every if row.blocks is None else row.blocks for row in self.rows[k:end]]
        before = () if self.memories[name].takeover == "empty" else runs[0]
        blocks = (*(before,) * k, *runs, *((),) * (len(self.rows) - end))
        alive = self.alive
        turns = tuple(j for j in range(k, len(self.rows)) if alive[j + 1] != alive[j])
        return Course(model.slots, self.schedule, blocks, turns, model.prefix_tokens(self.schedule))

    def sees(self, k: int) -> Branches:
        """The sources that each branch sees at row k."""
        shown = self.rows[k].condition
        if shown is None:
            return self.branches
        return tuple(tuple(name for name in branch if name in shown) for branch in self.branches)

    def with_column(self, **columns: object) -> Plan:
        """The same plan with one or more columns set in every row, e.g. ``plan.with_column(top_k=1)``."""
        unknown = sorted(set(columns) - set(COLUMNS))
        if unknown:
            raise PlanError(f"a plan has no column {unknown[0]!r}; it has {', '.join(COLUMNS)}")
        rows = tuple(replace(row, **columns) for row in self.rows)  # type: ignore[arg-type]
        if "model" not in columns:
            return replace(self, rows=rows)
        name = rows[0].model
        return replace(self, rows=rows, memories={name: self.memories.get(name, self.memories[self.rows[0].model])})

    def prefix(self, count: int) -> Plan:
        """A plan that stops after ``count`` scales; the canvas keeps its full size."""
        sizes = self.schedule.sizes
        count = _read("the number of scales", count, _whole, "a whole number")
        self.schedule.prefix(count)
        left = {row.model: self.memories[row.model] for row in self.rows[:count]}
        return replace(self, rows=self.rows[:count], memories=left, undrawn=sizes[count:])

    def check_choices(self, draws: int, choices: int) -> None:
        """Raises ``PlanError`` where a row asks what a tokenizer of so many draws and choices cannot give."""
        most = max(row.top_k for row in self.rows)
        if most > choices:
            raise PlanError(
                f"top_k is {quoted(most)}, but the tokenizer has {choices} codes; expected at most as many, 0 for off"
            )
        if draws > 1 and any(row.smooth is not None for row in self.rows):
            raise PlanError(f"smooth mixes codes, but a token here is {draws} draws; leave it out")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, with every column, so that a later change of a default changes no plan that is stored."""
        return {
            "format": FORMAT,
            "branches": self.branches,
            "candidates": self.candidates,
            "memories": {name: memory.to_dict() for name, memory in self.memories.items()},
            "rows": [asdict(row) for row in self.rows],
            "undrawn": self.undrawn,
            "decode": self.decode,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of :meth:`to_dict`, also of what versions before wrote (format 1).

        Raises ``PlanError`` for unknown columns, impossible rows, and formats of later versions.
        """
        version = data.get("format", 1) if isinstance(data, Mapping) else 1
        if version not in (1, FORMAT):
            raise PlanError(f"the plan has the format {quoted(version)}; this version reads 1 and {FORMAT}")
        allowed = {"rows", "undrawn", "decode"} if version == 1 else {"format", "rows", *PLAN_WIDE}
        if not isinstance(data, Mapping) or set(data) - allowed or not isinstance(data.get("rows"), list):
            raise PlanError(
                f"a plan is a mapping with the keys 'rows' (a list), {', '.join(map(repr, PLAN_WIDE))} and 'format'"
            )
        columns = {*COLUMNS, "memory"} if version == 1 else {*COLUMNS}
        for row in data["rows"]:
            if not isinstance(row, Mapping) or set(row) - columns or "size" not in row:
                found = quoted(sorted(map(str, row)) if isinstance(row, Mapping) else row)
                raise PlanError(f"a plan's row has the columns {sorted(COLUMNS)} and must have a size; found {found}")
        rows = tuple(Row(**{name: value for name, value in row.items() if name != "memory"}) for row in data["rows"])
        wide = {name: data[name] for name in PLAN_WIDE if name in data}
        if version == 1:
            return cls(rows, _branches_of(rows), _memories_of(data["rows"]), **wide)
        return cls(rows, **wide | {"memories": _memory_plans(data.get("memories", {}))})


def _branches_of(rows: tuple[Row, ...]) -> Branches:
    """The branches of a plan of format 1."""
    count = len(rows[0].guidance) if rows else 1
    if count not in CLASS_BRANCHES:
        raise PlanError(f"the plan has {count} branches and does not say what they see; expected 1 or 2")
    return CLASS_BRANCHES[count]


def _memories_of(rows: list[Mapping[str, Any]]) -> dict[str, MemoryPlan]:
    """The memories of a plan of format 1, whose rows named them."""
    found: dict[str, MemoryPlan] = {}
    for k, row in enumerate(rows):
        model, memory = row.get("model", "model"), MemoryPlan(row.get("memory", "full"))
        if found.setdefault(model, memory) != memory:
            raise PlanError(
                f"row {k} has the memory {memory.policy!r} after {found[model].policy!r}; one model keeps one kind of "
                "memory"
            )
    return found


def _memory_plans(data: Any) -> dict[str, MemoryPlan]:
    if not isinstance(data, Mapping) or not all(isinstance(one, Mapping) for one in data.values()):
        raise PlanError(f"a plan's memories are {quoted(data)}; expected a table of model names and memories")
    try:
        return {name: MemoryPlan(**one) for name, one in data.items()}
    except TypeError:
        known = ", ".join(MemoryPlan().to_dict())
        raise PlanError(f"a plan's memories are {quoted(data)}; a memory has {known}") from None


def _memories(plan: Plan) -> dict[str, MemoryPlan]:
    """The memories of a plan, one for each of its models."""
    given = plan.memories
    if not isinstance(given, Mapping) or not all(isinstance(one, MemoryPlan) for one in given.values()):
        raise PlanError(f"a plan's memories are {quoted(given)}; expected a table of model names and MemoryPlan")
    models = list(dict.fromkeys(row.model for row in plan.rows))
    for name in given:
        if name not in models:
            raise PlanError(f"the plan has a memory for {quoted(name)}, but its rows draw with {', '.join(models)}")
    found = {name: given.get(name, MemoryPlan()) for name in models}
    for memory in found.values():
        check_memory(memory)
    return found


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
    branches: Branches = (model.sources,) if guidance_scale == 1 else (model.sources, ())
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
            )
        )
    return Plan(tuple(rows), branches, {"model": MemoryPlan(model.memory)})


def _check_row(k: int, row: Row, before: Row | None, branches: Branches) -> None:
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
    for name, weights in (("guidance", row.guidance), ("again_guidance", row.again_guidance or row.guidance)):
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


def _check_populations(plan: Plan) -> None:
    for k, row in enumerate(plan.rows):
        if (row.population is None) != (row.cull is None):
            raise PlanError(
                f"row {k} has the population {row.population} and the cull {quoted(row.cull)}; expected both or neither"
            )
        if row.population is not None and row.population < 1:
            raise PlanError(f"row {k} has a population of {row.population}; expected at least 1")
