"""Everything that an image has while it is drawn, and the event that the loop yields after a scale.

The state has one ``select``: a population shrinks, grows or is reordered there and nowhere else.
Shape letters as in ``generate.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions.base import Branches, Entry, Features
from nextscale.errors import InputError, quoted
from nextscale.given import Given
from nextscale.memory.base import Memory
from nextscale.memory.make import look_ahead, make_memory
from nextscale.models.base import Condition, NextScaleModel
from nextscale.plan import Plan
from nextscale.row import Row
from nextscale.sampling import Noise
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Canvas
from nextscale.values import is_whole, listed, plain


@dataclass(frozen=True)
class Lineage:
    """Who the images are. ids: kept while an image lives, new for a further copy; parents: the id that an image was
    copied from, None for the first ones; prompts: the number of each image's prompt; entries: what it asked for.
    """

    ids: tuple[int, ...]
    parents: tuple[int | None, ...]
    prompts: tuple[int, ...]
    entries: tuple[Entry, ...]
    given_out: int

    @classmethod
    def of(cls, prompts: int, entries: Sequence[Entry]) -> Lineage:
        """One image per prompt."""
        every = tuple(range(prompts))
        return cls(every, (None,) * prompts, every, tuple(entries) or ({},) * prompts, prompts)

    def select(self, rows: Sequence[int]) -> Lineage:
        """Keep, repeat or reorder images."""
        ids, parents, used, given_out = list[int](), list[int | None](), set[int](), self.given_out
        for row in rows:
            again = row in used
            used.add(row)
            ids.append(given_out if again else self.ids[row])
            parents.append(self.ids[row] if again else self.parents[row])
            given_out += again
        prompts, entries = tuple(self.prompts[row] for row in rows), tuple(self.entries[row] for row in rows)
        return Lineage(tuple(ids), tuple(parents), prompts, entries, given_out)


@dataclass(frozen=True)
class ScaleEvent:
    """What the loop yields after a scale. Tensors are the loop's own: read them before going on, and change none.

    canvas: after this scale; tokens: (B, h, w) or (B, h, w, d), what was accumulated; drawn: the draw before given
    tokens were put back; branch_logits: (R, l, ...), where the branches were mixed inside the model the mixture's;
    logits: (B, l, ...) after guidance, of the last pass; weights: (B, l, V) of smooth sampling, else None; lineage: who
    the images are; history: the tokens of all scales so far.
    """

    k: int
    row: Row
    canvas: Canvas
    tokens: Tensor
    drawn: Tensor
    branch_logits: Tensor
    logits: Tensor
    weights: Tensor | None
    memory: Memory
    lineage: Lineage
    history: list[Tensor]

    def select(self, rows: Tensor) -> ScaleEvent:
        """The event of some of the images, as a cull sees it: rows (B',) int64."""
        there = rows.to(self.logits.device)
        branches = len(self.branch_logits) // len(self.logits)
        return replace(
            self,
            canvas=self.canvas.select(there),
            tokens=self.tokens[there],
            drawn=self.drawn[there],
            branch_logits=self.branch_logits[stacked(there, len(self.logits), branches)],
            logits=self.logits[there],
            weights=None if self.weights is None else self.weights[there],
            lineage=self.lineage.select(rows.tolist()),
            history=[tokens[there] for tokens in self.history],
        )


@dataclass(frozen=True)
class Keep:
    """What a callback may return to go on with some of the images alone, e.g. where a client went away.

    rows: their numbers among those of the event, in the order they shall have.
    """

    rows: Any

    def checked(self, images: int) -> Tensor:
        """The rows (B',) int64. Raises ``InputError`` where there is no such image."""
        rows = [plain(row) for row in listed(self.rows) or []]
        if not rows or not all(is_whole(row) and 0 <= row < images for row in rows):
            raise InputError(
                f"callback_on_scale_end returned Keep({quoted(self.rows)}); expected numbers of images from 0 to "
                f"{images - 1}"
            )
        return torch.tensor(rows)


Callback = Callable[[ScaleEvent], "Canvas | Keep | bool | None"]
"""``callback_on_scale_end``: may return another canvas to go on with, ``Keep(rows)``, or ``False`` to stop."""


@dataclass
class State:
    """Everything a generation carries from scale to scale.

    features, given: of the images that live; inputs: of every scale so far, for a model that takes over; tokens: of
    every scale so far; memory: of the model that draws.
    """

    canvas: Canvas
    features: Features
    given: Mapping[str, Given]
    noise: Noise
    lineage: Lineage
    inputs: list[Tensor | None] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    memory: Memory = field(init=False)
    _model: NextScaleModel | None = field(init=False, default=None)
    _conditions: dict[Branches, Condition] = field(init=False, default_factory=dict)

    @property
    def images(self) -> int:
        return len(self.lineage.ids)

    def condition(self, sees: Branches) -> Condition:
        """The model's condition of the images that live; made once for everything that branches may see."""
        if sees not in self._conditions:
            assert self._model is not None
            self._conditions[sees] = self._model.condition(self.features, sees, self.canvas.schedule)
        return self._conditions[sees]

    def take_over(self, plan: Plan, k: int, parts: Mapping[str, Any]) -> None:
        """Model and memory from row k on. The memory before goes first; then, unless the plan says otherwise, the model
        runs over every scale so far. Nothing is drawn, so no head runs, and the noise goes on.
        """
        if self._model is not None:
            self.memory.free()
        name = plan.rows[k].model
        planned, model = plan.memories[name], parts[name]
        self._model, self._conditions = model, {}
        condition, course = self.condition(plan.sees(k)), plan.course(k, model)
        outlook, start = look_ahead(planned, course, parts), condition.start
        self.memory = make_memory(planned, outlook, condition.rows, start.dtype, start.device)
        model.prefill(condition, self.memory, course.blocks[course.first])
        for j in range(course.first, k):
            self.memory.begin_scale(j)
            model.step(self.inputs[j], j, self.condition(plan.sees(j)), self.memory, course.blocks[j])
            self.memory.end_scale(j)

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder images, (B',) int64: the only place where a population changes. Call after a scale
        was accumulated and before the next input.
        """
        images, there = self.images, rows.to(self.canvas.latent.device)
        self.canvas = self.canvas.select(there)
        self.features = self.features.select(there)
        self.given = {name: one.select(rows) for name, one in self.given.items()}
        self.noise = self.noise.select(rows)
        self.lineage = self.lineage.select(rows.tolist())
        self.inputs = [None if x is None else x.index_select(0, there) for x in self.inputs]
        self.tokens = [t.index_select(0, there) for t in self.tokens]
        branches = 0
        for sees, condition in self._conditions.items():
            branches = len(sees)
            self._conditions[sees] = condition.select(stacked(there, images, branches))
        if self._model is not None:
            self.memory.select(stacked(there, images, branches))


def stacked(rows: Tensor, images: int, branches: int) -> Tensor:
    """The rows of all branches, (branches x B',), for rows (B',) of ``images`` images."""
    return torch.cat([rows + b * images for b in range(branches)])


def like(canvas: Canvas, other: Canvas) -> Canvas:
    """A callback's canvas, which must stand where the loop's own does."""
    kind, expected_kind = map(_kind, (other, canvas))
    if kind != expected_kind:
        raise InputError(
            f"callback_on_scale_end returned a canvas of {kind}; expected {expected_kind}, as it was given"
        )
    found, expected = ((tuple(c.latent.shape), c.done, tuple(c.schedule)) for c in (other, canvas))
    if found != expected:
        raise InputError(
            f"callback_on_scale_end returned a canvas of shape {found[0]} after {found[1]} scales of {len(found[2])}; "
            f"expected {expected[0]} after {expected[1]} of {len(expected[2])}, as it was given"
        )
    return other


def _kind(canvas: Canvas) -> str:
    latent, schedule = canvas.latent, canvas.schedule
    if not isinstance(latent, Tensor) or not isinstance(schedule, ScaleSchedule):
        return f"{type(latent).__name__} and {type(schedule).__name__}"
    return f"{latent.dtype} on {latent.device}" + ("" if latent.layout == torch.strided else f", {latent.layout}")
