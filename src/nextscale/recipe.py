"""What a picture says of itself: the recipe in its metadata, read and checked, as the arguments of a call.

A picture may come from anybody, so nothing in it is trusted: every value has its type and bounds before it is used,
and the model that it names is looked for by nobody here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nextscale import __version__
from nextscale.conditions.base import UNCONDITIONAL, Conditioner, Entry
from nextscale.errors import InputError, NextscaleError, PlanError, quoted, warn_user
from nextscale.pictures import read_recipe
from nextscale.plan import Plan

FORMAT = 2
PER_IMAGE = {"entries": "entry", "seeds": "seed"}
"""The lists of a recipe, one entry per image, and what an entry is called in the recipe of one image."""
ASKED = ("class_labels", "prompt", "negative_prompt", "style", "image")
"""The arguments of a call that say what a picture shows."""
EDIT = {"image", "mask_image", "box", "outpaint", "rule", "blank", "paste", "refine_image", "start_scale"}
"""What a recipe says of a picture that was edited; pictures by their digests."""


@dataclass(frozen=True)
class Recipe:
    """Of one picture or of a page of several. entries, seeds: one per picture; revision: of the model, None where it
    was not noted; edit: the digest of the picture that was edited, and the arguments of ``Pipeline.edit`` that say
    where and how; None where nothing was edited; enlarge: by how much pictures were enlarged; parts: digests of what
    was handed over beside the plan, by name.
    """

    model: str
    revision: str | None
    dtype: str
    entries: list[Entry]
    seeds: list[int]
    plan: Plan
    edit: Mapping[str, Any] | None = None
    enlarge: int = 1
    parts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, picture: Path | str) -> Recipe:
        """The recipe that a PNG carries. Raises ``InputError`` where it carries none that can be repeated."""
        return cls.from_dict(read_recipe(picture), f"the recipe in {picture}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "the recipe") -> Recipe:
        """Check what ``GenerationResult.recipe`` or ``recipe_of`` gave. name: what to call it in a sentence.

        Raises ``InputError`` for what is missing, misshapen or not repeatable.
        """
        lists = _listed(_upgraded(data, name), PER_IMAGE)
        missing = [key for key in ("model", "dtype", "entries", "seeds", "plan") if key not in lists]
        if missing:
            raise InputError(f"{name} has no {missing[0]!r}; expected one that nextscale generate wrote")
        for key in ("model", "dtype"):
            if not isinstance(lists[key], str):
                raise InputError(f"{name} has the {key} {quoted(lists[key])}; expected a name")
        if "not_repeatable" in lists:
            raise InputError(f"{name} cannot be repeated: {quoted(lists['not_repeatable'])}")
        entries, seeds = lists["entries"], lists["seeds"]
        _check_list(name, "entries", entries, "tables", lambda entry: isinstance(entry, dict))
        _check_list(name, "seeds", seeds, "whole numbers from 0 to 2^63 - 1", _is_seed)
        _check_lengths(name, entries=entries, seeds=seeds)
        revision = lists.get("revision")
        if not isinstance(revision, str | None):
            raise InputError(f"{name} has the revision {quoted(revision)}; expected a name")
        edit = lists.get("edit")
        if edit is not None and not (isinstance(edit, dict) and set(edit) <= EDIT and "image" in edit):
            raise InputError(f"{name} has the edit {quoted(edit)}; expected a table of {', '.join(sorted(EDIT))}")
        enlarge = lists.get("enlarge", 1)
        if type(enlarge) is not int or enlarge < 1:
            raise InputError(f"{name} has the enlargement {quoted(enlarge)}; expected a whole number of at least 1")
        parts = lists.get("parts", {})
        if not isinstance(parts, dict) or not all(isinstance(one, str) for one in parts.values()):
            raise InputError(f"{name} has the parts {quoted(parts)}; expected a table of digests")
        plan = _plan(name, lists["plan"])
        return cls(lists["model"], revision, lists["dtype"], entries, seeds, plan, edit, enlarge, parts)

    def check_parts(self, parts: Mapping[str, Any]) -> None:
        """Raises ``InputError`` unless these are the parts that the picture was drawn with."""
        for name in {**self.parts, **parts}:
            digest, expected = getattr(parts.get(name), "digest", None), self.parts.get(name)
            if expected is None:
                raise InputError(f"a part {quoted(name)} was given, and the picture was drawn without; leave it out")
            if name not in parts:
                raise InputError(
                    f"the picture was drawn with a part {quoted(name)} of the digest {expected[:12]}; expected it: "
                    f"pipe.repeat(picture, parts={{{quoted(name)}: ...}}), or nextscale generate --like PICTURE "
                    "--calibration FILE"
                )
            if digest != expected:
                said = "no digest" if digest is None else f"the digest {digest[:12]}"
                raise InputError(f"the part {quoted(name)} has {said}; expected that of the picture, {expected[:12]}")

    def arguments(
        self, conditioner: Conditioner, model: str, revision: str, dtype: str, parts: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The arguments of the call that repeats it, by a pipeline of this name and revision in this number type.
        parts: what the recipe names by a digest.

        Where the plan gives several pictures per prompt, a page asks for every prompt once; one picture of it gives all
        of its prompt. Raises ``InputError`` if another model drew the picture, and warns where the new one will differ.
        """
        self.check_parts(parts or {})
        if self.revision != revision:
            if self.model != model:
                raise InputError(
                    f"the picture was drawn by {self.model}, and this is {model}; expected the model that drew it"
                )
            warn_user(
                f"the picture was drawn by revision {self.revision} of {self.model}; this is {revision}, so the new "
                "one will differ"
            )
        elif self.dtype != dtype:
            warn_user(f"the picture was drawn in {self.dtype}, and this is {dtype}, so the new one may differ")
        each = self.plan.alive[-1]
        step = each if len(self.seeds) % each == 0 else 1
        seeds, asked = self.seeds[::step], dict[str, Any](conditioner.arguments(self.entries[::step]))
        for name in asked.keys() - set(ASKED):
            raise InputError(f"the picture's entry has {quoted(name)}; expected some of {', '.join(ASKED)}")
        asked = asked or {"num_images": len(seeds)}  # a plan that draws without a condition
        return {**asked, "seed": seeds, "plan": self.plan} | ({"parts": dict(parts)} if parts else {})


