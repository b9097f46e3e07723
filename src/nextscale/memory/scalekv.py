"""ScaleKV: a key-value memory in which every layer keeps as much as it looks back (arXiv 2505.19602).

After a layer has attended at a scale, what it holds is cut to what the next scale's queries may see, for every row and
head by itself. What is cut is gone: later scales attend to fewer keys. Rules in ``scalekv_rules.py``, what they need to
know of a model in ``scalekv_calibration.py``. Kept tensors are replaced, never written into.

Shape letters: ``R`` rows, ``H`` heads, ``N`` tokens that a layer holds, ``D`` head width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nextscale.errors import PlanError, quoted
from nextscale.layers.attention import attend
from nextscale.layers.slots import PlainQueries
from nextscale.memory import full, none
from nextscale.memory.base import Course, Memory, Outlook
from nextscale.memory.full import FullMemory
from nextscale.memory.scalekv_calibration import Statistics, Table
from nextscale.memory.scalekv_rules import ALLOCATIONS, SCORES, kept_tokens, window_of
from nextscale.memory.segments import OwnScale


@dataclass(frozen=True)
class ScaleKVOutlook(Outlook):
    """window, kernel, score: how tokens are chosen, see ``scalekv_rules.py``."""

    window: int
    kernel: int
    score: str

    def cuts(self, k: int, slot: int) -> bool:
        """Whether a slot drops something after scale k."""
        return k < self.course.last_of(slot) and self.attended[k][slot] > self.kept[k][slot]

    def drop_flops(self, k: int) -> int:
        asked, flops = len(window_of(self.course.schedule[k], self.window)), 0
        for i, spec in enumerate(self.course.slots):
            held = self.attended[k][i] - self.course.prefix
            if spec.reads == "past" and self.cuts(k, i):
                width = spec.heads * spec.width
                flops += 2 * width * (asked * width + held if self.score == "logits" else asked * held)
        return flops


class ScaleKVMemory(Memory):
    """Of every layer the tokens that its outlook counts, for ``rows`` rows in the compute precision ``dtype``."""

    def __init__(self, outlook: ScaleKVOutlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> None:
        course = outlook.course
        self.schedule, self.scale = course.schedule, course.first
        self._outlook, self._slots = outlook, course.slots
        self._new = torch.empty(0, dtype=dtype, device=device).new_empty
        runs = (i for i, spec in enumerate(course.slots) if spec.reads == "past" and course.last_of(i) >= 0)
        self._kept = {i: self._new((2, rows, course.slots[i].heads, 0, course.slots[i].width)) for i in runs}
        self._next: dict[int, Tensor] = {}
        self._in_prefix = False
        self._own = OwnScale()

    def slot(self, index: int) -> _Slot | OwnScale:
        return _Slot(self, index) if self._slots[index].reads == "past" else self._own

    def begin_prefix(self) -> None:
        self._next, self._in_prefix = {}, True

    def end_prefix(self) -> None:
        self._kept |= self._next
        self._next, self._in_prefix = {}, False

    def begin_scale(self, k: int, blocks: Sequence[int] | None = None) -> None:
        assert self.scale == k, f"scale {k} began where scale {self.scale} was due"
        self._next = {}
        if blocks is not None:
            self._kept = {i: kept for i, kept in self._kept.items() if self._slots[i].block in blocks}

    def end_scale(self, k: int) -> None:
        assert self.scale == k, f"scale {k} ended where scale {self.scale} was due"
        self._kept |= self._next
        self._next, self.scale = {}, k + 1
        counts = {i: kept.shape[3] for i, kept in self._kept.items()}
        assert all(self._outlook.kept[k][i] == n for i, n in counts.items()), f"{counts} tokens after scale {k}"

    def select(self, rows: Tensor) -> None:
        for i, kept in self._kept.items():  # layer by layer, so that only one is held twice
            self._kept[i] = kept.index_select(1, rows)

    def snapshot(self) -> _Snapshot:
        return _Snapshot(self.scale, dict(self._kept))

    def restore(self, snapshot: object) -> None:
        assert isinstance(snapshot, _Snapshot)
        self.scale, self._kept, self._next = snapshot.scale, dict(snapshot.kept), {}

    def free(self) -> None:
        self._kept, self._next = {}, {}

    @property
    def live_bytes(self) -> int:
        return sum(kept.nbytes for kept in self._kept.values())

    @property
    def allocated_bytes(self) -> int:
        return self.live_bytes + sum(kept.nbytes for kept in self._next.values())

    def see(self, i: int, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None) -> Tensor:
        """What slot i attends to, keys and values (2, R, H, N, D): all that it kept, then k and v (R, H, l, D). What it
        will keep of that is chosen here, so that only one layer at a time holds more.
        """
        kept = self._kept[i]
        past, total = kept.shape[3], kept.shape[3] + k.shape[2]
        held = self._new((*kept.shape[:3], total, kept.shape[4]))
        held[:, :, :, :past] = kept
        held[0, :, :, past:], held[1, :, :, past:] = k, v
        if self._in_prefix:
            self._next[i] = held
        elif self.scale < self._outlook.course.last_of(i):
            self._next[i] = self._chosen(i, held, q, plain) if self._outlook.cuts(self.scale, i) else held
        return held

    def _chosen(self, i: int, held: Tensor, q: Tensor, plain: PlainQueries | None) -> Tensor:
        """What slot i keeps after this scale: the prefix, the window, and the best of the rest."""
        outlook, length, prefix = self._outlook, self.schedule.lengths[self.scale], self._outlook.course.prefix
        window = torch.tensor(window_of(self.schedule[self.scale], outlook.window), device=held.device)
        here, among = window + q.shape[2] - length, window + held.shape[3] - length - prefix
        if outlook.score == "logits":
            assert plain is not None, "a slot around this one must hand the plain queries on"
            queries = plain(here)
        else:
            queries = q[:, :, here]
        scores = SCORES[outlook.score](queries, held[0, :, :, prefix:], among, outlook.kernel)
        chosen = kept_tokens(scores, among, outlook.kept[self.scale][i] - prefix) + prefix
        ahead = torch.arange(prefix, device=held.device).expand(*chosen.shape[:2], -1)
        index = torch.cat([ahead, chosen], 2)[None, ..., None]
        return held.gather(3, index.expand(2, -1, -1, -1, held.shape[4]))


@dataclass(frozen=True)
class _Snapshot:
    scale: int
    kept: dict[int, Tensor] = field(repr=False)


class _Slot:
    def __init__(self, memory: ScaleKVMemory, index: int) -> None:
        self._memory, self._index = memory, index

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        return attend(q, *self._memory.see(self._index, q, k, v, plain))

    def see(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> tuple[Tensor, Tensor, None]:
        keys, values = self._memory.see(self._index, q, k, v, plain)
        return keys, values, None


def new_memory(outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> Memory:
    """Where nothing will be dropped, this is the full memory itself."""
    kind: Any = ScaleKVMemory if isinstance(outlook, ScaleKVOutlook) else FullMemory
    memory: Memory = kind(outlook, rows, dtype, device)
    return memory


def outlook(
    course: Course,
    budget: int,
    window: int,
    kernel: int,
    score: str,
    calibration: Any,
    drafters: float | None = None,
    floor: int | None = None,
    allocation: str | None = None,
    literal: bool | None = None,
) -> Outlook:
    """What every layer keeps of ``course``; of a prefix all, which does not count.

    budget: mean tokens of a layer; the last four: see ``Statistics.table``; a table has none of them. Raises
    ``PlanError`` where the settings do not go together, or the calibration is not of this model.
    """
    rule = {"drafters": drafters, "floor": floor, "allocation": allocation, "literal": literal}
    _check_choice(budget, window, kernel, score)
    table = _table(course, budget, window, rule, calibration)
    kept, attended = list[tuple[int, ...]](), list[tuple[int, ...]]()
    before = (0 if course.with_first else course.prefix,) * len(course.slots)
    for k, own in enumerate(none.outlook(course).attended):
        reads = zip(course.slots, own, before, strict=True)
        held = tuple(n + past if n and spec.reads == "past" else n for spec, n, past in reads)
        cut = table.allotments.get(k + 1) if k >= course.first and course.seen(k) - course.prefix > budget else None
        limits = (
            n if cut is None else cut.of(s.block) + course.prefix for s, n in zip(course.slots, held, strict=True)
        )
        attended.append(held)
        kept.append(tuple(_kept(course, k, i, before[i], min(held[i], most)) for i, most in enumerate(limits)))
        before = kept[k] if k >= course.first else before
    if tuple(kept) == (whole := full.outlook(course)).kept:
        return whole
    return ScaleKVOutlook(course, tuple(kept), tuple(attended), window, kernel, score)


SETTINGS: Mapping[str, type] = {"budget": int, "window": int, "kernel": int, "score": str, "drafters": float}
SETTINGS = {**SETTINGS, "floor": int, "allocation": str, "literal": bool}
"""Of a plan's memory, with their types; what a budget file says itself is left out."""


