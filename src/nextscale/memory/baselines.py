"""Policies of language models, which know nothing of scales: what others are held against.

A window (the last tokens), StreamingLLM (arXiv 2309.17453), H2O (arXiv 2306.14048), SnapKV (arXiv 2404.14469) and
PyramidKV (arXiv 2406.02069). Each is a rule of ``cut.py``; none needs a calibration. "Last" counts tokens in the order
in which they are drawn, so of a map it is the lower right corner.

Shape letters as in ``cut.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.errors import PlanError
from nextscale.layers.slots import SlotSpec
from nextscale.memory.base import Course, Outlook
from nextscale.memory.cut import Look, Rule, cut_outlook, kept_tokens
from nextscale.memory.scalekv_rules import check_kernel, window_of
from nextscale.scales import Size

BUDGET: Mapping[str, type] = {"budget": int}
STREAMING: Mapping[str, type] = {**BUDGET, "scales": int}
H2O: Mapping[str, type] = {**BUDGET, "per_query": bool}
SNAPKV: Mapping[str, type] = {**BUDGET, "window": int, "kernel": int, "grid": bool}
PYRAMIDKV: Mapping[str, type] = {**SNAPKV, "least": int}
"""Settings of a plan's memory, with their types."""


# Which tokens


@dataclass(frozen=True)
class Ends(Rule):
    """The ``first`` tokens, and then the last ones."""

    first: int = 0

    def chosen(self, look: Look, count: int) -> Tensor:
        return torch.cat([look.places(0, self.first), look.places(look.tokens - count + self.first, look.tokens)])


@dataclass(frozen=True)
class HeavyHitters(Rule):
    """The last half, and of the others those that got the most attention of all queries until now.

    per_query: of each query that could see them, on average; otherwise in sum, as the authors have it, by which tokens
    of coarse scales, which more queries have seen, stand first.
    """

    per_query: bool

    @property
    def notes(self) -> int:
        """The sum, and how many queries it is of."""
        return 1 + self.per_query

    def noted(self, look: Look) -> Tensor:
        given = attention_given(look.q, look.keys)[..., look.prefix :]
        new = torch.stack([given, torch.full_like(given, look.q.shape[2])][: self.notes])
        return new + F.pad(look.notes, (0, look.tokens - look.notes.shape[3]))

    def chosen(self, look: Look, count: int) -> Tensor:
        scores = look.notes[0] / look.notes[1] if self.per_query else look.notes[0]
        return kept_tokens(scores, look.places(look.tokens - (count + 1) // 2, look.tokens), count)

    def flops(self, course: Course, k: int, spec: SlotSpec, held: int) -> int:
        return 2 * spec.heads * spec.width * course.tokens(k) * held


@dataclass(frozen=True)
class Observed(Rule):
    """A window of the newest map, and of the other tokens those to which it gives the most attention, neighbours
    averaged.

    window: its last tokens, or (grid) the middles of a square grid of at most so many patches; kernel: neighbours, of
    which those in the window give nothing.
    """

    window: int
    kernel: int
    grid: bool

    def places(self, size: Size) -> tuple[int, ...]:
        """The window of a map."""
        length = size[0] * size[1]
        return window_of(size, self.window) if self.grid else tuple(range(max(0, length - self.window), length))

    def chosen(self, look: Look, count: int) -> Tensor:
        places, length = torch.tensor(self.places(look.size), device=look.keys.device), look.size[0] * look.size[1]
        window, asked = places + look.tokens - length, look.q[:, :, places + look.q.shape[2] - length]
        given = attention_given(asked, look.keys)[..., look.prefix :].index_fill(2, window, 0.0)
        return kept_tokens(F.avg_pool1d(given, self.kernel, 1, self.kernel // 2), window, count)

    def flops(self, course: Course, k: int, spec: SlotSpec, held: int) -> int:
        return 2 * spec.heads * spec.width * len(self.places(course.schedule[k])) * held


def attention_given(q: Tensor, keys: Tensor, chunk: int = 256) -> Tensor:
    """How much attention queries (R, H, l, D), which have their scale, give every key (R, H, N, D) in sum: (R, H, N)
    float32. chunk: queries at a time.
    """
    across = keys.float().mT
    return torch.stack([(some @ across).softmax(-1).sum(2) for some in q.float().split(chunk, 2)]).sum(0)


# How many


def window_outlook(course: Course, budget: int) -> Outlook:
    """budget: tokens of every layer, as of all below."""
    return _uniform(course, budget, 1, Ends())


def streaming_outlook(course: Course, budget: int, scales: int) -> Outlook:
    """scales: those that are kept whole, the first that the model sees."""
    if scales < 1:
        raise PlanError(f"scales is {scales}; expected at least 1, to be kept whole")
    last = min(course.first + scales, len(course.schedule)) - 1
    return _uniform(course, budget, first := course.seen(last) - course.prefix, Ends(first))


def h2o_outlook(course: Course, budget: int, per_query: bool) -> Outlook:
    """per_query: see ``HeavyHitters``."""
    return _uniform(course, budget, 1, HeavyHitters(per_query))


def snapkv_outlook(course: Course, budget: int, window: int, kernel: int, grid: bool) -> Outlook:
    """window, kernel, grid: see ``Observed``."""
    return _uniform(course, budget, window, _observed(window, kernel, grid))


def pyramidkv_outlook(course: Course, budget: int, window: int, kernel: int, grid: bool, least: int) -> Outlook:
    """budget: mean of the layers; least: tokens of the last one; the rest as of :func:`snapkv_outlook`."""
    if not window <= least <= budget:
        raise PlanError(f"least is {least} tokens; expected at least the window, {window}, and at most {budget}")
    shares = pyramid(course, budget, least)
    return cut_outlook(course, lambda k, block: shares[k][block], _observed(window, kernel, grid))


def pyramid(course: Course, budget: int, least: int) -> dict[int, tuple[int, ...]]:
    """What the blocks keep after every scale: equally fewer from block to block, rounded towards the mean, which is the
    budget. The first one never has more than it can hold, and the last one as much less.
    """
    steps, held, found = max(spec.block for spec in course.slots), 0, dict[int, tuple[int, ...]]()
    for k in range(course.first, len(course.schedule)):
        held += course.schedule.lengths[k]
        spread = max(0, min(budget - least, held - budget))
        found[k] = tuple(budget + int(spread * (steps - 2 * block) / max(1, steps)) for block in range(steps + 1))
        held = min(held, found[k][0])
    return found


def _uniform(course: Course, budget: int, sure: int, rule: Rule) -> Outlook:
    """The same budget for every layer. sure: tokens that the rule always keeps."""
    if budget < sure:
        raise PlanError(f"budget is {budget} tokens; expected at least {sure}, as many as are always kept")
    return cut_outlook(course, lambda k, block: budget, rule)


def _observed(window: int, kernel: int, grid: bool) -> Observed:
    if window < 1:
        raise PlanError(f"window is {window} tokens; expected at least 1")
    check_kernel(kernel)
    return Observed(window, kernel, grid)
