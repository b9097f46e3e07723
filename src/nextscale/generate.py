"""The generation loop: one, for every model, memory and method. It carries a plan out, row by row.

The loop knows only contracts: a tokenizer accumulates and decodes, a model steps, a memory remembers, a noise source
draws. Everything that varies from scale to scale is read from the plan.

Shape letters: ``B`` images, ``R`` rows = branches x images, ``l`` tokens of one scale, ``V`` codes, ``c`` code width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nextscale.errors import InputError, PlanError, quoted
from nextscale.guidance import mix
from nextscale.memory.base import Memory
from nextscale.memory.make import check_pairing, make_memory
from nextscale.models.base import Condition, NextScaleModel
from nextscale.plan import Plan, Row
from nextscale.sampling import Noise, filter_logits, smooth_weights
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Canvas, Tokenizer
from nextscale.values import listed


@dataclass(frozen=True)
class GivenTokens:
    """Tokens that are kept instead of drawn, e.g. those of an image that is edited.

    tokens: one (B, h, w) int64 map per scale; masks: one (h, w) or (B, h, w) bool map per scale, True where kept.
    """

    tokens: list[Tensor]
    masks: list[Tensor]


@dataclass(frozen=True)
class ScaleEvent:
    """What the loop yields after a scale. Tensors are the loop's own: read them before going on, and change none.

    canvas: after this scale; tokens: (B, h, w), what was accumulated; drawn: the draw before given tokens were put
    back; branch_logits: (R, l, V); logits: (B, l, V) after guidance; weights: (B, l, V) of smooth sampling, else
    None.
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


@dataclass
class State:
    """Everything a generation carries from scale to scale."""

    canvas: Canvas
    condition: Condition
    memory: Memory
    noise: Noise
    tokens: list[Tensor]

    def select(self, rows: Tensor, branches: int) -> None:
        """Keep, repeat or reorder images, (B',) int64: the only place where a population changes. Call between
        scales.
        """
        images = self.canvas.latent.shape[0]
        stacked = torch.cat([rows + b * images for b in range(branches)])
        self.canvas = self.canvas.select(rows)
        self.condition = self.condition.select(stacked)
        self.memory.select(stacked)
        self.noise = self.noise.select(rows)
        self.tokens = [t.index_select(0, rows) for t in self.tokens]


Callback = Callable[[ScaleEvent], "Canvas | bool | None"]
"""``callback_on_scale_end``: may return another canvas to go on with, or ``False`` to stop."""


def generate(
    plan: Plan,
    parts: Mapping[str, Any],
    features: Any,
    images: int,
    noise: Noise,
    callback: Callback | None = None,
) -> Iterator[ScaleEvent]:
    """Carry ``plan`` out for ``images`` images and yield after every scale.

    parts: the tokenizer as "tokenizer", and whatever the plan's columns name; features: what the models'
    ``condition`` takes. Raises ``PlanError`` when it is called, before anything runs, if a part is missing or cannot
    do what a row asks of it.
    """
    check_parts(plan, parts, images)
    return _carry_out(plan, parts, features, images, noise, callback)


@torch.inference_mode()
def _carry_out(
    plan: Plan, parts: Mapping[str, Any], features: Any, images: int, noise: Noise, callback: Callback | None
) -> Iterator[ScaleEvent]:
    tokenizer: Tokenizer = parts["tokenizer"]
    schedule, state, inputs = plan.schedule, None, list[Tensor | None]()
    for k, row in enumerate(plan.rows):
        model: NextScaleModel = parts[row.model]
        if state is None:
            canvas = tokenizer.start(images, schedule)
            state = State(canvas, *_begin(plan, row, model, features, images), noise, [])
        elif row.model != plan.rows[k - 1].model:
            state.memory.free()
            state.condition, state.memory = _begin(plan, row, model, features, images)
            _catch_up(row, model, state, inputs)
        inputs.append(None if k == 0 else tokenizer.next_input(state.canvas, k))
        state.memory.begin_scale(k)
        hidden = model.step(inputs[k], k, state.condition, state.memory, row.blocks)
        branch_logits = model.head(hidden, state.condition)
        state.memory.end_scale(k)
        event = _draw(k, row, tokenizer, state, branch_logits, parts)
        answer = callback(event) if callback is not None else None
        if isinstance(answer, Canvas):
            state.canvas = _like(state.canvas, answer)
            event = replace(event, canvas=state.canvas)
        elif answer is not None and not isinstance(answer, bool):
            raise InputError(
                f"callback_on_scale_end returned a {type(answer).__name__}; expected a Canvas to go on with, False to "
                "stop, or None"
            )
        if callback is not None and not state.canvas.latent.isfinite().all():
            raise InputError(
                f"the canvas of scale {k} holds NaN, or is not finite, after callback_on_scale_end; expected numbers"
            )
        yield event
        if answer is False:
            return


