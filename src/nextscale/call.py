"""A call of the pipeline, understood: what was given, in any library's words, becomes a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions.base import Conditioner
from nextscale.errors import InputError, PlanError, quoted
from nextscale.habits import BAR, CALL, sized, translated
from nextscale.plan import Plan
from nextscale.ratios import Shapes
from nextscale.request import SAMPLING, Request, resolve, sampling_numbers
from nextscale.results import OutputType, checked_output_type
from nextscale.state import Callback, Keep, ScaleEvent
from nextscale.tokenizers.base import Canvas
from nextscale.values import plain, takes

GIVEN = "given"
"""The part that holds what is kept of the picture that is edited, one for all images."""
OWN = ("num_images", "seed", "generator", "output_type", "callback_on_scale_end", "plan", "parts", *SAMPLING)
"""Arguments of a call that mean the same for every model; what the others mean is the conditioner's affair."""
UNGIVEN = {"num_images": 1, "output_type": "pil"}
"""What arguments are that nobody gave, where that is not None."""
Parts = Mapping[str, Any] | None
"""What is handed over beside a plan, by the names that it has there."""


@dataclass(frozen=True)
class Call:
    """request: the images; output_type: what they are given as; callback: called after every scale; parts: what the
    plan names beside tokenizer and model; edit: what a recipe says of the picture that is edited; finished: what
    becomes of decoded images (B, 3, H, W) in [0, 1].
    """

    request: Request
    output_type: OutputType
    callback: Callback | None
    parts: Mapping[str, Any]
    edit: Mapping[str, Any] | None = None
    finished: Callable[[Tensor], Tensor] = lambda images: images

    @property
    def named(self) -> bool:
        """Whether a recipe can name all that was used."""
        named = set(self.digests) | (set() if self.edit is None else {GIVEN})
        return self.request.seeds is not None and self.parts.keys() <= named

    @property
    def digests(self) -> dict[str, str]:
        """Of the parts that have one, such as a calibration: by it a recipe names them."""
        return {name: part.digest for name, part in self.parts.items() if isinstance(getattr(part, "digest", 0), str)}

    @property
    def noted(self) -> dict[str, Any]:
        """What a recipe says of all that stood beside the plan."""
        edit = {} if self.edit is None else {"edit": dict(self.edit)}
        return edit | ({"parts": self.digests} if self.digests else {})

    @property
    def whole(self) -> bool:
        """Whether all images must be drawn at once: what a callback stops, stops whole, and what the plan keeps is
        given of all, unless all have the same picture.
        """
        keeps = any(row.keep is not None for row in self.request.plan.rows)
        return self.callback is not None or (keeps and self.edit is None)

    def parts_of(self, part: slice) -> Mapping[str, Any]:
        """The parts for some of the prompts; of a picture that is edited, once for each."""
        if self.edit is None:
            return self.parts
        same = torch.zeros(len(self.request.entries[part]), dtype=torch.int64)
        return {**self.parts, GIVEN: self.parts[GIVEN].select(same)}


def understood(
    given: Mapping[str, Any],
    elsewhere: Mapping[str, Any],
    conditioner: Conditioner,
    make_plan: Callable[..., Plan],
    shapes: Shapes,
) -> Call:
    """A call's arguments, checked.

    given: its own, None where nobody gave one; elsewhere: further ones, by names that other libraries use or that were
    left out of a signature; make_plan: the plan of sampling arguments; shapes: the pictures that the model draws.
    Raises ``InputError`` or ``PlanError`` with the argument that cannot be used.
    """
    set_by_hand = {name: value for name, value in given.items() if not _ungiven(name, value)}
    translated_too = _in_our_words(set_by_hand, elsewhere, list(dict.fromkeys((*given, *SAMPLING))), shapes)
    asked: dict[str, Any] = dict.fromkeys((*given, *SAMPLING)) | UNGIVEN | set_by_hand | translated_too
    output_type, callback, parts = (asked.get(name) for name in ("output_type", "callback_on_scale_end", "parts"))
    kind = checked_output_type(output_type)
    if callback is not None and not takes(callback, 1):
        raise InputError(
            f"callback_on_scale_end is {quoted(callback)}; expected a function of an event, as in f(event)"
        )
    if parts is not None and not isinstance(parts, Mapping):
        raise InputError(f"parts is {quoted(parts)}; expected a table of names and parts")
    request = resolve(
        conditioner,
        chosen_plan(asked["plan"], sampling_numbers({name: asked[name] for name in SAMPLING}), make_plan),
        {name: value for name, value in asked.items() if name not in OWN},
        asked["num_images"],
        asked["seed"],
        asked["generator"],
    )
    return Call(request, kind, callback, parts or {})


def sampling_arguments(given: Mapping[str, Any], shapes: Shapes) -> dict[str, Any]:
    """The sampling arguments of a plan, in any library's words. Raises ``InputError`` for others."""
    own = {name: value for name, value in given.items() if name in SAMPLING and value is not None}
    others = {name: value for name, value in given.items() if name not in SAMPLING}
    return own | _in_our_words(own, others, SAMPLING, shapes)


def _in_our_words(
    given: Mapping[str, Any], elsewhere: Mapping[str, Any], own: Sequence[str], shapes: Shapes
) -> dict[str, Any]:
    """The arguments ``elsewhere``, see :func:`nextscale.habits.translated`."""
    (height, width), scales = shapes.size(shapes.default), len(shapes.default)
    facts: dict[str, Any] = {"height": height, "width": width, "scales": scales}
    if len(shapes.lengths) == 1:
        facts |= dict.fromkeys(("num_inference_steps", "num_steps"), scales)
    return translated(given, sized(given, elsewhere), CALL, own, **facts)


def bar_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the bar, checked; what other libraries call them is translated."""
    kinds = {"disable": bool, "desc": str, "leave": bool}
    given = {name: plain(value) for name, value in translated({}, settings, BAR, list(kinds)).items()}
    for name, value in given.items():
        if not isinstance(value, kinds[name]):
            raise InputError(f"{name} is {quoted(value)}; expected a {kinds[name].__name__}")
    return given


def _ungiven(name: str, value: Any) -> bool:
    default = UNGIVEN.get(name)
    return value is None or (type(value) is type(default) and value == default)


def chosen_plan(plan: Any, sampling: Mapping[str, Any], make_plan: Callable[..., Plan]) -> Plan:
    """The plan that was given, or that of the sampling arguments; not both."""
    if plan is None:
        return make_plan(**sampling)
    checked_plan(plan)
    if sampling:
        raise PlanError(f"a plan was given together with {sorted(sampling)[0]}; change the plan, or leave it out")
    return plan


def checked_plan(given: Any) -> Plan:
    """A plan as it is. Raises ``PlanError`` for anything else."""
    if not isinstance(given, Plan):
        raise PlanError(f"plan is {quoted(given)}; expected a Plan, as pipe.plan() or Plan.from_dict(...) makes it")
    return given


class Watch:
    """Calls a callback, and remembers whether it changed what a recipe would repeat."""

    def __init__(self, callback: Callback) -> None:
        self.callback, self.done = callback, ""

    def __call__(self, event: ScaleEvent) -> Canvas | Keep | bool | None:
        answer = plain(self.callback(event))
        if answer is False:
            self.done = "a callback stopped it"
        elif isinstance(answer, Canvas | Keep):
            self.done = "a callback changed it"
        return answer
