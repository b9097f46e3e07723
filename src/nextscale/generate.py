"""The generation loop: one, for every model, memory and method. It carries a plan out, row by row.

The loop knows only contracts: a tokenizer accumulates and decodes, a model steps, a memory remembers, a noise source
draws. Everything that varies from scale to scale is read from the plan.

Shape letters: ``B`` images that live at a scale, ``R`` rows = branches x images, ``l`` tokens of one scale, ``d`` draws
of a token, ``V`` choices, ``c`` code width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions.base import Entry, Features
from nextscale.errors import InputError, PlanError, quoted
from nextscale.given import GivenCanvases, codes_of, given_parts, kept_of, put_back
from nextscale.guidance import mix
from nextscale.models.base import Again, NextScaleModel
from nextscale.parts import check_parts
from nextscale.plan import Plan
from nextscale.row import Row
from nextscale.sampling import Noise, filter_logits, smooth_weights
from nextscale.state import Callback, Keep, Lineage, ScaleEvent, State, like
from nextscale.tokenizers.base import Canvas, Tokenizer
from nextscale.values import is_whole, listed, plain


def generate(
    plan: Plan,
    parts: Mapping[str, Any],
    features: Features,
    noise: Noise,
    callback: Callback | None = None,
    entries: Sequence[Entry] = (),
) -> Iterator[ScaleEvent]:
    """Carry ``plan`` out for every prompt of ``features`` and yield after every scale.

    parts: the tokenizer as "tokenizer", and whatever the plan's columns name; noise: of one image per prompt; entries:
    what the prompts asked for, which events show. Raises ``PlanError`` when it is called, before anything runs, if a
    part is missing or cannot do what a row asks of it.
    """
    check_parts(plan, parts, features)
    return _carry_out(plan, parts, features, noise, callback, entries)


@torch.inference_mode()
def _carry_out(
    plan: Plan,
    parts: Mapping[str, Any],
    features: Features,
    noise: Noise,
    callback: Callback | None,
    entries: Sequence[Entry],
) -> Iterator[ScaleEvent]:
    tokenizer: Tokenizer = parts["tokenizer"]
    state = _start(plan, parts, features, noise, entries)
    for k, row in enumerate(plan.rows):
        if k == 0 or row.model != plan.rows[k - 1].model:
            state.take_over(plan, k, parts)
        state.inputs.append(None if k == 0 else tokenizer.next_input(state.canvas, k))
        event = _draw(plan, k, parts, state)
        answer = None
        if callback is not None:
            answer = callback(event)
            event = _answered(answer, event, state)
        if row.cull is not None:
            event = _select(event, state, _survivors(row, parts[row.cull], event, state.noise))
        yield event
        if answer is False:
            return


def _start(plan: Plan, parts: Mapping[str, Any], features: Features, noise: Noise, entries: Sequence[Entry]) -> State:
    """What a generation begins with: every prompt as often as it has candidates."""
    canvas = parts["tokenizer"].start(features.images, plan.schedule)
    given = given_parts([row.keep for row in plan.rows], parts)
    state = State(canvas, features, given, noise, Lineage.of(features.images, entries))
    if plan.candidates > 1:
        state.select(torch.arange(features.images).repeat_interleave(plan.candidates))
    return state


def _draw(plan: Plan, k: int, parts: Mapping[str, Any], state: State) -> ScaleEvent:
    """Draw the tokens of scale k, in one pass or several, put given ones back, and accumulate."""
    row, tokenizer, again, weights = plan.rows[k], parts["tokenizer"], None, None
    given, passes = None if row.keep is None else state.given[row.keep], row.passes or (row.size[0] * row.size[1],)
    state.memory.begin_scale(k, row.blocks)
    for number in range(len(passes)):
        branch_logits, logits = _logits(plan, k, parts[row.model], state, again)
        filtered = filter_logits(logits, row.temperature, row.top_k, row.top_p, row.order)
        probs = filtered.softmax(-1)
        drawn = state.noise.pick(probs, k, number).unflatten(1, row.size)
        if again is not None:
            masked = again.masked.view(drawn.shape[:3])
            drawn = torch.where(masked[..., None] if drawn.ndim == 4 else masked, drawn, again.tokens)
        tokens = put_back(k, given, drawn)
        if row.smooth is not None:
            weights = smooth_weights(filtered, state.noise.gumbel(filtered, k), *row.smooth)
        if number + 1 < len(passes):
            masked = _masked(again, tokens, probs, sum(passes[number + 1 :]), kept_of(k, given, tokens))
            hidden = masked if parts[row.model].hides_masked else None
            again = Again(tokens, tokenizer.own_input(tokens, k, plan.schedule, hidden), masked, number + 1)
    state.memory.end_scale(k)
    codes = codes_of(k, given, tokens, weights, tokenizer)
    state.canvas = tokenizer.accumulate(state.canvas, codes, k)
    if isinstance(given, GivenCanvases):
        state.canvas = given.mixed_into(state.canvas, k)
    state.tokens.append(tokens)
    about = (state.memory, state.lineage, list(state.tokens))
    return ScaleEvent(k, row, state.canvas, tokens, drawn, branch_logits, logits, weights, *about)


def _logits(plan: Plan, k: int, model: NextScaleModel, state: State, again: Again | None) -> tuple[Tensor, Tensor]:
    """The branches' logits (R, l, ...) and what they are mixed to, (B, l, ...)."""
    row, condition, images, number = plan.rows[k], state.condition(plan.sees(k)), state.images, 0
    weights = row.guidance
    if again is not None:
        weights, number = row.again_guidance or weights, again.number
        if 0 in weights and not state.memory.keeps:  # a branch that nobody reads need not run
            running = [i for i, weight in enumerate(weights) if weight]
            rows = torch.arange(condition.rows, device=condition.start.device).view(-1, images)[running]
            condition, weights = condition.select(rows.flatten()), tuple(weights[i] for i in running)
    mixed = None if row.guidance_block is None else (row.guidance_block, weights)
    hidden = model.step(state.inputs[k], k, condition, state.memory, row.blocks, again, mixed)
    if mixed is None:
        branch_logits = model.head(hidden, condition, number)
        return branch_logits, mix(branch_logits, weights)
    logits = model.head(hidden[:images], condition, number)
    return logits, logits


