"""Settings that a file gives, to a frozen dataclass: every value of the type that the dataclass states, or a sentence.

What a value means, and so its bounds, is the dataclass's own affair: it states them with :func:`check_bounds` when it
is made, wherever its values come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nextscale.errors import InputError, quoted

Settings = TypeVar("Settings")

PLAIN = {int: "a whole number", float: "a finite number", bool: "true or false", str: "a text", NoneType: "null"}


def build(cls: type[Settings], given: Any, where: str = "") -> Settings:
    """A settings dataclass from plain data: lists become tuples, and tables the dataclasses that they stand for.

    where: put before the name of a setting, as in ``autoencoder.``. Raises ``InputError`` for the first setting that is
    unknown, missing, of another type, or out of the bounds that ``cls`` has.
    """
    assert is_dataclass(cls)
    if not isinstance(given, Mapping):
        raise InputError(f"{where.rstrip('.') or 'the settings'} is {quoted(given)}; expected a table of settings")
    known = {f.name: f for f in fields(cls)}
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise InputError(f"unknown setting {quoted(unknown)}; {cls.__name__} has {', '.join(known)}")
    for name, one in known.items():
        if name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise InputError(f"the setting {where}{name} is missing; {cls.__name__} needs it")
    types = get_type_hints(cls)
    made: Settings = cls(**{name: typed(value, types[name], where + name) for name, value in given.items()})
    return made


def typed(value: Any, kind: Any, name: str) -> Any:
    """``value`` as the type ``kind`` (an annotation). Raises ``InputError`` if it is of another."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return build(kind, value, f"{name}.")  # type: ignore[arg-type]
    if get_origin(kind) is dict and isinstance(value, Mapping):
        return {key: typed(entry, get_args(kind)[1], f"{name}.{key}") for key, entry in value.items()}
    for one in get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,):
        if fits(value, one):
            return _tuples(value)
    raise InputError(f"{name} is {quoted(value)}; expected {described(kind)}")


def fits(value: Any, kind: Any) -> bool:
    """Whether plain data are of a type. A truth value is no number, and a number that is not finite is none."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        kinds = inner[:1] * len(value) if inner[1:] == (...,) else inner
        return len(kinds) == len(value) and all(map(fits, value, kinds))
    if kind is float:
        return type(value) is int or (type(value) is float and math.isfinite(value))
    return type(value) is kind


def described(kind: Any, several: bool = False) -> str:
    """A type in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is dict:
        return "tables" if several else "a table"
    if origin is Literal:
        return " or ".join(repr(choice) for choice in inner)
    if origin in (Union, UnionType):
        return " or ".join(described(one) for one in inner)
    if origin is tuple and inner[1:] == (...,):
        return f"a list of {described(inner[0], True)}"
    if origin is tuple:
        words = f"{len(inner)} {described(inner[0], True)}"
        return f"lists of {words}" if several else f"a list of {words}"
    plural = {int: "whole numbers", float: "finite numbers", str: "texts"}
    return plural[kind] if several else PLAIN[kind]


def check_bounds(settings: object, **bounds: tuple[float, float]) -> None:
    """Raises ``InputError`` for the first attribute of ``settings`` below or above its two bounds, both allowed."""
    for name, (least, most) in bounds.items():
        value = getattr(settings, name)
        if not value >= least:
            raise InputError(f"{name} is {quoted(value)}; expected {least:,} or more")
        if not value <= most:
            raise InputError(f"{name} is {quoted(value)}; expected at most {most:,}")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
