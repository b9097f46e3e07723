"""Editing: a picture is painted anew where a mask says so, by any model and without training.

An edit is a call whose plan keeps what the picture has (see ``methods/paint.py``), so it goes through the one loop. One
that refines a picture keeps its coarse maps, and draws what is finer.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.call import GIVEN, Call, Parts, understood
from nextscale.coder import Coder, pixels_of
from nextscale.conditions.base import Conditioner
from nextscale.errors import InputError, PlanError, quoted
from nextscale.given import Given, GivenTokens
from nextscale.habits import CALL
from nextscale.methods.first_scales import first_scales
from nextscale.methods.paint import RULES, given_of, paint
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan
from nextscale.ratios import apart, ratio_of
from nextscale.recipe import Recipe
from nextscale.region import Region, Window, region_of
from nextscale.request import Labels
from nextscale.results import GenerationResult, OutputType, StreamEvent, to_pil
from nextscale.scales import ScaleSchedule, Size
from nextscale.sizes import pair_of
from nextscale.state import Callback
from nextscale.tokenfile import Picture
from nextscale.tokenizers.base import Tokenizer
from nextscale.values import plain

ASKED = (
    *("class_labels", "prompt", "negative_prompt", "style", "num_images", "seed", "generator", "output_type"),
    *("callback_on_scale_end", "plan", "parts"),
)
"""The arguments of an edit that are those of a call."""
BESIDE = ("style", "negative_prompt", "guidance_scale")
"""Arguments that mean something beside a class or words alone."""
TIMES = 2
"""By how much a picture is enlarged where nobody says to what, and at most as much larger a whole picture is painted
than those that a model was trained on: as far as arXiv 2502.20313 shows.
"""


@dataclass(frozen=True)
class Seen:
    """What a model sees of a picture that is edited: the picture at the model's size, the mask (h, w) bool at any."""

    picture: Image.Image
    mask: np.ndarray
    rule: str

    def kept(self, tokenizer: Tokenizer, schedule: ScaleSchedule) -> Given:
        """What is kept of it, for one image: the part that a painting plan names."""
        pixels = pixels_of(self.picture, tokenizer, schedule)
        return given_of(tokenizer, pixels, torch.from_numpy(self.mask)[None], schedule, self.rule)


@dataclass(frozen=True)
class Edit:
    """An edit understood, before anything is computed. region: the picture, and what of it is painted anew; window:
    what of the picture is seen; seen: the same as a model sees it; call: what was asked for, without what is kept;
    blank, paste: see :meth:`Editor.edit`.
    """

    region: Region
    window: Window
    seen: Seen
    call: Call
    blank: bool
    paste: bool

    @property
    def told(self) -> dict[str, Any]:
        """What a recipe says of it."""
        return {**self.region.source, "rule": self.seen.rule, "blank": self.blank, "paste": self.paste}

    def put_back(self, painted: Image.Image) -> Image.Image:
        """The whole picture with what a model painted."""
        return self.region.put_back(painted, self.window, self.paste)