def _kept(course: Course, k: int, slot: int, before: int, left: int) -> int:
    """Tokens that a slot keeps after scale k: ``left`` of those it saw, or, where no later scale reads them, what it
    kept ``before``.
    """
    last = course.last_of(slot)
    if course.slots[slot].reads != "past" or not course.first <= k <= last:
        return 0
    return before if k == last else left


def _check_choice(budget: int, window: int, kernel: int, score: str) -> None:
    if window < 1 or math.isqrt(window) ** 2 != window:
        raise PlanError(f"window is {window}; expected the number of a square grid, such as 16")
    if budget < window:
        raise PlanError(f"budget is {budget} tokens; expected at least {window}, the window, which is always kept")
    if kernel < 1 or kernel % 2 == 0:
        raise PlanError(f"kernel is {kernel}; expected an odd number")
    if score not in SCORES:
        raise PlanError(f"score is {quoted(score)}; expected {' or '.join(SCORES)}")


def _table(course: Course, budget: int, window: int, rule: dict[str, Any], calibration: Any) -> Table:
    """What the calibration gives the blocks. Raises ``PlanError`` where it cannot."""
    said = [name for name, value in rule.items() if value is not None]
    if isinstance(calibration, Table):
        calibration.check(course)
        if said:
            raise PlanError(
                f"{said[0]} is {quoted(rule[said[0]])}, but a budget file says what blocks keep; leave it out"
            )
        if budget != calibration.budget or calibration.least < window:
            raise PlanError(
                f"budget is {budget} and window {window}, but the budget file has {calibration.budget} tokens a block, "
                f"and blocks that keep {calibration.least}; expected that budget, and a window within these"
            )
        return calibration
    if not isinstance(calibration, Statistics):
        raise PlanError(f"the calibration is {quoted(calibration)}; expected one that read_calibration gave")
    calibration.check(course)
    if len(said) < len(rule):
        raise PlanError(f"scalekv has {', '.join(said) or 'nothing'} of {', '.join(rule)}; expected all of them")
    if not 0 <= rule["drafters"] <= 1:
        raise PlanError(f"drafters is {rule['drafters']}; expected a share, 0 to 1")
    if not window <= rule["floor"] <= budget:
        raise PlanError(f"floor is {rule['floor']}; expected at least the window, {window}, and at most {budget}")
    if rule["allocation"] not in ALLOCATIONS:
        raise PlanError(f"allocation is {quoted(rule['allocation'])}; expected {' or '.join(ALLOCATIONS)}")
    return calibration.table(budget, **rule)
