"""Recipes: everything a training run needs to know, in one YAML file, checked before anything is computed.

A recipe is a shipped name (``tokenizer-emoji``) or a file; ``--set section.key=value`` changes single entries. A key
that does not exist and a value of the wrong type are refused in one sentence. What came out is saved with the run.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from contextlib import suppress
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from nextscale import systems
from nextscale.documents import parse_yaml, read_yaml
from nextscale.errors import InputError, quoted
from nextscale.training.classifier_recipe import ClassifierRecipe
from nextscale.training.generator_recipe import GeneratorRecipe
from nextscale.training.tokenizer_recipe import TokenizerRecipe

SHIPPED = Path(__file__).parent / "recipes"
EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")  # of these YAML 1.1 takes some, such as 1e-4, for words

Recipe = TokenizerRecipe | GeneratorRecipe | ClassifierRecipe


def kinds() -> dict[str, type[TokenizerRecipe] | type[GeneratorRecipe] | type[ClassifierRecipe]]:
    """What can be trained, and what its recipe may say: every system's tokenizers and generators, a feature network."""
    theirs = {kind: systems.load(name) for system in systems.SYSTEMS for kind, name in system.recipes.items()}
    return {**theirs, "classifier": ClassifierRecipe}


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: list[str] | None = None, kind: str | None = None) -> Recipe:
    """Read a shipped recipe or a file, apply ``section.key=value`` overrides, and check it.

    kind: what is to be trained, which a shipped name may leave out: ``emoji`` of an ``m-var`` is ``m-var-emoji``.
    Raises ``InputError``.
    """
    path = _find(str(name_or_path), kind)
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise InputError(f"the recipe {path} must hold sections such as 'model' and 'optim', not {type(data).__name__}")
    for override in overrides or []:
        _override(data, override)
    return parse_recipe(data, str(name_or_path))


def parse_recipe(data: dict[str, Any], name: str) -> Recipe:
    """Check a recipe given as nested dictionaries; ``name`` is used in messages."""
    kind, known = data.get("kind"), kinds()
    if not isinstance(kind, str) or kind not in known:
        raise InputError(f"the recipe {name} must say 'kind: {' or '.join(known)}', not {quoted(kind)}")
    _refuse_unknown(known[kind], data, "")
    _refuse_no_number(known[kind], data, f"recipe {name}, ", "")
    try:
        return known[kind].model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        reason = first["msg"].removeprefix("Value error, ")
        seen = f" (found {quoted(first['input'])})" if isinstance(first["input"], int | float | str | list) else ""
        raise InputError(f"recipe {name}, {where}: {reason[:1].lower()}{reason[1:]}{seen}") from None


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Every ``key: old -> new`` by which two dumped recipes differ."""
    a, b = _flat(old), _flat(new)
    return [f"{key}: {a.get(key)!r} -> {b.get(key)!r}" for key in sorted(a | b) if a.get(key) != b.get(key)]


def _find(name: str, kind: str | None) -> Path:
    for path in (SHIPPED / f"{name}.yaml", Path(name), SHIPPED / f"{kind}-{name}.yaml"):
        with suppress(OSError):  # a name that is too long for one of a file
            if path.is_file():
                return path
    near = difflib.get_close_matches(name, shipped_recipes(), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are {', '.join(shipped_recipes())}"
    raise InputError(f"no recipe or file {quoted(name)}; {hint}")


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"an override has the form section.key=value, not {quoted(override)}")
    *sections, last = key.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise InputError(f"the recipe has no section {section!r} to set {key.strip()!r} in")
    data[last] = parse_yaml(text, f"the value of {quoted(override)}")
    lengths = {"steps", "epochs"}
    if (
        sections == ["schedule"] and last in lengths and data[last] is not None
    ):  # one length takes the place of the other
        (other,) = lengths - {last}
        data.pop(other, None)


def _refuse_unknown(kind: Any, data: Any, path: str) -> None:
    """Refuse the first key that ``kind`` (a pydantic model or a dataclass) does not have, with the nearest it has."""
    fields = _fields(kind)
    if not fields or not isinstance(data, dict):
        return
    for key, value in data.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1, 0.5)
            hint = f"did you mean {path + near[0]!r}?" if near else f"known here are {', '.join(sorted(fields))}"
            raise InputError(f"the recipe has no key {quoted(path + str(key))}; {hint}")
        _refuse_unknown(fields[key], value, f"{path}{key}.")


def _refuse_no_number(kind: Any, value: Any, recipe: str, path: str) -> None:
    """Refuse the first truth value or word where ``kind`` wants a number; pydantic would take ``true`` for 1."""
    fields, choices = _fields(kind), _choices(kind)
    if fields and isinstance(value, dict):
        for key, entry in value.items():
            _refuse_no_number(fields[key], entry, recipe, f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple):
        for choice in choices:
            kinds = get_args(choice) if get_origin(choice) is tuple else ()
            repeated = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
            for i, (one, entry) in enumerate(zip(repeated, value, strict=False)):
                _refuse_no_number(one, entry, recipe, f"{path}.{i}")
    elif {int, float} & choices and isinstance(value, bool | str):
        written = isinstance(value, str) and float in choices and EXPONENT.fullmatch(value)
        if not written and not {bool, str} & choices:
            wanted = "a valid number" if float in choices else "a whole number"
            raise InputError(f"{recipe}{path}: input should be {wanted} (found {quoted(value)})")


def _choices(kind: Any) -> set[Any]:
    """The types that an annotation allows."""
    if get_origin(kind) is Annotated:
        return _choices(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return set().union(*(_choices(one) for one in get_args(kind)))
    return {kind}


def _fields(kind: Any) -> dict[str, Any]:
    for one in _choices(kind):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return {name: field.annotation for name, field in one.model_fields.items()}
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            return {name: hint for name, hint in get_type_hints(one).items() if name in one.__dataclass_fields__}
    return {}


def _flat(data: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return flat
