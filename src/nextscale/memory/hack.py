"""HACK: a key-value memory in which two kinds of heads hold different numbers of tokens (arXiv 2504.09261).

Before a layer attends at a scale, what its heads hold, the tokens at hand included, is cut to their budgets, for every
row and head by itself; all queries attend to what is left, and that is kept. What is cut is gone. The two kinds of a
layer stand in a dense tensor each and attend in a call each. Their heads are taken out of queries, keys and values, and
put back into what attention gives: keys and values are copied into the memory anyway, so this adds two copies of the
size of the queries, and leaves weights, their hash and the adapters around them alone.

What is cut is foreseen in ``hack_outlook.py``, by rules in ``hack_rules.py``, which need to know of a model what
``hack_calibration.py`` says.

Shape letters: ``R`` rows, ``H`` heads, ``G`` those of one kind, ``N`` tokens that they hold, ``D`` head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nextscale.layers.attention import attend
from nextscale.layers.slots import PlainQueries
from nextscale.memory.base import Memory, Outlook
from nextscale.memory.baselines import attention_given
from nextscale.memory.cut import kept_tokens
from nextscale.memory.full import FullMemory
from nextscale.memory.hack_outlook import HackOutlook
from nextscale.memory.hack_rules import grid_of, left_out, merged, observers
from nextscale.memory.replaced import Kept, ReplacedMemory
from nextscale.memory.segments import OwnScale


class HackMemory(ReplacedMemory):
    """Of every head the tokens that its outlook counts: for each kind of a layer keys and values (2, R, G, N, D)."""

    _outlook: HackOutlook

    def __init__(self, outlook: HackOutlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__(outlook, rows, dtype, device)
        self._heads = {i: [torch.tensor(kind.heads, device=device) for kind in outlook.kinds[i]] for i in self._kept}
        self._asked = self._grid = torch.empty(0)

    @property
    def prefix(self) -> int:
        return self._outlook.course.prefix

    def _nothing(self, slot: int, rows: int) -> Kept:
        width = self._slots[slot].width
        return tuple(self._new((2, rows, len(kind.heads), 0, width)) for kind in self._outlook.kinds[slot])

    def _foreseen(self, k: int, slot: int, counts: list[int]) -> bool:
        return [step.kept for step in self._outlook.steps[k][slot]] == counts

    def slot(self, index: int) -> _Slot | OwnScale:
        return _Slot(self, index) if self._slots[index].reads == "past" else self._own

    def begin_scale(self, k: int, blocks: Sequence[int] | None = None) -> None:
        super().begin_scale(k, blocks)
        size, count = self.schedule[k], self.schedule.lengths[k]
        places = (observers(count, self._outlook.queries), grid_of(size, self._outlook.grid))
        self._asked, self._grid = (torch.tensor(some, device=self._new(0).device) for some in places)

    def see(self, i: int, q: Tensor, k: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What slot i attends to: for each kind its heads (G,), and their keys and values (2, R, G, N, D), those of a
        prefix first and the newest last.
        """
        found = [
            (heads, self._seen(i, g, *(_of(x, heads) for x in (q, k, v)))) for g, heads in enumerate(self._heads[i])
        ]
        if self._in_prefix or self.scale < self._outlook.course.last_of(i):
            self._next[i] = tuple(seen for _, seen in found)
        return found

    def _seen(self, i: int, g: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the heads of one kind attend to, whose queries, keys and values these are."""
        held = self._joined(self._kept[i][g], k, v)
        if self._in_prefix or self._outlook.steps[self.scale][i][g].attended == held.shape[3]:
            return held
        return self._cut(i, g, q, held)

    def _cut(self, i: int, g: int, q: Tensor, held: Tensor) -> Tensor:
        """Of ``held`` (2, R, G, N, D) the prefix, what its kind always holds, and the best of the rest."""
        outlook, scale, kind, prefix = self._outlook, self.scale, self._outlook.kinds[i][g], self.prefix
        length = self.schedule.lengths[scale]
        scores = attention_given(q[:, :, self._asked + q.shape[2] - length], held[0])[..., prefix:]
        ahead = torch.arange(outlook.ahead, device=held.device)
        sure = torch.cat([ahead, self._grid + scores.shape[2] - length]) if kind.structural else ahead[:0]
        stay = kept_tokens(scores, sure, outlook.steps[scale][i][g].attended - prefix)
        among = held[:, :, :, prefix:]
        kept = _taken(among, stay)
        if outlook.merges(scale, kind):
            kept = merged(kept, _taken(among, left_out(stay, among.shape[3])))
        return torch.cat([held[:, :, :, :prefix], kept], 3) if prefix else kept


def _of(x: Tensor, heads: Tensor) -> Tensor:
    """The heads (G,) of x (R, H, l, D)."""
    return x if len(heads) == x.shape[1] else x.index_select(1, heads)


def _taken(held: Tensor, places: Tensor) -> Tensor:
    """The tokens (R, G, n) of ``held`` (2, R, G, N, D)."""
    return held.gather(3, places[None, ..., None].expand(2, -1, -1, -1, held.shape[4]))


class _Slot:
    def __init__(self, memory: HackMemory, index: int) -> None:
        self._memory, self._index = memory, index

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        seen = self._memory.see(self._index, q, k, v)
        if len(seen) == 1:
            return attend(q, *seen[0][1])
        out = torch.empty_like(q)
        for heads, held in seen:
            out[:, heads] = attend(q[:, heads], *held)
        return out

    def see(
        self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """One tensor for all heads; where some hold less than others, the gap stands masked behind the prefix."""
        seen, prefix = self._memory.see(self._index, q, k, v), self._memory.prefix
        counts = [held.shape[3] for _, held in seen]
        most = max(counts)
        both = k.new_zeros((2, *k.shape[:2], most, k.shape[3]))
        mask = torch.zeros((1, k.shape[1], 1, most), dtype=torch.bool, device=k.device)
        for heads, held in seen:
            places = torch.arange(held.shape[3], device=k.device)
            places[prefix:] += most - held.shape[3]
            both[:, :, heads[:, None], places], mask[0, heads[:, None], 0, places] = held.to(k.dtype), True
        return both[0], both[1], mask if most > min(counts) else None


def new_memory(outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device | str) -> Memory:
    """Where nothing will be dropped, this is the full memory itself."""
    kind: Any = HackMemory if isinstance(outlook, HackOutlook) else FullMemory
    memory: Memory = kind(outlook, rows, dtype, device)
    return memory
