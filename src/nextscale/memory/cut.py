"""A key-value memory that drops entries: of every layer it keeps as many tokens as its outlook counts, and those that a
rule chooses.

After a layer has attended at a scale, what it holds is cut to what the next scale's queries may see. What is cut is
gone: later scales attend to fewer keys. A prefix is kept whole and does not count. Tensors that are kept are replaced,
never written into.

Shape letters: ``R`` rows, ``H`` heads, ``N`` tokens that a layer holds, ``l`` queries at hand, ``D`` head width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nextscale.layers.attention import attend
from nextscale.layers.slots import PlainQueries, SlotSpec
from nextscale.memory import full, none
from nextscale.memory.base import Course, Memory, Outlook
from nextscale.memory.full import FullMemory
from nextscale.memory.replaced import Kept, ReplacedMemory
from nextscale.memory.segments import OwnScale
from nextscale.scales import Size


@dataclass(frozen=True)
class Look:
    """What a layer has before it when it has attended at a scale.

    q: queries (R, H, l, D) with their scale; plain: gives them as they were projected; keys: (R, H, N, D), those of the
    ``prefix`` first and those of the map at hand, of ``size``, last; notes: (n, R, H, earlier tokens) float32, what the
    rule noted of the tokens after the prefix that were kept from earlier scales.
    """

    q: Tensor
    plain: PlainQueries | None
    keys: Tensor
    prefix: int
    size: Size
    notes: Tensor

    @property
    def tokens(self) -> int:
        """How many there are to choose among: those that are not of the prefix."""
        return self.keys.shape[2] - self.prefix

    def places(self, start: int, end: int) -> Tensor:
        """The positions from start to end."""
        return torch.arange(start, end, device=self.keys.device)


class Rule(ABC):
    """Which tokens a layer keeps. Positions count from the first token after the prefix."""

    @property
    def notes(self) -> int:
        """Numbers that the rule keeps beside every token of every head, from scale to scale."""
        return 0

    def noted(self, look: Look) -> Tensor:
        """The notes after this scale, (n, R, H, look.tokens) float32; asked at every scale until the last cut."""
        return look.notes

    @abstractmethod
    def chosen(self, look: Look, count: int) -> Tensor:
        """Positions, ascending: (count,), or (R, H, count) where every row and head has its own. look.notes are those
        after this scale.
        """

    def flops(self, course: Course, k: int, spec: SlotSpec, held: int) -> int:
        """FLOPs of noting, or, without notes, of choosing after scale k, of one row of a layer that holds so many
        tokens, those of the prefix counted.
        """
        return 0


@dataclass(frozen=True)
class CutOutlook(Outlook):
    """rule: chooses what is kept, of all heads of a layer as many."""

    kept: tuple[tuple[int, ...], ...]
    attended: tuple[tuple[int, ...], ...]
    rule: Rule

    def cuts(self, k: int, slot: int) -> bool:
        """Whether a slot drops something after scale k."""
        return k < self.course.last_of(slot) and self.attended[k][slot] > self.kept[k][slot]

    def notes(self, k: int, slot: int) -> bool:
        """Whether the rule notes something of a slot at scale k: it does until the last cut."""
        return self.rule.notes > 0 and any(self.cuts(j, slot) for j in range(k, len(self.kept)))

    def bytes(self, k: int, rows: int, element: int) -> int:
        noted = 0
        for i, spec in enumerate(self.course.slots):
            if spec.reads == "past" and self.notes(k + 1, i):
                noted += self.rule.notes * spec.heads * (self.kept[k][i] - self.course.prefix)
        return super().bytes(k, rows, element) + 4 * rows * noted

    def drop_flops(self, k: int) -> int:
        return sum(
            self.rule.flops(self.course, k, spec, self.attended[k][i])
            for i, spec in enumerate(self.course.slots)
            if spec.reads == "past" and (self.notes(k, i) or self.cuts(k, i))
        )


class CutMemory(ReplacedMemory):
    """Of every layer the tokens that its outlook counts: keys and values (2, R, H, N, D), and what the rule noted of
    those after the prefix, (n, R, H, ...) float32.
    """

    _outlook: CutOutlook

    def _nothing(self, slot: int, rows: int) -> Kept:
        heads, width = self._slots[slot].heads, self._slots[slot].width
        notes = self._new((self._outlook.rule.notes, rows, heads, 0), dtype=torch.float32)
        return self._new((2, rows, heads, 0, width)), notes

    def _foreseen(self, k: int, slot: int, counts: list[int]) -> bool:
        return self._outlook.kept[k][slot] == counts[0]

    def slot(self, index: int) -> _Slot | OwnScale:
        return _Slot(self, index) if self._slots[index].reads == "past" else self._own

    def see(self, i: int, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None) -> Tensor:
        """What slot i attends to, keys and values (2, R, H, N, D): all that it kept, then k and v (R, H, l, D). What it
        will keep of that is chosen here, so that only one layer at a time holds more.
        """
        kept, notes = self._kept[i]
        both = self._joined(kept, k, v)
        if self._in_prefix:
            self._next[i] = (both, notes)
        elif self.scale < self._outlook.course.last_of(i):
            look = Look(q, plain, both[0], self._outlook.course.prefix, self.schedule[self.scale], notes)
            self._next[i] = self._left(i, both, look)
        return both

    def _left(self, i: int, both: Tensor, look: Look) -> Kept:
        """What slot i keeps after this scale: the prefix, and what the rule chooses."""
        outlook, k = self._outlook, self.scale
        notes = outlook.rule.noted(look) if outlook.notes(k, i) else look.notes
        if outlook.cuts(k, i):
            count = outlook.kept[k][i] - look.prefix
            chosen = outlook.rule.chosen(replace(look, notes=notes), count)
            ahead = look.places(0, look.prefix).expand(*chosen.shape[:-1], -1)
            both = _taken(both, torch.cat([ahead, chosen + look.prefix], -1))
            notes = _taken(notes, chosen) if outlook.notes(k + 1, i) else notes[..., :0].clone()
        return both, notes


def _taken(x: Tensor, positions: Tensor) -> Tensor:
    """Of x (n, R, H, N, ...) the tokens at positions (count,) or (R, H, count)."""
    if positions.ndim == 1:
        return x.index_select(3, positions)
    index = positions.reshape(1, *positions.shape, *(1,) * (x.ndim - 4))
    return x.gather(3, index.expand(len(x), -1, -1, -1, *x.shape[4:]))


class _Slot:
    def __init__(self, memory: CutMemory, index: int) -> None:
        self._memory, self._index = memory, index

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        return attend(q, *self._memory.see(self._index, q, k, v, plain))

    def see(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> tuple[Tensor, Tensor, None]:
        keys, values = self._memory.see(self._index, q, k, v, plain)
        return keys, values, None


def new_memory(outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> Memory:
    """Where nothing will be dropped, this is the full memory itself."""
    kind: Any = CutMemory if isinstance(outlook, CutOutlook) else FullMemory
    memory: Memory = kind(outlook, rows, dtype, device)
    return memory


def cut_outlook(course: Course, most: Callable[[int, int], int | None], rule: Rule) -> Outlook:
    """What is kept of ``course``: of every layer, after every scale, at most a number of tokens.

    most: of a scale and a block to that number, those of a prefix not counted; None: all.
    """
    kept, attended = list[tuple[int, ...]](), list[tuple[int, ...]]()
    before = (0 if course.with_first else course.prefix,) * len(course.slots)
    for k, own in enumerate(none.outlook(course).attended):
        reads = zip(course.slots, own, before, strict=True)
        held = tuple(int(n) + past if n and spec.reads == "past" else int(n) for spec, n, past in reads)
        attended.append(held)
        limits = [most(k, spec.block) if k >= course.first else None for spec in course.slots]
        left = [n if limit is None else min(n, limit + course.prefix) for n, limit in zip(held, limits, strict=True)]
        kept.append(tuple(_kept(course, k, i, before[i], n) for i, n in enumerate(left)))
        before = kept[k] if k >= course.first else before
    if tuple(kept) == (whole := full.outlook(course)).kept:
        return whole
    return CutOutlook(course, tuple(kept), tuple(attended), rule)


def _kept(course: Course, k: int, slot: int, before: int, left: int) -> int:
    """Tokens that a slot keeps after scale k: ``left`` of those it saw, or, where no later scale reads them, what it
    kept ``before``.
    """
    last = course.last_of(slot)
    if course.slots[slot].reads != "past" or not course.first <= k <= last:
        return 0
    return before if k == last else left


def kept_tokens(scores: Tensor, sure: Tensor, count: int) -> Tensor:
    """The positions (R, H, count), ascending, of tokens that are kept for sure and of the best of the others; of equals
    the first.

    scores: (R, H, N); sure: (s,) positions.
    """
    others = scores.index_fill(2, sure, -torch.inf)
    best = others.sort(dim=2, descending=True, stable=True).indices[:, :, : count - len(sure)]
    return torch.cat([best, sure.expand(*best.shape[:2], -1)], 2).sort(2).values
