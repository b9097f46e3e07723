"""Whether the parts of a generation can do what its plan asks of them; asked before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nextscale.conditions.base import Features
from nextscale.errors import InputError, PlanError, quoted
from nextscale.given import GivenCanvases, GivenTokens
from nextscale.memory.make import look_ahead
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan
from nextscale.row import Row
from nextscale.tokenizers.base import Tokenizer
from nextscale.values import takes


def check_parts(plan: Plan, parts: Mapping[str, Any], features: Features) -> None:
    """Raises ``PlanError`` or ``InputError`` where a plan asks for what the parts or the features cannot give."""
    if features.images < 1:
        raise InputError(f"{quoted(features.images)} images were asked for; the number of images must be at least 1")
    _check_names([name for row in plan.rows for name in (row.keep, row.cull) if name is not None], parts)
    check_networks(plan, parts)
    for k, row in enumerate(plan.rows):
        _check_sources(plan, k, parts[row.model], features)
        if row.cull is not None and not takes(parts[row.cull], 3):
            raise PlanError(f"the plan culls by the part {row.cull!r}; expected a function (event, n, noise) -> rows")
        if row.keep is not None:
            _check_given(k, row, parts[row.keep], features.images, parts["tokenizer"])


def check_networks(plan: Plan, parts: Mapping[str, Any]) -> None:
    """The same of tokenizer, models and calibrations alone: of what a plan is priced by."""
    calibrations = [memory.calibration for memory in plan.memories.values() if memory.calibration is not None]
    _check_names(["tokenizer", *(row.model for row in plan.rows), *calibrations], parts)
    tokenizer = parts["tokenizer"]
    if not isinstance(tokenizer, Tokenizer):
        raise PlanError(f"the part 'tokenizer' is {quoted(tokenizer)}; expected a tokenizer")
    plan.check_choices(tokenizer.draws, tokenizer.choices)
    for k, row in enumerate(plan.rows):
        model = parts[row.model]
        _check_model(plan, k, model, tokenizer)
        if k == 0 or row.model != plan.rows[k - 1].model:
            look_ahead(plan.memories[row.model], plan.course(k, model), parts)


def _check_names(names: Iterable[str], parts: Mapping[str, Any]) -> None:
    for name in names:
        if name not in parts:
            raise PlanError(f"the plan uses a part named {name!r}, but the parts are {', '.join(sorted(parts))}")


def _check_model(plan: Plan, k: int, model: NextScaleModel, tokenizer: Tokenizer) -> None:
    row = plan.rows[k]
    if not hasattr(model, "step"):
        raise PlanError(f"the plan draws with the part {row.model!r}; expected a model, not {type(model).__name__}")
    model.check(plan.schedule)
    for what in ("draws", "choices", "code_dim"):
        ours, theirs = getattr(tokenizer, what), getattr(model, what)
        if ours != theirs:
            raise PlanError(f"the tokenizer has {what} {ours}, but {row.model!r} was made for {theirs}")
    for what, block in (("runs block", max(row.blocks or (0,))), ("mixes after block", row.guidance_block or 0)):
        if block >= len(model.blocks):
            raise PlanError(f"the plan {what} {block}, but {row.model!r} has blocks 0 to {len(model.blocks) - 1}")
    if row.passes is not None and len(row.passes) > 1 and not model.has_passes:
        raise PlanError(f"row {k} has {len(row.passes)} passes, but {row.model!r} draws a scale in one")


def _check_sources(plan: Plan, k: int, model: NextScaleModel, features: Features) -> None:
    for name in dict.fromkeys(name for branch in plan.sees(k) for name in branch):
        if name not in features.sources:
            known = ", ".join(features.sources) or "none"
            raise PlanError(f"the plan has a branch that sees {name!r}, but the sources of this call are: {known}")
        if features.sources[name].kind not in model.reads:
            raise PlanError(
                f"the source {name!r} is of the kind {features.sources[name].kind!r}, but {plan.rows[k].model!r} reads "
                f"{', '.join(model.reads)}"
            )


def _check_given(k: int, row: Row, given: Any, images: int, tokenizer: Tokenizer) -> None:
    if not isinstance(given, GivenTokens | GivenCanvases):
        raise PlanError(f"the plan keeps tokens of the part {row.keep!r}, which holds none")
    given.check(k, row, images, tokenizer)
