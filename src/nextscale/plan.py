"""The plan of a generation: a table with one row per scale. It is plain data, built and checked before anything runs.

``Plan`` goes into a picture's metadata, into JSON and onto the screen; what is alive (networks, given images) is
handed over beside it, by the names its columns hold. An acceleration or editing method is a function from a plan to a
plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from nextscale.conditions.base import Branches
from nextscale.errors import InputError, PlanError, quoted
from nextscale.guidance import SCHEDULES
from nextscale.memory.base import Course, MemoryPlan
from nextscale.memory.make import check_memory
from nextscale.models.base import NextScaleModel
from nextscale.models.weights_hash import weights_hash
from nextscale.row import COLUMNS, MOST_GUIDANCE, Row, check_row, read_value, real, several, text, whole
from nextscale.sampling import smooth_settings
from nextscale.scales import ScaleSchedule, Size
from nextscale.sizes import SHAPE, asked_schedule
from nextscale.values import listed

FORMAT = 2
COLUMNS_1 = {
    "size",
    "model",
    "blocks",
    "guidance",
    "temperature",
    "top_k",
    "top_p",
    "order",
    "smooth",
    "memory",
    "keep",
}
"""Those of format 1."""
CLASS_BRANCHES: Mapping[int, Branches] = {1: (("class",),), 2: (("class",), ())}
"""The branches of a plan of format 1, which had nothing but their number."""


PLAN_WIDE = ("branches", "candidates", "memories", "undrawn", "decode")


@dataclass(frozen=True)
class Plan:
    """The rows of one generation, coarse to fine.

    branches: the sources that each branch sees; branch i has weight i in every row; memories: what each model
    remembers, by the model's name (where one is left out, it is a full memory); candidates: images per prompt at the
    first row; undrawn: sizes of finer scales that exist but are not drawn (the rows are a prefix of the schedule);
    decode: whether the price has the decoding to pixels; a call decodes unless ``output_type`` is "latent".
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
        sizes = read_value("undrawn", self.undrawn, several(several(whole, 2)), "a list of sizes (height, width)")
        object.__setattr__(self, "undrawn", sizes)
        names = read_value(
            "branches", self.branches, several(several(text)), "a list of lists of names, one per branch"
        )
        object.__setattr__(self, "branches", names)
        object.__setattr__(self, "candidates", read_value("candidates", self.candidates, whole, "a whole number"))
        if not isinstance(self.decode, bool):
            raise PlanError(f"a plan's decode is {quoted(self.decode)}, of the wrong type; it must be True or False")
        if not self.rows:
            raise PlanError("a plan needs at least one row, and this one has none")
        if not self.branches:
            raise PlanError("a plan needs at least one branch, and this one has none; the null branch is ()")
        if self.candidates < 1:
            raise PlanError(f"a plan has {self.candidates} candidates per prompt; expected at least 1")
        for k, row in enumerate(self.rows):
            check_row(k, row, self.rows[k - 1] if k else None, self.branches)
        _check_populations(self)
        _ = self.schedule  # refuses impossible sizes
        object.__setattr__(self, "memories", _memories(self))

    @cached_property
    def schedule(self) -> ScaleSchedule:
        """All scales, those that are not drawn included."""
        try:
            return ScaleSchedule((*(row.size for row in self.rows), *self.undrawn))
        except InputError as impossible:
            raise PlanError(str(impossible)) from None

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
        empty = k > 0 and self.memories[name].takeover == "empty"
        blocks = (*(() if empty else runs[0],) * k, *runs, *((),) * (len(self.rows) - end))
        alive = self.alive
        turns = tuple(j for j in range(k, len(self.rows)) if alive[j + 1] != alive[j])
        prefix = 0 if empty and model.prefix_with_first else model.prefix_tokens(self.schedule)
        weights = None if self.memories[name].calibration is None else weights_hash(model)
        return Course(model.slots, self.schedule, blocks, turns, prefix, model.prefix_with_first, weights)

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
        count = read_value("the number of scales", count, whole, "a whole number")
        if not 1 <= count <= len(self.rows):
            raise PlanError(f"the first {quoted(count)} scales were asked for; the plan draws 1 to {len(self.rows)}")
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
        if type(version) is not int or version not in (1, FORMAT):
            raise PlanError(f"the plan has the format {quoted(version)}; this version reads 1 and {FORMAT}")
        keys = ("undrawn", "decode", "format") if version == 1 else (*PLAN_WIDE, "format")
        if not isinstance(data, Mapping) or set(data) - {"rows", *keys} or not isinstance(data.get("rows"), list):
            raise PlanError(
                f"a plan of format {version} is a table with the keys 'rows' (a list), {', '.join(map(repr, keys))}; "
                f"found {_strange(data, {'rows', *keys})}"
            )
        columns = COLUMNS_1 if version == 1 else {*COLUMNS}
        for row in data["rows"]:
            if not isinstance(row, Mapping) or set(row) - columns or "size" not in row:
                raise PlanError(
                    f"a row of a plan of format {version} has the columns {sorted(columns)} and must have a size; "
                    f"found {_strange(row, columns)}"
                )
        rows = tuple(Row(**{name: value for name, value in row.items() if name != "memory"}) for row in data["rows"])
        wide = {name: data[name] for name in PLAN_WIDE if name in data}
        if version == 1:
            return cls(rows, _branches_of(rows), _memories_of(data["rows"]), **wide)
        return cls(rows, **wide | {"memories": _memory_plans(data.get("memories", {}))})


def _strange(table: Any, known: Set[str]) -> str:
    """What is wrong with the keys of a table, for a sentence: those that are not known, or all."""
    if not isinstance(table, Mapping):
        return quoted(table)
    return quoted(sorted(map(str, set(table) - known or table)))


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
    guidance_scale = read_value("guidance_scale", guidance_scale, real, "a number")
    if not isinstance(smooth, bool):
        raise PlanError(f"smooth is {quoted(smooth)}; it must be True or False")
    if not 0 <= guidance_scale <= MOST_GUIDANCE:
        raise PlanError(
            f"guidance_scale is {guidance_scale}; it must lie between 0 and {MOST_GUIDANCE:,}, and 1 switches it off"
        )
    weights = SCHEDULES[model.guidance](guidance_scale, schedule, model.schedule)
    branches: Branches = (model.sources,) if guidance_scale == 1 else (model.sources, model.away_from)
    rows = []
    for k, size in enumerate(schedule):
        rows.append(
            Row(
                size=size,
                guidance=(1.0,) if guidance_scale == 1 else (weights[k], 1 - weights[k]),
                temperature=temperature,
                top_k=1 if model.is_greedy(size) else top_k,
                top_p=top_p,
                smooth=smooth_settings(schedule.progress(k)) if smooth else None,
            )
        )
    return Plan(tuple(rows), branches, {"model": MemoryPlan(model.memory)})


def shaped_plan(model: NextScaleModel, stride: int, **asked: Any) -> Plan:
    """The plan of a plain generation on the scales that were asked for; see :func:`nextscale.sizes.asked_schedule`."""
    shape = {name: asked.pop(name) for name in SHAPE if name in asked}
    return default_plan(model, schedule=asked_schedule(model, stride, **shape), **asked)


def _check_populations(plan: Plan) -> None:
    for k, row in enumerate(plan.rows):
        if (row.population is None) != (row.cull is None):
            raise PlanError(
                f"row {k} has the population {row.population} and the cull {quoted(row.cull)}; expected both or neither"
            )
        if row.population is not None and row.population < 1:
            raise PlanError(f"row {k} has a population of {row.population}; expected at least 1")