class Editor(Coder, ABC):
    """What a pipeline does with a picture that is given."""

    model: NextScaleModel
    conditioner: Conditioner
    name: str
    revision: str

    def edit(
        self,
        image: Picture,
        class_labels: Labels | None = None,
        *,
        mask_image: Any = None,
        box: Sequence[int] | None = None,
        outpaint: Mapping[str, int] | None = None,
        refine_image: bool = False,
        start_scale: int | Sequence[int] | str | None = None,
        rule: str = "cover",
        blank: bool | None = None,
        paste: bool = True,
        prompt: Sequence[str] | str | None = None,
        negative_prompt: Sequence[str | None] | str | None = None,
        style: Sequence[str | None] | str | None = None,
        num_images: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        output_type: OutputType = "pil",
        callback_on_scale_end: Callback | None = None,
        plan: Plan | None = None,
        parts: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> GenerationResult:
        """Paint a part of a picture anew; the answers have its size, or a larger one where it is outpainted. Or refine
        all of it.

        image: a PIL image, the name of a file or a uint8 array (H, W, 3 or 4); mask_image: another of its size, or an
        array or tensor (H, W), white (True, 1) where it is painted anew; box: x, y, width and height of that, in
        pixels; outpaint: how many pixels to add, as in ``{"left": 16}``; refine_image: keep the picture's maps up to a
        scale in the middle and draw the finer ones, which enlarges a small picture; one of these four. start_scale: the
        last scale whose map is the picture's, a side or (height, width) in tokens, by default the finest that the
        picture fills. rule: which tokens of the picture are kept, see :func:`nextscale.methods.paint.given_of`; blank:
        hide what is masked from the model, by default where a class or words are given (not where something is
        outpainted, nor by VAR's official rule); paste: every pixel that is not masked is the picture's own.
        class_labels, prompt: what to paint; without them the model is asked for nothing in particular. The other
        arguments are those of a call; ratio, pixels, size, scales and steps say at what size the model paints, and on
        which scales. Raises ``InputError`` or ``PlanError`` for what cannot be done.
        """
        given = {name: value for name, value in locals().items() if name not in ("self", "sampling")}
        return self._carried_out(self._understood(**given, **sampling))

    def stream_edit(self, image: Picture, class_labels: Labels | None = None, **asked: Any) -> Iterator[StreamEvent]:
        """As :meth:`edit`, but yields after every scale."""
        for name in ("output_type", "callback_on_scale_end"):
            if asked.get(name) is not None:
                raise InputError(f"{name} is {quoted(asked[name])}, and a stream has none; leave it out")
        return self._streamed(self._understood(image, class_labels=class_labels, **asked))

    def repeat(
        self, picture: str | Path, image: Picture | None = None, mask_image: Any = None, parts: Parts = None
    ) -> GenerationResult:
        """Draw again what the recipe in a PNG says, of one picture or a grid. image, mask_image: what was edited, where
        something was; parts: what it names by a digest, such as a calibration. Raises ``InputError`` where there is no
        recipe, another model drew the picture, or another one was edited; warns where the new picture will differ.
        """
        recipe = Recipe.read(picture)
        arguments = self.arguments_of(recipe, image, mask_image, parts)
        result = self(**arguments) if image is None else self.edit(**arguments)
        return result.enlarged(recipe.enlarge)

    def arguments_of(
        self, recipe: Recipe, image: Picture | None = None, mask_image: Any = None, parts: Parts = None
    ) -> dict[str, Any]:
        """The arguments of the call, or the edit, that repeats a recipe; errors and warnings as for ``repeat``."""
        number = str(next(self.model.parameters()).dtype).removeprefix("torch.")
        edit = {} if recipe.edit is None else _edit_of(recipe.edit, image, mask_image)
        if recipe.edit is None and not (image is None and mask_image is None):
            raise InputError(
                "the picture was drawn and not edited; leave the picture and the mask out: pipe.repeat(picture), or "
                "nextscale generate --like ..."
            )
        return {**recipe.arguments(self.conditioner, self.name, self.revision, number, parts or {}), **edit}

    @abstractmethod
    def plan(self, **sampling: Any) -> Plan:
        """The plan of sampling arguments."""

    @abstractmethod
    def _carried_out(self, call: Call) -> GenerationResult:
        """What a call draws."""

    @abstractmethod
    def _streamed(self, call: Call) -> Iterator[StreamEvent]:
        """The same, scale by scale."""

    @abstractmethod
    def __call__(self, *given: Any, **arguments: Any) -> GenerationResult:
        """Draw pictures; see ``Pipeline``."""

    def _understood(self, image: Picture, *, refine_image: Any = False, **asked: Any) -> Call:
        """The call of an edit; its part holds what is kept of the picture."""
        refine_image = plain(refine_image)
        if not isinstance(refine_image, bool):
            raise InputError(f"refine_image is {quoted(refine_image)}; it must be True or False")
        return self._refining(image, **asked) if refine_image else self._painting(image, **asked)

    def understood_edit(
        self,
        image: Picture,
        *,
        mask_image: Any = None,
        box: Any = None,
        outpaint: Any = None,
        start_scale: Any = None,
        rule: Any = "cover",
        blank: Any = None,
        paste: Any = True,
        **asked: Any,
    ) -> Edit:
        """The arguments of :meth:`edit` that paint a part anew, checked; nothing is computed, so weights may be on the
        meta device.
        """
        blank, paste = plain(blank), plain(paste)
        if start_scale is not None:
            raise InputError(f"start_scale is {quoted(start_scale)}, which is where refine_image starts; expected both")
        if not isinstance(rule, str) or rule not in RULES:
            raise InputError(f"rule is {quoted(rule)}; expected one of {', '.join(RULES)}")
        if not isinstance(blank, bool | None) or not isinstance(paste, bool):
            name, value = ("paste", paste) if isinstance(blank, bool | None) else ("blank", blank)
            raise InputError(f"{name} is {quoted(value)}; it must be True or False")
        region = region_of(image, mask_image, box, outpaint)
        call = self._call(region, asked)
        if blank is None:
            shown = any(value not in (None, "") for entry in call.request.entries for value in entry.values())
            blank = shown and outpaint is None and rule != "official"
        schedule = call.request.plan.schedule
        window = window_of(self.tokenizer, region, schedule)
        seen = Seen(*region.cut(window, self.tokenizer.pixels(schedule), blank), rule)
        return Edit(region, window, seen, call, blank, paste)

    def _painting(self, image: Picture, **asked: Any) -> Call:
        """The call that paints a part of a picture anew."""
        edit = self.understood_edit(image, **asked)
        call, plan = edit.call, edit.call.request.plan
        given = edit.seen.kept(self.tokenizer, plan.schedule)

        def finished(images: Tensor) -> Tensor:
            whole = [np.asarray(edit.put_back(one)) for one in to_pil(images)]
            return torch.from_numpy(np.stack(whole)).permute(0, 3, 1, 2).float() / 255

        return replace(
            call,
            request=replace(call.request, plan=paint(plan, GIVEN)),
            parts={**call.parts, GIVEN: given},
            edit=edit.told,
            finished=finished,
        )

    def _refining(
        self,
        image: Picture,
        *,
        mask_image: Any = None,
        box: Any = None,
        outpaint: Any = None,
        start_scale: Any = None,
        rule: Any = "cover",
        blank: Any = None,
        paste: Any = True,
        **asked: Any,
    ) -> Call:
        """The call that keeps a picture's maps up to a scale, at whose size the picture is encoded."""
        if not self.tokenizer.whole_maps:
            raise InputError(
                "refine_image starts from one map of the picture, and the maps of this model add up to a picture; "
                "expected a model whose every map is the whole picture"
            )
        for name, value, ungiven in (("rule", rule, "cover"), ("blank", blank, None), ("paste", paste, True)):
            if value != ungiven:
                raise InputError(f"{name} is {quoted(value)}, but refine_image masks nothing; leave {name} out")
        region = region_of(image, mask_image, box, outpaint, refine_image=True)
        call = self._call(region, asked)
        plan, size = call.request.plan, self.tokenizer.pixels(call.request.plan.schedule)
        window = region.middle(size)
        count = _kept_scales(plan, start_scale, in_tokens(self.tokenizer, *window[2:]))
        kept = plan.schedule.prefix(count)
        picture, _ = region.cut(window, self.tokenizer.pixels(kept), blank=False)
        return replace(
            call,
            request=replace(call.request, plan=first_scales(plan, count, GIVEN)),
            parts={**call.parts, GIVEN: GivenTokens.whole(self.encode(picture, kept))},
            edit={**region.source, "start_scale": list(kept.grid)},
        )

    def _call(self, region: Region, asked: Mapping[str, Any]) -> Call:
        """What was asked for, without the picture."""
        given = {name: asked.get(name) for name in ASKED}
        others = {name: value for name, value in asked.items() if name not in ASKED}
        named = {CALL[name].here if name in CALL else name: value for name, value in asked.items() if value is not None}
        labelled = not {"class_labels", "prompt"}.isdisjoint(named)
        beside = [name for name in BESIDE if name in named]
        if beside and not labelled and "plan" not in named:
            raise InputError(
                f"{beside[0]} is {quoted(named[beside[0]])}, but nothing says what to paint; expected a class or words "
                f"beside it, or no {beside[0]}"
            )
        call = understood(given, others, self.conditioner, self._plan_for(region, labelled), self.shapes)
        if GIVEN in call.parts:
            raise PlanError(f"parts has {GIVEN!r}, which an edit makes itself; call it something else")
        if any(row.keep not in (None, GIVEN) for row in call.request.plan.rows):
            raise PlanError("the plan keeps a part, and an edit keeps the picture; expected a plan that keeps nothing")
        return call

    def _plan_for(self, region: Region, labelled: bool) -> Callable[..., Plan]:
        """How the plan of an edit is made: of the ratio that what is seen of the picture has, by default, or of its own
        size where a model paints all of it, and of a single branch that sees nothing, where nothing was asked for.
        """

        def make(**sampling: Any) -> Plan:
            shape = region.size if self.shapes.size(self.shapes.fitting(*region.size)) == region.size else None
            height, width = shape or region.box()[2:]
            if len(self.shapes.schedules) > 1 and not {"size", "scales"} & sampling.keys():
                sampling = {"ratio": ratio_of(self.shapes.fitting(height, width)), **sampling}
            elif self.tokenizer.whole_maps and not {"ratio", "pixels", "size", "scales"} & sampling.keys():
                times = TIMES if "refine_image" in region.source else 1
                sampling = {"size": whole_size(self.tokenizer, *(times * side for side in region.size)), **sampling}
            if labelled:
                return self.plan(**sampling)
            return replace(self.plan(guidance_scale=1.0, **sampling), branches=((),))

        return make


def kept_of(
    tokenizer: Tokenizer, regions: Sequence[Region], schedule: ScaleSchedule, rule: str = "cover", blank: bool = True
) -> Given:
    """What an edit keeps of pictures, one for each image that is drawn: the part that a painting plan names. Windows of
    all regions have one size; rule, blank: see :meth:`Editor.edit`.
    """
    size = tokenizer.pixels(schedule)
    seen = [region.cut(window_of(tokenizer, region, schedule), size, blank) for region in regions]
    pixels = torch.cat([pixels_of(picture, tokenizer, schedule) for picture, _ in seen])
    return given_of(tokenizer, pixels, torch.from_numpy(np.stack([mask for _, mask in seen])), schedule, rule)


def window_of(tokenizer: Tokenizer, region: Region, schedule: ScaleSchedule) -> Window:
    """What is seen of a picture that is painted: all of it where a model that is free in its scales paints it at the
    size that :func:`whole_size` has for it.
    """
    size = tokenizer.pixels(schedule)
    return region.window(size, tokenizer.whole_maps and size == whole_size(tokenizer, *region.size))


def whole_size(tokenizer: Tokenizer, height: int, width: int) -> Size:
    """The size (height, width) nearest to that of a picture at which all of it can be painted: whole tokens, and sides
    that are at most ``TIMES`` as long as the longer one of those that were trained.
    """
    scale = min(1, TIMES * max(tokenizer.pixels()) / max(height, width))
    h, w = in_tokens(tokenizer, height * scale, width * scale)
    return h * tokenizer.stride, w * tokenizer.stride


def in_tokens(tokenizer: Tokenizer, height: float, width: float) -> Size:
    """Sides in pixels as the nearest numbers of tokens, at least 1."""
    return max(1, int(height / tokenizer.stride + 0.5)), max(1, int(width / tokenizer.stride + 0.5))


def _kept_scales(plan: Plan, asked: Any, filled: Size) -> int:
    """How many scales of a plan hold a picture's maps: up to the one that is asked for, or to the finest that is not
    larger than ``filled``; at least one, and one at least is drawn. Raises ``InputError`` where that cannot be.
    """
    sizes = [row.size for row in plan.rows[:-1]]
    if not sizes:
        raise InputError(
            "refine_image keeps a scale and draws another, and the plan has one scale; expected at least 2"
        )
    if asked is None:
        return max((k for k, (h, w) in enumerate(sizes, 1) if h <= filled[0] and w <= filled[1]), default=1)
    wanted = pair_of(plain(asked), side=True)
    if wanted is None:
        raise InputError(f"start_scale is {quoted(asked)}; expected the side, or height and width, of a map in tokens")
    if wanted not in sizes:
        h, w = min(sizes, key=lambda size: apart(math.prod(size), math.prod(wanted)))
        raise InputError(
            f"start_scale is {quoted(asked)}; expected one of the scales before the last, {ScaleSchedule(tuple(sizes))}"
            f", of which {h}x{w} is the nearest"
        )
    return len(sizes) - sizes[::-1].index(wanted)


def _edit_of(edit: Mapping[str, Any], image: Picture | None, mask_image: Any) -> dict[str, Any]:
    """The arguments of an edit that repeats one. Raises ``InputError`` unless the same picture and mask are given."""
    if image is None:
        raise InputError(
            "the picture is an edited one; expected the picture that was edited, too: pipe.repeat(picture, image=...), "
            "or nextscale edit PICTURE --like ..."
        )
    masked = "mask_image" in edit
    if masked != (mask_image is not None):
        what = "the mask of the edit, too, which was a picture" if masked else "no mask, since the recipe says it"
        raise InputError(f"a mask was {'not ' if masked else ''}given; expected {what}")
    ways = {name: edit[name] for name in ("box", "outpaint", "refine_image") if name in edit}
    found = region_of(image, mask_image, **ways).source
    for name, what in (("image", "picture"), ("mask_image", "mask")):
        if found.get(name) != edit.get(name):
            raise InputError(f"this is not the {what} of the edit; expected one of the same pixels")
    return {**edit, "image": image} | ({"mask_image": mask_image} if masked else {})
