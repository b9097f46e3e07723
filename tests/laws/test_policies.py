"""Laws of policies that drop entries: a toy of one, which keeps the newest tokens of every layer, as many as a
calibration says. A policy is a file and a line of ``memory/make.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nextscale import systems
from nextscale.errors import PlanError
from nextscale.layers.attention import attend
from nextscale.memory import full, none
from nextscale.memory.base import Course, Memory, MemoryPlan, Outlook
from nextscale.memory.make import Policy
from nextscale.memory.segments import OwnScale
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan, default_plan
from nextscale.price import price
from nextscale.rehearse import rehearse
from nextscale.scales import ScaleSchedule
from tests.laws.test_loop import Best, culled, handed, run, same
from tests.makers import MODELS, tiny_tokenizer, tiny_var, tokenizer_of
from tests.test_price import counted
from tests.toys import free_model

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class NewestOutlook(Outlook):
    """How many queries of the newest scale the policy looks through: what only its own memory reads."""

    window: int = 1


class NewestMemory(Memory):
    """Of every layer the newest tokens."""

    def __init__(self, outlook: NewestOutlook, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.outlook, self.schedule, self.scale = outlook, outlook.course.schedule, outlook.course.first
        self.pending: dict[int, Pair] = {}
        self.kept: dict[int, Pair] = {}
        for i, spec in enumerate(outlook.course.slots):
            if spec.reads == "past" and outlook.course.last_of(i) >= 0:
                nothing = torch.empty(rows, spec.heads, 0, spec.width, dtype=dtype, device=device)
                self.kept[i] = (nothing, nothing)

    def slot(self, index: int) -> Any:
        return NewestSlot(self, index) if self.outlook.course.slots[index].reads == "past" else OwnScale()

    def begin_prefix(self) -> None:
        self.pending = {}

    def end_prefix(self) -> None:
        self.kept |= self.pending

    def begin_scale(self, k: int, blocks: Sequence[int] | None = None) -> None:
        self.pending = {}
        if blocks is not None:
            self.kept = {i: kept for i, kept in self.kept.items() if self.outlook.course.slots[i].block in blocks}

    def end_scale(self, k: int) -> None:
        for i, (keys, values) in self.pending.items():
            drop = keys.shape[2] - self.outlook.kept[k][i]
            self.kept[i] = (keys[:, :, drop:].clone(), values[:, :, drop:].clone())
        self.pending, self.scale = {}, k + 1

    def select(self, rows: Tensor) -> None:
        self.kept = {i: (keys[rows], values[rows]) for i, (keys, values) in self.kept.items()}

    def snapshot(self) -> object:
        return dict(self.kept)

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, dict)
        self.kept = dict(snapshot)

    def free(self) -> None:
        self.kept, self.pending = {}, {}

    @property
    def live_bytes(self) -> int:
        return sum(x.nbytes for pair in self.kept.values() for x in pair)

    @property
    def allocated_bytes(self) -> int:
        return self.live_bytes + sum(x.nbytes for pair in self.pending.values() for x in pair)


class NewestSlot:
    def __init__(self, memory: NewestMemory, index: int) -> None:
        self.memory, self.index = memory, index

    def see(self, q: Tensor, k: Tensor, v: Tensor, plain: Any = None) -> tuple[Tensor, Tensor, None]:
        keys, values = self.memory.kept[self.index]
        self.memory.pending[self.index] = (torch.cat([keys, k], 2), torch.cat([values, v], 2))
        return *self.memory.pending[self.index], None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: Any = None) -> Tensor:
        return attend(q, *self.see(q, k, v))


def outlook(course: Course, window: int, calibration: list[int]) -> Outlook:
    """calibration: tokens that every block may keep."""
    if len(calibration) <= max(spec.block for spec in course.slots):
        raise PlanError(f"the calibration is of {len(calibration)} blocks; expected one number for each of the model's")
    whole = full.outlook(course)

    def budget(i: int) -> int:
        return calibration[course.slots[i].block]

    kept = [[min(count, budget(i)) for i, count in enumerate(counts)] for counts in whole.kept]
    attended = [list(counts) for counts in none.outlook(course).attended]
    for k, counts in enumerate(attended):
        for i, spec in enumerate(course.slots):
            if spec.reads == "past" and counts[i]:
                before = kept[k - 1][i] if k > course.first else course.seen(k) - course.tokens(k)
                counts[i] += before
    return NewestOutlook(course, tuple(map(tuple, kept)), tuple(map(tuple, attended)), window)


NEWEST = Policy(NewestMemory, outlook, frozenset({"past"}), {"window": int}, calibrated=True)


@pytest.fixture(autouse=True)
def _its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = replace(systems.SYSTEMS[0], name="newest", types={}, recipes={}, memories={"newest": f"{__name__}.NEWEST"})
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, line))


PAST = {name: make for name, make in MODELS.items() if make().memory == "full"} | {
    "free": lambda: free_model(reads="past"),
    "prefix": lambda: free_model(reads="past", prefix=3),
}


@pytest.fixture(params=PAST)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return PAST[request.param]()


def with_policy(plan: Plan) -> Plan:
    memory = MemoryPlan("newest", {"window": 4}, "budgets")
    return replace(plan, memories={name: replace(memory, takeover=m.takeover) for name, m in plan.memories.items()})


def test_a_budget_of_everything_is_the_full_memory(model: NextScaleModel) -> None:
    plan = default_plan(model, guidance_scale=2.0)
    assert same(run(with_policy(plan), model, budgets=[1000] * 3), run(plan, model))
    assert not same(run(with_policy(plan), model, budgets=[0] * 3), run(plan, model))
    assert same(run(with_policy(plan), model, budgets=[3, 2, 1])[:1], run(plan, model)[:1])


@pytest.mark.parametrize("method", ["plain", "culled", "handed over", "handed over, empty", "fewer blocks"])
def test_layers_that_keep_different_numbers_are_priced_and_rehearsed(model: NextScaleModel, method: str) -> None:
    plan = default_plan(model, guidance_scale=2.0)
    depth = len(model.blocks)
    rows = tuple(replace(row, blocks=(0, depth - 1) if k < 2 else (depth - 1,)) for k, row in enumerate(plan.rows))
    plan = with_policy(
        {
            "plain": plan,
            "culled": culled(plan, 4, {0: 5, 2: 1}),
            "handed over": handed(plan, 2, model),
            "handed over, empty": handed(plan, 2, model, "empty"),
            "fewer blocks": replace(plan, rows=rows),
        }[method]
    )
    parts = {"refiner": model, "best": Best(), "budgets": [7, 2, 100]}
    flops, live = counted(plan, model, 2, **parts)
    parts |= {"tokenizer": tokenizer_of(model), "model": model}
    priced = price(plan, parts, 2)
    assert priced.flops == pytest.approx(flops, rel=0.02)
    assert [line.memory for line in priced.lines[1:-1]] == live
    assert rehearse(plan, parts, 2, torch.device("cpu")).drawing > 0


def test_blocks_that_remember_differently_are_all_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model is rehearsed with two of its blocks only where the others remember as much as the second one."""
    model = free_model(reads="past")
    parts = {"tokenizer": tiny_tokenizer(), "model": model, "budgets": [7, 2, 100]}
    plan = with_policy(default_plan(model))
    monkeypatch.setattr("nextscale.rehearse.ALL_BLOCKS", 8)
    whole = rehearse(plan, parts, 2, torch.device("cpu"))
    monkeypatch.setattr("nextscale.rehearse.ALL_BLOCKS", 2)
    assert rehearse(plan, parts, 2, torch.device("cpu")) == whole


