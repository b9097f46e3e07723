"""What a memory policy has to know of a model, measured while the model draws.

A calibration watches queries, keys and values through slots around the model's slots; the model draws as it always
does. Sums are kept, and nothing else, so it costs no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from nextscale.conditions.base import Branches, Features
from nextscale.errors import InputError, quoted
from nextscale.layers.attention import attend
from nextscale.layers.slots import AttentionSlot, PlainQueries, SlotWrapper
from nextscale.memory.hack_calibration import HeadStatistics
from nextscale.memory.hack_rules import attention_variance
from nextscale.memory.make import check_serves
from nextscale.memory.scalekv_calibration import Statistics
from nextscale.memory.scalekv_rules import attention_shares
from nextscale.models.base import Condition, NextScaleModel
from nextscale.models.weights_hash import weights_hash
from nextscale.pipeline import Pipeline
from nextscale.plan import Plan
from nextscale.scales import ScaleSchedule
from nextscale.state import ScaleEvent

SHARE = 0.1
"""Of the earlier tokens, those that get the most attention: what the authors do not tell."""
PICTURES = 10
"""As many as the paper draws; it found that the number matters little."""
_Step = Callable[[float, float], None]
"""Told pictures done and how many there are."""


def calibrate(
    pipe: Pipeline,
    shown: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    share: float = SHARE,
    step: _Step = lambda done, total: None,
    **sampling: Any,
) -> Statistics:
    """Measure, for ScaleKV, where every block's attention goes at every scale, in pictures drawn one after the other.

    shown: what each picture shows, as arguments of a call: ``{"class_labels": [3]}``, ``{"prompt": "a red heart"}``;
    seed: of the first; share: see ``Statistics``; sampling: sampling arguments of a call. Raises ``PlanError`` for a
    model without attention to earlier scales, ``InputError`` where nothing is to be drawn.
    """
    check_serves("scalekv", pipe.model.slots)
    if not 0 < share <= 1:
        raise InputError(f"share is {quoted(share)}; expected more than 0, up to 1")
    plan, watch = pipe.plan(**sampling), Watch(share, tuple(range(len(pipe.model.blocks))))
    _draw(pipe, plan, watch, shown, seed, step)
    means = watch.means(plan.schedule)
    return Statistics(
        **_known(pipe, plan, shown),
        share=float(share),
        current=tuple(tuple(current for current, _ in row) for row in means),
        history=tuple(tuple(history for _, history in row) for row in means),
    )


def calibrate_heads(
    pipe: Pipeline,
    shown: Sequence[Mapping[str, Any]],
    *,
    seed: int = 0,
    step: _Step = lambda done, total: None,
    **sampling: Any,
) -> HeadStatistics:
    """Measure, for HACK, how unlike one another the queries of the last scale look, head by head; arguments and errors
    as of :func:`calibrate`.
    """
    check_serves("hack", pipe.model.slots)
    plan = pipe.plan(**sampling)
    watch = HeadWatch(len(plan.schedule) - 1, [torch.zeros(1)] * len(pipe.model.blocks))
    _draw(pipe, plan, watch, shown, seed, step)
    means = tuple(tuple((one / len(shown)).tolist()) for one in watch.sums)
    return HeadStatistics(**_known(pipe, plan, shown), variance=means)


def _draw(
    pipe: Pipeline, plan: Plan, watch: _Watching, shown: Sequence[Mapping[str, Any]], seed: int, step: _Step
) -> None:
    """Draw the pictures under watch."""
    if not shown:
        raise InputError("0 pictures were to be drawn; expected at least 1")
    model: Any = Watched(pipe.model, watch)
    watched = Pipeline(pipe.tokenizer, model, pipe.conditioner)
    watched.set_progress_bar_config(disable=True)
    for i, asked in enumerate(shown):

        def told(event: ScaleEvent, done: int = i) -> None:
            step(done + (event.k + 1) / len(plan.rows), len(shown))

        watched(**asked, seed=seed + i, plan=plan, output_type="latent", callback_on_scale_end=told)


def _known(pipe: Pipeline, plan: Plan, shown: Sequence[Any]) -> dict[str, Any]:
    """What every calibration says."""
    weights = weights_hash(pipe.model) or ""
    return {"model": pipe.name, "weights": weights, "sizes": plan.schedule.sizes, "pictures": len(shown)}


MEASURES: Mapping[str, Callable[..., Statistics | HeadStatistics]] = {"scalekv": calibrate, "hack": calibrate_heads}
"""By the method that is measured for."""


def spread_labels(pipe: Pipeline, pictures: int) -> list[dict[str, Any]]:
    """What a class model is calibrated by where nobody says: classes from all over its list."""
    names = pipe.vocabulary.names
    return [{"class_labels": [names[i * len(names) // pictures]]} for i in range(pictures)]


class _Watching(Protocol):
    """Adds up what it is shown of the attention of a slot at one scale."""

    def add(self, k: int, block: int, q: Tensor, keys: Tensor, own: int) -> None:
        """q: (R, H, l, D) with its scale; keys: (R, H, N, D), the last ``own`` of the map at hand."""
        ...


@dataclass
class Watch:
    """For ScaleKV: sums by scale and block: pictures' mean shares, and how many were added."""

    share: float
    blocks: tuple[int, ...]
    _sums: dict[tuple[int, int], tuple[float, float, int]] = field(default_factory=dict)

    def add(self, k: int, block: int, q: Tensor, keys: Tensor, own: int) -> None:
        current, history = attention_shares(q, keys, own, self.share)
        before = self._sums.get((k, block), (0.0, 0.0, 0))
        self._sums[k, block] = (before[0] + current, before[1] + history, before[2] + 1)

    def means(self, schedule: ScaleSchedule) -> list[list[tuple[float, float]]]:
        """Of every scale after the first, of every block."""
        sums = [[self._sums[k, block] for block in self.blocks] for k in range(1, len(schedule))]
        return [[(current / n, history / n) for current, history, n in row] for row in sums]