def _like(canvas: Canvas, other: Canvas) -> Canvas:
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


def _begin(plan: Plan, row: Row, model: NextScaleModel, features: Any, images: int) -> tuple[Condition, Memory]:
    """A model's condition and its empty memory."""
    condition = model.condition(features, plan.branches)
    dtype, device = condition.start.dtype, condition.start.device
    return condition, make_memory(row.memory, model.slots, plan.schedule, plan.branches * images, dtype, device)


def _catch_up(row: Row, model: NextScaleModel, state: State, inputs: list[Tensor | None]) -> None:
    """Let a model that takes over see every scale so far; nothing is drawn, so no head runs."""
    for j, inputs_j in enumerate(inputs):
        state.memory.begin_scale(j)
        model.step(inputs_j, j, state.condition, state.memory, row.blocks)
        state.memory.end_scale(j)


def _draw(
    k: int, row: Row, tokenizer: Tokenizer, state: State, branch_logits: Tensor, parts: Mapping[str, Any]
) -> ScaleEvent:
    """Mix the branches, draw this scale's tokens, put given ones back, and accumulate."""
    logits = mix(branch_logits, row.guidance)
    filtered = filter_logits(logits, row.temperature, row.top_k, row.top_p, row.order)
    drawn = state.noise.pick(filtered.softmax(-1), k).unflatten(1, row.size)
    weights, tokens = None, drawn
    if row.smooth is None:
        codes = tokenizer.codes(drawn)
    else:
        weights = smooth_weights(filtered, state.noise.gumbel(filtered, k), *row.smooth)
        codes = tokenizer.codes(weights.unflatten(1, row.size))
    if row.keep is not None:
        given: GivenTokens = parts[row.keep]
        mask = given.masks[k].to(drawn.device).expand_as(drawn)
        tokens = torch.where(mask, given.tokens[k].to(drawn.device), drawn)
        codes = torch.where(mask[:, None], tokenizer.codes(tokens), codes)
    state.canvas = tokenizer.accumulate(state.canvas, codes, k)
    state.tokens.append(tokens)
    return ScaleEvent(k, row, state.canvas, tokens, drawn, branch_logits, logits, weights, state.memory)


def check_parts(plan: Plan, parts: Mapping[str, Any], images: int) -> None:
    """Raises ``PlanError`` or ``InputError`` where a plan asks for what the parts cannot give."""
    if images < 1:
        raise InputError(f"{quoted(images)} images were asked for; the number of images must be at least 1")
    schedule = plan.schedule
    kept = [row.keep for row in plan.rows if row.keep is not None]
    for name in ["tokenizer", *(row.model for row in plan.rows), *kept]:
        if name not in parts:
            raise PlanError(f"the plan uses a part named {name!r}, but the parts are {', '.join(sorted(parts))}")
    for row in plan.rows:
        model: NextScaleModel = parts[row.model]
        if not hasattr(model, "step"):
            raise PlanError(f"the plan draws with the part {row.model!r}; expected a model, not {type(model).__name__}")
        model.check(schedule)
        check_pairing(row.memory, model.slots)
        if row.blocks is not None and row.blocks[-1] >= len(model.blocks):
            raise PlanError(
                f"the plan runs block {row.blocks[-1]}, but {row.model!r} has blocks 0 to {len(model.blocks) - 1}"
            )
    tokenizer = parts["tokenizer"]
    if not isinstance(tokenizer, Tokenizer):
        raise PlanError(f"the part 'tokenizer' is {quoted(tokenizer)}; expected a tokenizer")
    plan.check_top_k(tokenizer.choices)
    for k, row in enumerate(plan.rows):
        if row.keep is not None:
            if not isinstance(parts[row.keep], GivenTokens):
                raise PlanError(f"the plan keeps tokens of the part {row.keep!r}, which holds none")
            _check_given(k, row, parts[row.keep], images, tokenizer.choices)


def _check_given(k: int, row: Row, given: GivenTokens, images: int, codes: int) -> None:
    tokens, mask = (listed(maps) or [] for maps in (given.tokens, given.masks))
    if len(tokens) <= k or len(mask) <= k:
        raise PlanError(f"row {k} keeps given tokens, but only {len(tokens)} maps of them were given")
    for what, found, kind in (("tokens", tokens[k], torch.int64), ("mask", mask[k], torch.bool)):
        if not isinstance(found, Tensor) or found.dtype != kind:
            raise PlanError(f"row {k} is given the {what} {quoted(found)}; expected a tensor of {kind}")
    expected, found = (images, *row.size), tuple(given.tokens[k].shape)
    if found != expected:
        raise PlanError(f"the given tokens of row {k} have the shape {found}; expected {expected}")
    low, high = (int(one) for one in given.tokens[k].aminmax())
    if low < 0 or high >= codes:
        raise PlanError(f"the given tokens of row {k} go from {low} to {high}; expected 0 to {codes - 1}")
