"""A served model without its weights: what requests are understood, checked and priced by, before they wait."""

from __future__ import annotations

import inspect
import math
import warnings
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from nextscale.call import GIVEN, understood
from nextscale.checkpoints.find import model_folder
from nextscale.checkpoints.load import load_conditioner, revision
from nextscale.checkpoints.store import build_component, read_config
from nextscale.conditions.base import Entry
from nextscale.edit import Edit
from nextscale.errors import CheckpointError, InputError, PlanError, quoted
from nextscale.methods.baselines import BASELINES
from nextscale.methods.paint import paint
from nextscale.methods.refine import refined
from nextscale.methods.variant import variant
from nextscale.models.base import NextScaleModel
from nextscale.pipeline import Pipeline
from nextscale.plan import Plan
from nextscale.recipe import Recipe
from nextscale.rehearse import Rehearsal, rehearse
from nextscale.request import Request
from nextscale.scales import Size
from nextscale.serve.errors import no_model
from nextscale.serve.schema import REGION, SAMPLING, SHAPES, SUBJECT, Generation, size_of
from nextscale.tokenizers.base import Tokenizer

MOST_PICTURES = 10
LONGEST, LONGEST_OF_CLASSES = 10_000, 500
"""Letters of a prompt: every word of one that is to find a class is looked for."""
NOTHING: dict[str, Any] = dict.fromkeys((*SUBJECT, "seed", "generator", "plan"))
"""The arguments of a call that gives none."""
METHODS: Mapping[str, Callable[..., Plan]] = {
    "refined": refined,
    "prefix": Plan.prefix,
    "variant": variant,
    **BASELINES,
}
"""What ``methods`` may name: functions of a plan, perhaps the network that draws, and plain arguments to a plan."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a request draws. entries, seeds: one per picture; edit: the picture that is edited, if one is; warnings:
    what the client should know; at: its plan at another size, None where not the size alone says what that is.
    """

    model: str
    entries: list[Entry]
    seeds: list[int]
    plan: Plan
    edit: Edit | None = None
    warnings: list[str] = field(default_factory=list)
    at: Callable[[Size], Plan] | None = None

    @property
    def pixels(self) -> int:
        """Of the picture that is edited, which is kept until the answer is made."""
        return 0 if self.edit is None else self.edit.region.mask.size

    @property
    def together(self) -> tuple[Any, ...]:
        """What pictures must agree on to be drawn together."""
        return self.model, self.plan, None if self.edit is None else self.edit.seen.rule


