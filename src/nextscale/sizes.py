"""The scales that a call asks for: by ratio and pixels, by a size and a number of scales, or written out.

Shape letters: ``h w`` tokens; sizes of pictures are in pixels, height first.
"""

from __future__ import annotations

import re
from typing import Any

from nextscale.errors import InputError, PlanError, quoted, warn_user
from nextscale.models.base import NextScaleModel
from nextscale.pictures import MOST_PIXELS
from nextscale.ratios import Shapes
from nextscale.scales import LARGEST_SIDE, ScaleSchedule, Size
from nextscale.values import is_real, is_whole, listed, plain

SHAPE = ("ratio", "pixels", "size", "scales", "steps")
"""The arguments of a call that say on which scales it draws."""
EXCLUSIVE = (("scales", SHAPE, "scales are a whole schedule"), ("size", ("ratio", "pixels"), "a size says both"))
"""An argument, those that cannot stand beside it, and why."""


def asked_schedule(model: NextScaleModel, stride: int, **asked: Any) -> ScaleSchedule:
    """The schedule of the arguments ``SHAPE``, each of which may be left out or None; of none, the model's own.

    ratio, pixels: see :meth:`nextscale.ratios.Shapes.choose`; size: height and width in pixels, multiples of
    ``stride``; steps: how many scales; scales: sides or (height, width) of all maps, in tokens. Sizes and scales may
    be texts, as in "512x384" and "1,2,4x6". Warns of scales that the model draws without having been trained on them.
    Raises ``InputError`` for what the model does not draw, with the nearest that it does, and for arguments that
    exclude each other.
    """
    given = {name: plain(value) for name, value in asked.items() if value is not None}
    for name, others, why in EXCLUSIVE:
        for other in others:
            if name in given and other in given and name != other:
                raise InputError(f"{name} and {other} were both given; {why}, so leave {other} out")
    shapes = model.shapes(stride)
    if "scales" in given:
        schedule = _written_out(model, shapes, given["scales"])
    else:
        schedule = _chosen(model, shapes, given.get("ratio"), given.get("pixels"))
        if {"size", "steps"} & given.keys():
            said = " and ".join(f"{name} is {quoted(given[name])}" for name in ("size", "steps") if name in given)
            schedule = _of_size(model, shapes, given.get("size", shapes.size(schedule)), given.get("steps"), said)
    if not shapes.trained(schedule):
        warn_user(_untrained(shapes, schedule))
    return schedule


def _untrained(shapes: Shapes, schedule: ScaleSchedule) -> str:
    """What to expect of such a schedule."""
    (h, w), (height, width) = shapes.size(schedule), shapes.size(shapes.default)
    scales = f" in the scales {schedule}" if (h, w) == (height, width) else ""
    known = f"up to {height}x{width}" if shapes.smaller else f"{height}x{width}"
    others = " and others that nextscale info lists" if shapes.several else f" in the scales {shapes.default}"
    return (
        f"this model was never trained on pictures of {h}x{w} pixels (height x width){scales}, and may not draw them "
        f"well; it learned {known}{'' if shapes.smaller else others}"
    )


def _chosen(model: NextScaleModel, shapes: Shapes, ratio: Any, pixels: Any) -> ScaleSchedule:
    try:
        return shapes.choose(ratio, pixels)
    except InputError as refused:
        try:
            model.schedule_of(shapes.default.grid[::-1], 1)
        except PlanError:
            raise refused from None
        raise InputError(f"{refused}; size asks for any other") from None


def _of_size(model: NextScaleModel, shapes: Shapes, asked: Any, steps: Any, said: str) -> ScaleSchedule:
    """The schedule of pictures of a size, in a number of scales unless that is None."""
    size = pair_of(asked)
    if size is None:
        raise InputError(f"size is {quoted(asked)}; expected height and width in pixels, as in 512x384")
    if steps is not None and (not is_whole(steps) or steps < 1):
        raise InputError(f"steps is {quoted(steps)}; expected a number of scales, at least 1")
    h, w = (max(1, (side + shapes.stride // 2) // shapes.stride) for side in size)
    _check_area(said, (h, w), shapes)
    schedule = _possible(model, shapes, (h, w), steps, said)
    _check(model, schedule, said)
    height, width = shapes.size(schedule)
    if size != (height, width):
        raise InputError(
            f"size is {quoted(asked)}; the nearest that this model draws is {height}x{width} pixels (height x "
            f"width), since a token has {shapes.stride}x{shapes.stride}"
        )
    if steps is not None and steps > len(schedule):
        raise InputError(
            f"steps is {quoted(steps)}; expected at most {len(schedule)}, the most scales that this model draws "
            f"{height}x{width} pixels by"
        )
    return schedule


def _written_out(model: NextScaleModel, shapes: Shapes, scales: Any) -> ScaleSchedule:
    said = f"scales are {quoted(scales)}"
    entries = scales.split(",") if isinstance(scales, str) else listed(scales)
    sizes = [pair_of(entry, side=True) for entry in entries or []]
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(sizes):
        raise InputError(
            f"{said}; expected the sides, or height and width, of one map or more in tokens, as in 1,2,4 or 1,2x3,4x6"
        )
    growing = list(zip(*(sorted(sides) for sides in zip(*known, strict=True)), strict=True))
    if growing != known:
        nearest = ",".join(f"{h}" if h == w else f"{h}x{w}" for h, w in growing)
        raise InputError(
            f"{said}; expected scales that do not shrink, as in {nearest if len(nearest) < 200 else '1,2'}"
        )
    schedule = ScaleSchedule.of(known)
    _check_area(said, schedule.grid, shapes)
    _possible(model, shapes, schedule.grid, len(schedule), said)
    _check(model, schedule, said)
    return schedule


def _possible(model: NextScaleModel, shapes: Shapes, grid: Size, steps: int | None, said: str) -> ScaleSchedule:
    """The schedule of a grid, of as many of these steps as it can have."""
    most = min(max(grid), model.levels or max(grid))
    try:
        return model.schedule_of(grid, None if steps is None else min(steps, most))
    except PlanError as refused:
        height, width = shapes.size(shapes.default)
        raise InputError(f"{said}; {refused}: its pictures have {height}x{width} pixels (height x width)") from None


def _check(model: NextScaleModel, schedule: ScaleSchedule, said: str) -> None:
    try:
        model.check(schedule)
    except PlanError as refused:
        raise InputError(f"{said}; {refused}") from None


def _check_area(said: str, grid: Size, shapes: Shapes) -> None:
    h, w = grid
    if h * w * shapes.stride**2 > MOST_PIXELS or max(h, w) > LARGEST_SIDE:
        raise InputError(
            f"{said}, which is too large; expected at most {MOST_PIXELS:,} pixels in a picture, and {LARGEST_SIDE:,} "
            "tokens along a side"
        )


def pair_of(given: Any, side: bool = False) -> Size | None:
    """Height and width, as a text or two whole numbers; where ``side``, one number is that of a square."""
    if isinstance(given, str):
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:[xX]\s*([0-9]{1,9})\s*)?", given)
        numbers: list[Any] = [int(part) for part in found.groups() if part] if found else []
    else:
        numbers = [given] if is_real(given) else listed(given) or []
    if side and len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2 or not all(is_real(n) and float(n).is_integer() and 0 < n < 1e9 for n in numbers):
        return None
    return int(numbers[0]), int(numbers[1])