def write_recipe(plan: Plan, not_repeatable: str, **about: Any) -> dict[str, Any]:
    """What ``Recipe.from_dict`` reads. about: its further entries, by name; not_repeatable: why, where it is not."""
    recipe = {"format": FORMAT, "nextscale": __version__, "torch": torch.__version__, **about, "plan": plan.to_dict()}
    return recipe | ({"not_repeatable": not_repeatable} if not_repeatable else {})


def recipe_of(recipe: Mapping[str, Any], i: int) -> dict[str, Any]:
    """The recipe of image ``i`` alone, out of that of several."""
    return {PER_IMAGE.get(key, key): value[i] if key in PER_IMAGE else value for key, value in recipe.items()}


def shown(recipe: Mapping[str, Any]) -> dict[str, str]:
    """What the picture of a recipe shows, such as its class and style, or that it shows nothing in particular; not what
    guidance led it away from.
    """
    entry = recipe["entry"]
    named = {name: str(value) for name, value in entry.items() if value not in (None, "") and name != "negative_prompt"}
    return named or {next(iter(entry), "picture"): UNCONDITIONAL}


def _listed(recipe: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A recipe of one image as one of several."""
    return dict(recipe) | {several: [recipe[one]] for several, one in names.items() if one in recipe}


def _upgraded(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What versions before wrote, as this one writes it: recipes without a format had labels, and styles where the
    model has some.
    """
    found = dict(data)
    version = found.get("format", 1)
    if type(version) is not int or version not in (1, FORMAT):
        raise InputError(f"{name} has the format {quoted(version)}; this version reads 1 and {FORMAT}")
    found = _listed(found, {"class_labels": "class_label", "styles": "style", "seeds": "seed"})
    if version == FORMAT or "class_labels" not in found:
        return found
    labels = found["class_labels"]
    _check_list(name, "labels", labels, "names", _is_name)
    entries = [{"class": label} for label in labels]
    if "styles" in found:
        styles = found["styles"]
        _check_list(name, "styles", styles, "names", _is_name)
        _check_lengths(name, labels=labels, styles=styles)
        entries = [entry | {"style": style} for entry, style in zip(entries, styles, strict=True)]
    return found | {"entries": entries}


def _check_lengths(name: str, **lists: list[Any]) -> None:
    if len({len(one) for one in lists.values()}) > 1:
        counts = " and ".join(f"{len(one)} {what}" for what, one in lists.items())
        raise InputError(f"{name} has {counts}; expected one of each per picture")


def _check_list(name: str, what: str, found: Any, expected: str, good: Callable[[Any], bool]) -> None:
    if not isinstance(found, list) or not found or not all(map(good, found)):
        raise InputError(f"{name} has the {what} {quoted(found)}; expected a list of {expected}, one per picture")


def _is_name(value: Any) -> bool:
    return isinstance(value, str | None)


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _plan(name: str, data: Any) -> Plan:
    """Whatever is wrong with a plan, it ends in a sentence."""
    try:
        return Plan.from_dict(data)
    except PlanError as error:
        raise PlanError(f"{name} has a plan that cannot be carried out: {error}") from error
    except NextscaleError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(
            f"{name} has a plan that cannot be read ({error}); expected one that nextscale wrote"
        ) from error
