"""The fields of requests: OpenAI's, and our own, by the names they have in Python.

What the service itself decides is checked here; whatever goes on to the library (seeds, plans, sampling) is checked
there, by the sentences that Python and the command line have, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nextscale.documents import parse_json
from nextscale.errors import InputError, quoted
from nextscale.scales import Size
from nextscale.serve.errors import Refused, of_pydantic

SUBJECT = ("class_labels", "prompt", "negative_prompt", "style")
"""What says what a picture shows."""
SHAPES = ("size", "ratio", "pixels", "scales", "steps")
SAMPLING = ("guidance_scale", "temperature", "top_k", "top_p", "smooth", "refine")
REGION = ("box", "outpaint", "rule", "blank", "paste")
OPENAI = (
    *("output_format", "output_compression", "response_format", "stream", "partial_images", "background", "quality"),
    *("moderation", "user", "safety_identifier"),
)
"""What says how pictures are answered, not what is in them."""
TEXTS = frozenset({*OPENAI, *SUBJECT, "model", "size", "ratio", "pixels", "rule", "refine"}) - {
    *("class_labels", "output_compression", "stream", "partial_images")
}
"""Fields of a form that are texts as they are; the others are JSON."""


class Generation(BaseModel):
    """The body of a generation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str | None = None
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = None
    output_format: Literal["png", "webp", "jpeg", "gif"] | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    stream: bool | None = None
    partial_images: Literal[0, 1, 2, 3, "all"] | None = None
    background: Literal["auto", "opaque"] | None = None
    quality: Literal["auto", "standard"] | None = None
    moderation: Literal["auto"] | None = None
    style: str | None = None
    user: Any = None
    safety_identifier: Any = None
    class_labels: Any = None
    negative_prompt: str | None = None
    seed: Any = None
    guidance_scale: Any = None
    temperature: Any = None
    top_k: Any = None
    top_p: Any = None
    smooth: Any = None
    refine: Any = None
    ratio: Any = None
    pixels: Any = None
    scales: Any = None
    steps: Any = None
    plan: dict[str, Any] | None = None
    methods: list[dict[str, Any]] | None = None
    recipe: dict[str, Any] | None = None
    deadline: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The fields that say something, by name."""
        named = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in named if value is not None}

    def check(self) -> None:
        """Raises ``Refused`` for fields that contradict each other or would change nothing."""
        kind = self.output_format or "png"
        if self.output_compression not in (None, 100) and kind not in ("webp", "jpeg"):
            raise _contradiction(
                "output_compression", self.output_compression, f"a {kind} has no quality; leave it out"
            )
        if self.partial_images not in (None, 0) and not self.stream:
            raise _contradiction("partial_images", self.partial_images, "only a stream has some; expected stream, too")
        if self.stream and self.response_format == "url":
            raise _contradiction("response_format", "url", "a stream carries its pictures; expected b64_json")
        beside = [name for name, value in self.given.items() if name not in BESIDE_RECIPE and (name, value) != EMPTY]
        if self.recipe is not None and beside:
            raise _contradiction(beside[0], self.given[beside[0]], "a recipe says it all; leave one of the two out")
        sizes = [name for name in SHAPES + SAMPLING if name in self.given and self.given[name] != "auto"]
        if self.plan is not None and sizes:
            raise _contradiction(sizes[0], self.given[sizes[0]], "the plan says it; change the plan, or leave it out")


EMPTY = ("prompt", "")
"""What clients send that must name a prompt."""
BESIDE_RECIPE = frozenset({*OPENAI, "recipe", "model", "deadline"})


class Painting(Generation):
    """The fields of an edit, beside its files."""

    box: Any = None
    outpaint: Any = None
    rule: Any = None
    blank: Any = None
    paste: Any = None


def read(kind: type[Generation], data: Any) -> Generation:
    """A body of this kind. Raises ``Refused`` with the first thing that is wrong with it."""
    if not isinstance(data, Mapping):
        raise Refused(400, f"the body is {quoted(data)}; expected a table of fields and values")
    try:
        found = kind.model_validate(dict(data))
    except ValidationError as error:
        raise of_pydantic(error.errors(include_url=False)[0], kind.model_json_schema()["properties"]) from None
    found.check()
    return found


def read_json(content: bytes, kind: type[Generation]) -> Generation:
    """A body of JSON. Raises ``Refused``."""
    try:
        return read(kind, parse_json(content.decode(), "the body"))
    except UnicodeDecodeError:
        raise Refused(400, "the body is no text in UTF-8; expected JSON") from None
    except InputError as error:
        raise Refused(400, str(error)) from None


def read_form(fields: Sequence[tuple[str, str]], kind: type[Generation]) -> Generation:
    """The texts of a form: lists and tables are JSON, or given as ``name[]`` several times. Raises ``Refused``."""
    found: dict[str, Any] = {}
    lists: dict[str, list[Any]] = {}
    for name, text in fields:
        name, several = name.removesuffix("[]"), name.endswith("[]")
        if name in found or (name in lists and not several):
            raise Refused(400, f"the form gives {quoted(name, 40)} twice; expected every field once", param=name)
        value = text if name in TEXTS else _value(text)
        if several:
            lists.setdefault(name, []).append(value)
        else:
            found[name] = value
    return read(kind, found | lists)


def size_of(text: str) -> Size | None:
    """OpenAI's WIDTHxHEIGHT as our height and width; None for "auto". The one place where the two are exchanged.

    >>> size_of("96x64")
    (64, 96)
    """
    if text == "auto":
        return None
    sides = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    if sides is None or not int(sides[1]) or not int(sides[2]):
        raise Refused(
            400, f"size is {quoted(text)}; expected auto, or WIDTHxHEIGHT in pixels, as in 96x64", param="size"
        )
    return int(sides[2]), int(sides[1])


def size_text(size: Size) -> str:
    """Height and width as OpenAI spells them, the inverse of :func:`size_of`."""
    height, width = size
    return f"{width}x{height}"


def _value(text: str) -> Any:
    try:
        return parse_json(text, "a field")
    except InputError:
        return text


def _contradiction(name: str, value: Any, why: str) -> Refused:
    return Refused(400, f"{name} is {quoted(value)}; {why}", param=name)
