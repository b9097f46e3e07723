"""What a picture says of itself: the recipe in its metadata, read and checked, as the arguments of a call.

A picture may come from anybody, so nothing in it is trusted: every value has its type and bounds before it is used,
and the model that it names is looked for by nobody here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.errors import InputError, NextscaleError, PlanError, quoted
from nextscale.pictures import read_recipe
from nextscale.plan import Plan


@dataclass(frozen=True)
class Recipe:
    """Of one picture or of a page of several; ``class_labels``, ``styles`` and ``seeds`` have one entry per picture.

    A class or style of None is a picture of no class. styles: None where the model has none; revision: of the model,
    None where it was not noted.
    """

    model: str
    revision: str | None
    dtype: str
    class_labels: list[str | None]
    styles: list[str | None] | None
    seeds: list[int]
    plan: Plan

    @classmethod
    def read(cls, picture: Path | str) -> Recipe:
        """The recipe that a PNG carries. Raises ``InputError`` where it carries none that can be repeated."""
        return cls.from_dict(read_recipe(picture), f"the recipe in {picture}")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], name: str = "the recipe") -> Recipe:
        """Check what ``GenerationResult.recipe`` or ``recipe_of`` gave. name: what to call it in a sentence.

        Raises ``InputError`` for what is missing, misshapen or not repeatable.
        """
        lists = dict(data)
        for one, several in (("class_label", "class_labels"), ("seed", "seeds"), ("style", "styles")):
            lists |= {several: [lists[one]]} if one in lists else {}
        missing = [key for key in ("model", "dtype", "class_labels", "seeds", "plan") if key not in lists]
        if missing:
            raise InputError(f"{name} has no {missing[0]!r}; expected one that nextscale generate wrote")
        for key in ("model", "dtype"):
            if not isinstance(lists[key], str):
                raise InputError(f"{name} has the {key} {quoted(lists[key])}; expected a name")
        if "not_repeatable" in lists:
            raise InputError(f"{name} cannot be repeated: {quoted(lists['not_repeatable'])}")
        labels, seeds, styles = lists["class_labels"], lists["seeds"], lists.get("styles")
        _check_list(name, "labels", labels, "names", _is_name)
        _check_list(name, "seeds", seeds, "whole numbers from 0 to 2^63 - 1", _is_seed)
        if "styles" in lists:
            _check_list(name, "styles", styles, "names", _is_name)
        if not len(labels) == len(seeds) == len(styles or labels):
            raise InputError(
                f"{name} has {len(labels)} labels, {len(seeds)} seeds and {len(styles or ())} styles; expected one of "
                "each per picture"
            )
        revision = lists.get("revision")
        if not isinstance(revision, str | None):
            raise InputError(f"{name} has the revision {quoted(revision)}; expected a name")
        return cls(lists["model"], revision, lists["dtype"], labels, styles, seeds, _plan(name, lists["plan"]))

    def arguments(self, model: str, revision: str, dtype: str) -> dict[str, Any]:
        """The arguments of the call that repeats it, by a pipeline of this name and revision in this number type.

        Raises ``InputError`` if another model drew the picture, and warns where the new one will differ.
        """
        if self.revision != revision:
            if self.model != model:
                raise InputError(
                    f"the picture was drawn by {self.model}, and this is {model}; expected the model that drew it"
                )
            warnings.warn(
                f"the picture was drawn by revision {self.revision} of {self.model}; this is {revision}, so the new "
                "one will differ",
                stacklevel=3,
            )
        elif self.dtype != dtype:
            warnings.warn(
                f"the picture was drawn in {self.dtype}, and this is {dtype}, so the new one may differ", stacklevel=3
            )
        return {"class_labels": self.class_labels, "style": self.styles, "seed": self.seeds, "plan": self.plan}


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