def _masked(again: Again | None, drawn: Tensor, probs: Tensor, left: int, kept: Tensor | None) -> Tensor:
    """What a pass leaves to be drawn, (B, l) bool: of the places that were masked the ``left`` whose tokens were the
    least probable, of equals the first. kept: places of given tokens, which are surer than all others.
    """
    sure = probs.gather(-1, drawn.flatten(1, 2)[..., None])[..., 0]
    sure = sure.prod(-1) if sure.ndim == 3 else sure
    masked = torch.ones_like(sure, dtype=torch.bool) if again is None else again.masked
    masked = masked if kept is None else masked & ~kept
    lowest = sure.masked_fill(~masked, torch.inf).argsort(stable=True, dim=1)[:, :left]
    return masked & torch.zeros_like(masked).scatter(1, lowest, True)


def _answered(answer: Any, event: ScaleEvent, state: State) -> ScaleEvent:
    """Do what a callback answered; the event as it stands then."""
    if isinstance(answer, Canvas):
        state.canvas = like(state.canvas, answer)
        event = replace(event, canvas=state.canvas)
    elif isinstance(answer, Keep):
        event = _select(event, state, answer.checked(state.images))
    elif answer is not None and not isinstance(answer, bool):
        raise InputError(
            f"callback_on_scale_end returned a {type(answer).__name__}; expected a Canvas to go on with, Keep(rows), "
            "False to stop, or None"
        )
    if not state.canvas.latent.isfinite().all():
        raise InputError(
            f"the canvas of scale {event.k} holds NaN, or is not finite, after callback_on_scale_end; expected numbers"
        )
    return event


def _survivors(row: Row, cull: Any, event: ScaleEvent, noise: Noise) -> Tensor:
    """The rows that live on, chosen for every prompt by itself."""
    prompts, chosen = event.lineage.prompts, []
    for prompt in dict.fromkeys(prompts):
        own = torch.tensor([i for i, one in enumerate(prompts) if one == prompt])
        rows = cull(event.select(own), row.population, noise.for_cull(event.k, int(own[0])))
        found = [plain(one) for one in listed(rows) or []]
        if len(found) != row.population or not all(is_whole(one) and 0 <= one < len(own) for one in found):
            raise PlanError(
                f"the part {row.cull!r} chose {quoted(rows)} at row {event.k}; expected {row.population} numbers from "
                f"0 to {len(own) - 1}"
            )
        chosen.append(own[found])
    return torch.cat(chosen)


def _select(event: ScaleEvent, state: State, rows: Tensor) -> ScaleEvent:
    """Go on with some of the images; the event shows them as the state has them."""
    state.select(rows)
    return replace(event.select(rows), canvas=state.canvas, lineage=state.lineage)
