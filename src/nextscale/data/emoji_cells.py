"""Which drawings of an emoji set a text model is not trained on.

Two things are held out. A *cell* is a family in one style, with all its skin tones and near copies: the model knows the
emoji from other styles and the style from other emoji, and has to put the two together. A *held-out family* is a
family in all styles. Both hang on hashes of families alone, so they are the same in every build:

- Of the families that class models are trained on and that all styles of the set draw, a fifth loses one of the five
  styles. The two Fluent styles are the same drawings, so who loses one of them loses both.
- Of the families that are held out for class models, a quarter stays held out. The rest is trained on.
- Country flags are trained on, all of them: at 64 pixels they are not legible, and nothing is asked of them.

A set of fewer styles holds out what the whole set holds out of these styles, and perhaps more: families that its styles
draw and others do not count, too. Where a family has no style left, it is a held-out family rather than a cell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nextscale.data.emoji import STYLES
from nextscale.data.sides import hash_of

CELLS = 0.2
"""The share of trained families that lose a style."""
FAMILIES = 0.25
"""The share of families held out for class models that are held out for text models, too."""
_FLUENT = frozenset(("fluent-emoji-flat", "fluent-emoji"))
_FLAGS = ("country-flag", "subdivision-flag")


def is_flag(record: Mapping[str, Any]) -> bool:
    """Whether a record of ``read_metadata`` is the flag of a country or of a part of one."""
    return record["class"] in _FLAGS


def lost_styles(family: str) -> frozenset[str]:
    """The styles that are held out of a trained family which all styles draw: none, one, or both Fluent ones."""
    if not _chosen("cell", family, CELLS):
        return frozenset()
    style = STYLES[hash_of(f"nextscale emoji style: {family}") % len(STYLES)]
    return _FLUENT if style in _FLUENT else frozenset((style,))


def sides(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The side of each image of a whole set for a text model: ``train``, ``cell`` or ``family``.

    records: as ``read_metadata`` reads them, all of them: which styles draw a family decides, too.
    """
    drawn: dict[str, set[str]] = {}
    for record in records:
        drawn.setdefault(record["family"], set()).add(record["style"])
    styles = set().union(*drawn.values())
    return [_side(record, drawn[record["family"]], styles) for record in records]


def _side(record: Mapping[str, Any], drawn: set[str], styles: set[str]) -> str:
    family, lost = record["family"], lost_styles(record["family"])
    if is_flag(record):
        return "train"
    if record["split"] == "heldout":
        return "family" if _chosen("family", family, FAMILIES) else "train"
    if record["style"] not in lost or drawn != styles:
        return "train"
    return "cell" if drawn - lost else "family"


def held_out(records: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What is held out of a whole set, for cards: ``cells`` and ``families``, in the order of a hash of the family.

    Each has the ``family``, the ``name`` of its first emoji, its ``styles`` here, and the number of its ``images``.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {"cell": {}, "family": {}}
    for record, side in zip(records, sides(records), strict=True):
        if side != "train":
            one = {"family": record["family"], "name": record["name"], "styles": [], "images": 0}
            one = found[side].setdefault(record["family"], one)
            one["styles"] += [record["style"]] if record["style"] not in one["styles"] else []
            one["images"] += 1
    cells, families = ([ones[key] for key in sorted(ones, key=_order)] for ones in found.values())
    return {"cells": cells, "families": families}


def _chosen(what: str, family: str, share: float) -> bool:
    return hash_of(f"nextscale emoji {what}: {family}") < share * 2**64


def _order(family: str) -> int:
    return hash_of(f"nextscale emoji order: {family}")