def test_a_calibration_that_is_missing_or_wrong_is_refused_before_anything_runs() -> None:
    model = tiny_var()
    plan = default_plan(model)
    asked = with_policy(plan)
    networks = {"tokenizer": tiny_tokenizer(), "model": model}
    for refused in (lambda **parts: run(asked, model, **parts), lambda **parts: price(asked, networks | parts)):
        with pytest.raises(PlanError, match="a part named 'budgets', but the parts are model, tokenizer"):
            refused()
        with pytest.raises(PlanError, match="the calibration is of 1 blocks"):
            refused(budgets=[3])
    with pytest.raises(PlanError, match="'newest' needs a calibration; name the part that holds it"):
        replace(plan, memories={"model": MemoryPlan("newest", {"window": 4})})
    with pytest.raises(PlanError, match=r"'newest' needs window \(int\)"):
        replace(plan, memories={"model": MemoryPlan("newest", {}, "budgets")})
    numpys = MemoryPlan("newest", {"window": np.int64(4)}, "budgets")
    assert type(replace(plan, memories={"model": numpys}).to_dict()["memories"]["model"]["settings"]["window"]) is int
    with pytest.raises(PlanError, match=r"'newest' has window 0.5; it takes window \(int\)"):
        replace(plan, memories={"model": MemoryPlan("newest", {"window": 0.5}, "budgets")})
    handed_over = with_policy(handed(default_plan(model, schedule=ScaleSchedule.of([1, 2, 3, 4])), 2, model))
    later = replace(handed_over.memories["refiner"], calibration="others")
    broken = replace(handed_over, memories={**handed_over.memories, "refiner": later})
    with pytest.raises(PlanError, match="the calibration is of 0 blocks"):
        next(iter(run(broken, model, refiner=model, budgets=[9] * 3, others=[])))


def test_a_population_chooses_among_what_was_kept(model: NextScaleModel) -> None:
    plan = culled(default_plan(model, top_k=1), 2, {1: 1})
    one = run(with_policy(default_plan(model, top_k=1)), model, budgets=[5, 3, 2])
    several = run(with_policy(plan), model, budgets=[5, 3, 2], best=Best())
    assert len(several[-1].tokens) == 3
    assert same(several[1:], one[1:])