class Front:
    """One model. pipe: its pipeline, on the meta device; rehearsals are kept by what they depend on."""

    def __init__(self, name: str, device: torch.device, dtype: torch.dtype) -> None:
        folder = model_folder(name)
        described = read_config(folder)
        parts = {part: build_component(one, f"{folder}, {part}") for part, one in described["components"].items()}
        tokenizer, model = parts.get("tokenizer"), parts.get("model")
        if not isinstance(tokenizer, Tokenizer) or not isinstance(model, NextScaleModel):
            raise CheckpointError(f"{folder} holds {', '.join(parts) or 'nothing'}; expected a tokenizer and a model")
        self.name, self.device = name, device
        self.pipe = Pipeline(
            tokenizer.to(dtype),
            model.to(dtype),
            load_conditioner(folder, model.reads),
            name=described.get("name", folder.name) if str(folder) == name else name,
            defaults=described.get("defaults", {}),
            revision=revision(folder),
        )
        self._rehearsals: dict[Any, Rehearsal] = {}

    @property
    def id(self) -> str:
        """What clients call it."""
        return self.pipe.name

    @cached_property
    def classes(self) -> bool:
        """Whether words find a class."""
        return "class" in self.pipe.model.reads

    @cached_property
    def free(self) -> bool:
        """Whether it draws sizes other than its trained ones."""
        h, w = self.pipe.shapes.default.grid
        try:
            self.pipe.model.schedule_of((h, w + 1), None)
        except PlanError:
            return False
        return True

    @cached_property
    def largest(self) -> Size:
        """Height and width of the largest pictures that it was trained on."""
        return max((size for sizes in self.pipe.shapes.sizes.values() for size in sizes), key=math.prod)

    def understood(self, body: Generation, image: Any = None, mask: Any = None, needed: bool = True) -> Asked:
        """What a body asks for. image, mask: of an edit, the mask (H, W) bool; needed: something must be shown, else a
        plan alone will do. Raises ``InputError`` or ``PlanError``.
        """
        with _heard() as told:
            if body.recipe is None:
                arguments = self._arguments(body)
                if not needed and not {"class_labels", "prompt"} & arguments.keys():
                    return Asked(self.id, [], [], self._plan(body, arguments), warnings=told, at=self._at(body))
            else:
                arguments = self._repeated(body.recipe, image, mask)
            asked = self._asked(body, arguments, image, mask, told)
        return asked

    def price(self, plan: Plan, images: int) -> dict[str, int]:
        """Bytes of the largest moment of drawing, in all and by what holds them."""
        priced = self.pipe.price(plan, images)
        return {
            "flops": priced.flops,
            "memory": priced.memory,
            "weights": priced.weights,
            "activations": max(0, self._rehearsed(plan).drawing * images - priced.memory),
            "peak_memory": priced.weights + self.beside(plan, images),
        }

    def beside(self, plan: Plan, images: int) -> int:
        """The most bytes beside the weights while pictures of a plan are drawn together."""
        one = self._rehearsed(plan)
        return max(one.drawing * images, one.decoding + one.decoding_more * (images - 1))

    def fitting(self, plan: Plan, most: int, memory: int) -> int:
        """How many pictures of a plan may be drawn together, 0 where not one fits. memory: bytes beside the weights."""
        return bisect(range(1, most + 1), memory, key=lambda images: self.beside(plan, images))

    def cost(self, plan: Plan, images: int) -> float:
        """The computing that pictures of a plan take, in pictures of the largest trained size."""
        return self.pipe.price(plan, images).flops / self._flops

    def nearest(self, asked: Asked, images: int, most: float) -> Size | None:
        """The largest size of this shape at which so many pictures cost no more; None where there is none."""
        if asked.at is None:
            return None
        stride, at, (h, w) = self.pipe.shapes.stride, asked.at, asked.plan.schedule.grid
        long = max(h, w)
        sizes = [(max(1, h * side // long) * stride, max(1, w * side // long) * stride) for side in range(1, long)]
        with _heard():  # what is said of sizes that are only tried is nobody's concern
            fitting = bisect(sizes, False, key=lambda size: self.cost(at(size), images) > most)
        return sizes[fitting - 1] if fitting else None

    @cached_property
    def _flops(self) -> int:
        return self.pipe.price(self.pipe.plan(size=self.largest)).flops

    def warm(self) -> None:
        """Rehearse what is asked for most, which takes a second or two."""
        self._rehearsed(self.pipe.plan())

    def _rehearsed(self, plan: Plan) -> Rehearsal:
        """Of one picture. Sampling settings change no number of bytes, so plans that differ in these share one."""
        rows = tuple(
            (row.size, row.model, row.blocks, row.condition, row.guidance_block, row.passes, row.smooth is None)
            for row in plan.rows
        )
        key = (rows, len(plan.branches), str(plan.memories), plan.undrawn, plan.decode)
        if key not in self._rehearsals:
            if len(self._rehearsals) > 100:
                self._rehearsals.clear()
            plain = plan.with_column(keep=None)
            self._rehearsals[key] = rehearse(plain, self.pipe.components, 1, self.device)
        return self._rehearsals[key]

    def _arguments(self, body: Generation) -> dict[str, Any]:
        """The arguments of a call, in Python's words."""
        given = body.given
        if given.get("style") in ("auto", "standard"):
            del given["style"]
        if given.get("prompt") == "" and ("class_labels" in given or self.classes):
            del given["prompt"]
        if "class_labels" in given and not self.classes:
            about = self.pipe.conditioner.about
            raise InputError(
                f"class_labels is {quoted(given['class_labels'])}, but {self.id} reads {about}; expected a prompt"
            )
        for name in ("prompt", "negative_prompt"):
            most = LONGEST_OF_CLASSES if self.classes else LONGEST
            if len(given.get(name, "")) > most:
                raise InputError(f"{name} has {len(given[name]):,} letters; expected at most {most:,}")
        found = {name: given[name] for name in (*SUBJECT, *SHAPES, *SAMPLING, *REGION) if name in given}
        if "size" in found:
            found["size"] = size_of(found["size"])
        if found.get("size", 0) is None:
            del found["size"]
        found |= {name: given[name] for name in ("seed",) if name in given}
        return {**found, "num_images": body.n or 1, "plan": None if body.plan is None else Plan.from_dict(body.plan)}

    def _repeated(self, data: Mapping[str, Any], image: Any, mask: Any) -> dict[str, Any]:
        """The arguments that repeat a recipe, which names this model."""
        recipe = self.recipe(data)
        found = self.pipe.arguments_of(recipe, image, mask if "mask_image" in (recipe.edit or {}) else None)
        return {name: value for name, value in found.items() if name not in ("image", "mask_image")}

    def recipe(self, data: Mapping[str, Any]) -> Recipe:
        """A recipe of this model, checked. Raises ``Refused`` for another model's."""
        recipe = Recipe.from_dict(data)
        if recipe.model != self.id:
            raise no_model(recipe.model, [self.id])
        if recipe.enlarge > 1:
            raise InputError(f"the recipe enlarges its picture {recipe.enlarge} times, which the service does not do")
        return recipe

    def planned(self, recipe: Recipe) -> Asked:
        """What a recipe draws, or painted into a picture that is not here."""
        with _heard() as told:
            number = str(self.pipe.dtype).removeprefix("torch.")
            arguments = recipe.arguments(self.pipe.conditioner, self.id, self.pipe.revision, number)
            plan = self._checked(recipe.plan, recipe.edit is not None)
            arguments["plan"] = plan.with_column(keep=None)
            request = understood(
                NOTHING | arguments, {}, self.pipe.conditioner, self.pipe.plan, self.pipe.shapes
            ).request
            asked = Asked(self.id, request.entries, request.seeds or [], plan, warnings=told)
        return asked

    def _plan(self, body: Generation, arguments: Mapping[str, Any]) -> Plan:
        """The plan alone, of a body that shows nothing."""
        given = {name: value for name, value in arguments.items() if name in (*SHAPES, *SAMPLING)}
        plan = arguments["plan"] or self.pipe.plan(**given)
        return self._checked(self._with_methods(plan, body.methods), False)

    def _asked(self, body: Generation, arguments: dict[str, Any], image: Any, mask: Any, told: list[str]) -> Asked:
        region = {name: arguments.pop(name) for name in REGION if name in arguments}
        if image is None:
            if region:
                raise InputError(f"{next(iter(region))} is of an edit; expected a request to /v1/images/edits")
            request = self._request(body, arguments)
            edit = None
        else:
            plan = arguments["plan"]
            if body.methods and plan is not None:
                arguments["plan"] = self._with_methods(plan, body.methods)
            elif body.methods:
                raise InputError("methods of an edit change a plan; expected a plan beside them")
            edit = self.pipe.understood_edit(image, mask_image=mask, **region, **_some(arguments))
            request = edit.call.request
        plan = self._checked(request.plan, edit is not None)
        assert request.seeds is not None
        if len(request.entries) > MOST_PICTURES:
            raise InputError(f"{len(request.entries)} pictures were asked for; expected at most {MOST_PICTURES}")
        return Asked(self.id, request.entries, request.seeds, plan, edit, told, self._at(body))

    def _at(self, body: Generation) -> Callable[[Size], Plan] | None:
        """How the plan of a body is made at another size."""
        if not self.free or {"recipe", "plan", "methods", "scales", "steps", "refine"} & body.given.keys():
            return None
        sampling = {name: value for name, value in body.given.items() if name in SAMPLING}
        return lambda size: self.pipe.plan(size=size, **sampling)

    def _request(self, body: Generation, arguments: dict[str, Any]) -> Request:
        if body.methods and arguments["plan"] is not None:
            arguments["plan"] = self._with_methods(arguments["plan"], body.methods)

        def make(**given: Any) -> Plan:
            return self._with_methods(self.pipe.plan(**given), body.methods)

        return understood(NOTHING | _some(arguments), {}, self.pipe.conditioner, make, self.pipe.shapes).request

    def _with_methods(self, plan: Plan, methods: list[dict[str, Any]] | None) -> Plan:
        """The plan after all methods. Raises ``InputError`` for what is none, or has other arguments."""
        for asked in methods or []:
            name = asked.get("name")
            if not isinstance(name, str) or name not in METHODS:
                raise InputError(
                    f"methods names {quoted(name)}; expected some of {', '.join(METHODS)} (methods that need a "
                    "calibration are not drawn over HTTP)"
                )
            change, given = METHODS[name], {key: value for key, value in asked.items() if key != "name"}
            takes = inspect.signature(change)
            own = {"network": self.pipe.model} if "network" in takes.parameters else {}
            try:
                takes.bind(plan, **own, **given)
            except TypeError as error:
                raise InputError(f"the method {name} cannot take {quoted(given)} ({error})") from None
            plan = change(plan, **own, **given)
        return plan

    def _checked(self, plan: Plan, edited: bool) -> Plan:
        """A plan that this model carries out, of one picture per prompt."""
        if max(plan.alive) > 1:
            raise PlanError(f"the plan has {max(plan.alive)} candidates per prompt; expected 1 here, and n pictures")
        kept = {row.keep for row in plan.rows} - {None, *([GIVEN] if edited else [])}
        if kept:
            raise PlanError(f"the plan keeps the part {quoted(min(map(str, kept)))}, which nobody can give here")
        model = self.pipe.model
        seen = {name for k in range(len(plan.rows)) for branch in plan.sees(k) for name in branch}
        if strange := seen - {*model.sources, *model.away_from}:
            raise PlanError(
                f"a branch of the plan sees {quoted(min(strange))}; {self.id} reads {', '.join(model.sources)}"
            )
        self.pipe.price(plan)  # refuses what the networks cannot do
        return paint(plan, GIVEN) if edited else plan


def _some(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


@contextmanager
def _heard() -> Iterator[list[str]]:
    """The sentences that the library warns of inside the block, each once, as soon as it ends."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield told
        told += dict.fromkeys(str(warning.message) for warning in caught)
