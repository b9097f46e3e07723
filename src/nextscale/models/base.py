"""What every next-scale transformer can say, the condition it is given, and the one loop over blocks.

Shape letters: ``B`` images, ``R`` rows = branches x images (branch-major: all images of branch 0 first), ``l`` tokens
of one scale, ``L`` of all, ``P`` of a prefix, ``C`` width, ``d`` draws of a token, ``V`` choices, ``c`` code width.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import groupby
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nextscale.conditions.base import Branches, Features
from nextscale.guidance import mix as mix_branches
from nextscale.layers.slots import SlotSpec, SlotWrapper
from nextscale.memory.base import Course, Memory, Outlook
from nextscale.memory.segments import TeacherForcing
from nextscale.ratios import Shapes, apart
from nextscale.scales import ScaleSchedule, Size, spaced

Mix = tuple[int, tuple[float, ...]]
"""(block, weights): after that block the branches are mixed, and every branch goes on with the mixture."""
Blocks = Sequence[int] | None
"""Blocks that run, in ascending order; None: all."""


@dataclass(frozen=True)
class Prefix:
    """What stands in front of the first scale.

    vectors: (R, P, C); grid, level: where they stand, for models with positions of two dimensions; with_first: they
    and the first scale see one another, instead of being a group of their own that all scales see.
    """

    vectors: Tensor
    grid: Size
    level: int
    with_first: bool = False


@dataclass(frozen=True)
class Condition:
    """A model's view of what is to be drawn, for R rows.

    start: (R, l_0, C) input of the first scale; vector: (R, C) for the head's AdaLN; modulation: one (R, 1, n, C) per
    block, computed once per generation since it is the same at every scale; context: keys and values of
    cross-attention for each block, made once per image, batch axis first, and their mask (R, T); prefix: what stands
    in front of the first scale; slots: for every slot what an adapter puts around it, or None (empty: nowhere).
    """

    start: Tensor
    vector: Tensor | None = None
    modulation: tuple[Tensor, ...] = ()
    context: tuple[tuple[Tensor, ...], ...] = ()
    mask: Tensor | None = None
    prefix: Prefix | None = None
    slots: tuple[SlotWrapper | None, ...] = ()

    @property
    def rows(self) -> int:
        return self.start.shape[0]

    def select(self, rows: Tensor) -> Condition:
        """Keep, repeat or reorder rows: (R',) int64."""

        def pick(x: Tensor) -> Tensor:
            return x.index_select(0, rows)

        return replace(
            self,
            start=pick(self.start),
            vector=None if self.vector is None else pick(self.vector),
            modulation=tuple(pick(m) for m in self.modulation),
            context=tuple(tuple(pick(t) for t in pair) for pair in self.context),
            mask=None if self.mask is None else pick(self.mask),
            prefix=None if self.prefix is None else replace(self.prefix, vectors=pick(self.prefix.vectors)),
            slots=tuple(None if wrapper is None else wrapper.select(rows) for wrapper in self.slots),
        )


@dataclass(frozen=True)
class Again:
    """What a later pass over a scale is told.

    tokens: (B, h, w) or (B, h, w, d), as drawn so far; inputs: (B, c, h, w), their ``Tokenizer.own_input``;
    masked: (B, l) bool, True where a token is still to be drawn; number: of the pass, from 1 on.
    """

    tokens: Tensor
    inputs: Tensor
    masked: Tensor
    number: int


class Slots(Protocol):
    """The part of a memory that a forward pass uses (a training mask offers just this)."""

    schedule: ScaleSchedule

    def slot(self, index: int) -> Any: ...


def drop_paths(condition: Condition, chance: Tensor, rates: Sequence[float]) -> Condition:
    """Stochastic depth for training (arXiv 1603.09382): a residual branch is dropped by closing its gate, which stands
    first in the modulation of its block.

    chance: uniform numbers (R, blocks, gates). Where one is below the rate of its block, the gate becomes 0; the others
    open by 1 / (1 - rate), so that the mean stays.
    """
    modulation, count = [], chance.shape[2]
    for i, (whole, rate) in enumerate(zip(condition.modulation, rates, strict=True)):
        factor = (chance[:, i] >= rate).to(whole.dtype) / (1 - rate)
        gates, others = whole[:, :, :count], whole[:, :, count:]
        modulation.append(torch.cat([gates * factor[:, None, :, None], others], 2))
    return replace(condition, modulation=tuple(modulation))


class NextScaleModel(nn.Module, ABC):
    """A transformer that predicts one token map at a time. It computes; the loop in ``generate.py`` generates."""

    schedule: ScaleSchedule
    """What it was trained on, and draws where nothing else is asked for."""
    blocks: nn.ModuleList
    slots: tuple[SlotSpec, ...]
    """What every mixer reads, block by block; a block may have several."""
    memory: str
    """Policy of the memory that is exact for this model, see ``nextscale.memory.make``."""
    guidance: str
    """Name of the model's published guidance schedule, see ``nextscale.guidance``."""
    draws: int = 1
    choices: int
    code_dim: int
    """Of the tokens it predicts, and channels of its inputs; see ``nextscale.tokenizers.base.Tokenizer``."""
    sources: tuple[str, ...]
    """Names of the sources that its conditional branch sees."""
    away_from: tuple[str, ...] = ()
    """Names of those that its other branch sees, which guidance leads away from, such as a negative text."""
    prefix_with_first: bool = False
    """Whether a prefix stands in the first scale's group, see ``Prefix``."""
    free: tuple[str, ...] = ()
    """Settings that shape no weights, so that a run which starts from a checkpoint may have others."""
    has_passes: bool = False
    """Whether it can go over a scale again, see ``Again``."""
    hides_masked: bool = False
    """Whether masked tokens are left out of what a later pass is told, see ``Tokenizer.own_input``."""
    levels: int | None = None
    """Most scales that it can draw; None: any number."""
    full_scales: int = 0
    subnets: tuple[tuple[int, ...], ...] = ()
    """Lists of blocks, with any of which it has learnt to draw the scales after the first ``full_scales``."""

    @property
    def schedules(self) -> tuple[ScaleSchedule, ...]:
        """The largest schedule of every aspect ratio that it was trained on; ``schedule`` begins one of them."""
        return (self.schedule,)

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many of their first scales make a picture of a size that it was trained on."""
        return (len(self.schedule),)

    def shapes(self, stride: int) -> Shapes:
        """The pictures that it draws. stride: pixels per token."""
        return Shapes(self.schedule, self.schedules, self.lengths, stride)

    def schedule_of(self, grid: Size, steps: int | None = None) -> ScaleSchedule:
        """The scales of a picture of ``grid`` tokens: ``steps`` of them, from 1 to the longer side and to ``levels``,
        or as many as suit it.

        One that was trained, where one ends so; else they are spaced (see :func:`nextscale.scales.spaced`) as those of
        the trained schedule of the nearest ratio, with as many scales where there is one, else of the nearest size. The
        first of these is not enlarged, since drawing always begins with it. Raises ``PlanError`` where the model draws
        by one schedule alone.
        """
        trained = [self.schedule, *(largest.prefix(n) for largest in self.schedules for n in self.lengths)]
        for one in trained:
            if one.grid == grid and steps in (None, len(one)):
                return one
        largest = self.shapes(1).nearest(*grid)
        like = min(
            (largest.prefix(n) for n in self.lengths),
            key=lambda one: (len(one) != steps, apart(math.prod(one.grid), math.prod(grid))),
        )
        sides = [float(max(size)) for size in like]
        first = sides[0] / max(1.0, max(grid) / sides[-1])
        return spaced([first, *sides[1:]] if len(sides) > 1 else sides, steps or min(len(like), max(grid)), grid)

    @property
    @abstractmethod
    def reads(self) -> Mapping[str, int]:
        """Kinds of the sources it reads, and their size: the number of labels, or the width of text states."""

    @abstractmethod
    def check(self, schedule: ScaleSchedule) -> None:
        """Raises ``PlanError`` where this model cannot draw by ``schedule``."""

    def begun_from(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights that it begins with where training starts from these, which differ in what is ``free`` alone."""
        return state

    def is_greedy(self, size: Size) -> bool:
        """Whether a plan takes the likeliest tokens of a map of this size, whatever else is asked for."""
        return False

    def prefix_tokens(self, schedule: ScaleSchedule) -> int:
        """Tokens of the prefix that :meth:`condition` puts in front of the first scale."""
        return 0

    @abstractmethod
    def blank(self, images: int, device: torch.device) -> Features:
        """Features of every source it may be asked for, which mean nothing: for what only costs are asked of."""

    @abstractmethod
    def condition(
        self, features: Features, branches: Branches | None = None, schedule: ScaleSchedule | None = None
    ) -> Condition:
        """Features of B images to a condition of branches x B rows.

        branches: by default one that sees all sources; where a branch does not see a source, or an image has nothing
        of it, the model's own null takes its place.
        """

    @abstractmethod
    def embed(
        self, inputs: Tensor | None, k: int, condition: Condition, schedule: ScaleSchedule, again: Again | None = None
    ) -> Tensor:
        """Input of scale k: tokens (R, l, C) with their positions. Arguments as of :meth:`step`."""

    @abstractmethod
    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        """Hidden state (R', l, C) of the condition's first R' rows to logits (R', l, V) or (R', l, d, V), float32.
        number: of the pass.
        """

    @abstractmethod
    def condition_flops(self, rows: int) -> int:
        """FLOPs of :meth:`condition` for ``rows`` rows."""

    @abstractmethod
    def embed_flops(self, tokens: int, k: int, images: int) -> int:
        """FLOPs of :meth:`embed` for ``tokens`` tokens of scale k."""

    @abstractmethod
    def head_flops(self, tokens: int, rows: int) -> int:
        """FLOPs of :meth:`head` for ``tokens`` tokens in each of ``rows`` rows."""

    def forward(
        self,
        inputs: Sequence[Tensor],
        condition: Condition,
        schedule: ScaleSchedule | None = None,
        blocks: Sequence[Blocks] | None = None,
        recompute: bool = False,
        again: Sequence[Again | None] | None = None,
    ) -> Tensor:
        """Teacher-forced logits (R, L, ...) float32 of all scales from the inputs (R, c, h_k, w_k) of the scales after
        the first, which may stop before the schedule does.

        blocks: which run at each scale, a subset of those of the scale before (None: all everywhere); recompute: blocks
        keep their input alone until the gradients are computed; again: of a later pass over all scales, what each is
        told (None: a scale that stands there without being drawn again).
        """
        schedule, number = schedule or self.schedule, 0 if again is None else 1
        told = again or [None] * (len(inputs) + 1)
        x = torch.cat([self.embed(x_k, k, condition, schedule, told[k]) for k, x_k in enumerate([None, *inputs])], 1)
        ahead, with_first = 0, False
        if condition.prefix is not None:
            ahead, with_first = condition.prefix.vectors.shape[1], condition.prefix.with_first
            x = torch.cat([condition.prefix.vectors, x], 1)
        for scales, together in self._depths(blocks, len(inputs) + 1):
            memory = TeacherForcing(self.slots, schedule, x.device, ahead, with_first, scales)
            tokens = ahead + schedule.offsets[scales]
            x, rest = x[:, :tokens], x[:, tokens:]
            x = self.run(x, None, condition, memory, together, recompute=recompute, number=number)
            x = torch.cat([x, rest], 1) if rest.shape[1] else x
        return self.head(x[:, ahead:], condition, number)

    def prefill(self, condition: Condition, memory: Memory, blocks: Blocks = None) -> None:
        """Run over the condition's prefix, where it has one that stands in a group of its own. blocks: those that run
        at the first scale.
        """
        if condition.prefix is not None and not condition.prefix.with_first:
            memory.begin_prefix()
            self.run(condition.prefix.vectors, -1, condition, memory, blocks)
            memory.end_prefix()

    def step(
        self,
        inputs: Tensor | None,
        k: int,
        condition: Condition,
        memory: Slots,
        blocks: Blocks = None,
        again: Again | None = None,
        mix: Mix | None = None,
    ) -> Tensor:
        """Hidden state (R, l, C) of scale k of the memory's schedule.

        inputs: (B, c, h_k, w_k), used for every branch, or None at the first scale; again: set in a later pass; mix:
        after its block the branches are mixed, so that the rows of all branches end alike.
        """
        number = 0 if again is None else again.number
        if k == 0 and condition.prefix is not None and condition.prefix.with_first:
            first = self.embed(inputs, k, condition, memory.schedule, again)
            x = torch.cat([condition.prefix.vectors, first], 1)
            return self.run(x, k, condition, memory, blocks, mix, number=number)[:, -first.shape[1] :]
        # No name for the input here: it would be held until the last block has run.
        return self.run(
            self.embed(inputs, k, condition, memory.schedule, again), k, condition, memory, blocks, mix, number=number
        )

    def run(
        self,
        x: Tensor,
        k: int | None,
        condition: Condition,
        memory: Slots,
        blocks: Blocks = None,
        mix: Mix | None = None,
        recompute: bool = False,
        number: int = 0,
    ) -> Tensor:
        """The one loop over blocks: x (R, l, C) to (R, l, C). k: the scale at hand, None: the prefix and all of them,
        -1: the prefix; number: of the pass.

        recompute: a block keeps nothing but its arguments, and what its gradient needs is computed once more
        (activation checkpointing, arXiv 1604.06174).
        """
        block: Callable[..., Tensor] = self.run_block
        if recompute:
            block = partial(checkpoint, self.run_block, use_reentrant=False, preserve_rng_state=False)
        for i in range(len(self.blocks)) if blocks is None else blocks:
            slots = [self._slot(j, k, condition, memory) for j in self.slots_of[i]]
            x = block(i, x, k, condition, slots, memory.schedule, number)
            if mix is not None and mix[0] == i:
                x = mix_branches(x, mix[1]).repeat(len(mix[1]), 1, 1)
        return x

    def run_block(
        self,
        i: int,
        x: Tensor,
        k: int | None,
        condition: Condition,
        slots: Sequence[Any],
        schedule: ScaleSchedule,
        number: int = 0,
    ) -> Tensor:
        """Block i, given what it needs of the condition; k and schedule (as :meth:`run` has them) say where the tokens
        stand, for models whose attention has positions; number: of the pass, for those with other blocks in later ones.
        """
        return self.blocks[i](x, condition.modulation[i], *slots)

    @cached_property
    def slots_of(self) -> tuple[tuple[int, ...], ...]:
        """The slots of every block."""
        return tuple(tuple(j for j, spec in enumerate(self.slots) if spec.block == i) for i in range(len(self.blocks)))

    def step_flops(self, outlook: Outlook, k: int, images: int, rows: int) -> int:
        """FLOPs of :meth:`step` with the memory of this outlook, for the blocks that it says run."""
        course, attended = outlook.course, outlook.attended[k]
        blocks = (
            self.blocks[i].flops(course.tokens(k), *(attended[j] for j in self.slots_of[i]))  # type: ignore[operator]
            for i in course.blocks[k]
        )
        return self.embed_flops(course.schedule.lengths[k], k, images) + rows * (sum(blocks) + outlook.drop_flops(k))

    def prefill_flops(self, course: Course, rows: int) -> int:
        """FLOPs of :meth:`prefill`."""
        tokens = course.prefix
        if not tokens or course.with_first:
            return 0
        blocks = (
            self.blocks[i].flops(tokens, *(tokens for _ in self.slots_of[i]))  # type: ignore[operator]
            for i in course.blocks[course.first]
        )
        return rows * sum(blocks)

    def _slot(self, j: int, k: int | None, condition: Condition, memory: Slots) -> Any:
        slot, wrapper = memory.slot(j), condition.slots[j] if condition.slots else None
        return slot if wrapper is None else wrapper.wrap(slot, k, memory.schedule)

    def _depths(self, blocks: Sequence[Blocks] | None, scales: int) -> Iterator[tuple[int, Blocks]]:
        """Blocks that the same scales run, one after the other: (how many scales, blocks)."""
        if blocks is None:
            yield scales, None
            return
        runs = [range(len(self.blocks)) if one is None else one for one in blocks[:scales]]
        for count, together in groupby(runs[0], lambda i: sum(i in run for run in runs)):
            yield count, list(together)