@dataclass
class HeadWatch:
    """For HACK: of every block the variances of its heads (H,) at the scale ``last``, added up over the pictures."""

    last: int
    sums: list[Tensor]

    def add(self, k: int, block: int, q: Tensor, keys: Tensor, own: int) -> None:
        if k == self.last:
            self.sums[block] = self.sums[block] + attention_variance(q, keys).cpu()


class Watched:
    """A model whose slots are watched; in all else it is the model."""

    def __init__(self, model: NextScaleModel, watch: _Watching) -> None:
        self._model, self._watch = model, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def condition(
        self, features: Features, branches: Branches | None = None, schedule: ScaleSchedule | None = None
    ) -> Condition:
        """The model's, with a slot around every slot that sees earlier scales, inside those of an adapter."""
        found = self._model.condition(features, branches, schedule)
        prefix = 0 if found.prefix is None else found.prefix.vectors.shape[1]
        outer = found.slots or (None,) * len(self._model.slots)
        around = tuple(
            _Around(self._watch, spec.block, features.images, prefix, wrapper) if spec.reads == "past" else wrapper
            for spec, wrapper in zip(self._model.slots, outer, strict=True)
        )
        return replace(found, slots=around)


@dataclass(frozen=True)
class _Around:
    """images: rows of the first branch, which alone is watched; prefix: tokens that are no scale's; outer: what else
    stands around the slot.
    """

    watch: _Watching
    block: int
    images: int
    prefix: int
    outer: SlotWrapper | None

    def wrap(self, slot: Any, k: int | None, schedule: ScaleSchedule) -> Any:
        inner = _Slot(slot, self, k, schedule.lengths[k]) if k is not None and k > 0 else slot
        return inner if self.outer is None else self.outer.wrap(inner, k, schedule)

    def select(self, rows: Tensor) -> SlotWrapper:
        return replace(self, outer=None if self.outer is None else self.outer.select(rows))


@dataclass(frozen=True)
class _Slot:
    inner: AttentionSlot
    around: _Around
    k: int
    own: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None) -> Tensor:
        return attend(q, *self.see(q, k, v, plain))

    def see(
        self, q: Tensor, k: Tensor, v: Tensor, plain: PlainQueries | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        keys, values, mask = self.inner.see(q, k, v, plain)
        rows, prefix = slice(self.around.images), self.around.prefix
        self.around.watch.add(self.k, self.around.block, q[rows], keys[rows, :, prefix:], self.own)
        return keys, values, mask
