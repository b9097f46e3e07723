"""On which side images lie, to train on or held out: by names of folders and shards, else by a hash of each path."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping

from nextscale.errors import InputError

TRAIN = ("train", "training")
_WORDS = {
    "train": TRAIN,
    "heldout": (
        *("val", "valid", "validation", "dev", "devel", "development", "eval", "evaluation"),
        *("heldout", "holdout", "test", "testing"),
    ),
}
_TEST = ("test", "testing")  # left alone beside another one: there ImageNet has images without labels
_SIDE = {word: side for side, words in _WORDS.items() for word in words}
_FILLER = ("set", "data", "split", "images", "imgs")
_USUAL = re.compile(rf"({'|'.join(_SIDE)})(?:{'|'.join(_FILLER)})?(?:\d{{4}})?")


def side_word(name: str) -> str | None:
    """The word for a side that ``name`` is, whatever its case and ending (``Train``, ``val2014``, ``dev_set``,
    ``held-out``); None for any other name.
    """
    usual = _USUAL.fullmatch(re.sub(r"[-_ .]", "", name.casefold()))
    return None if usual is None else usual[1]


def words_for_sides(name: str) -> list[str]:
    """All words for a side within ``name``: ``["val"]`` for ``imagenet-val-000`` and for ``valA``."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return [part.lower() for part in parts if part.lower() in _SIDE]


def sides_of(names: Collection[str], where: str) -> dict[str, str]:
    """The side, ``train`` or ``heldout``, that each of ``names`` is; without those that are none. Empty unless there
    are both sides.

    ``test`` is left alone where there is another held-out one.

    Raises:
        InputError: several could be one side.
    """
    found = {name: word for name in sorted(names) if (word := side_word(name)) is not None}
    train = [name for name, word in found.items() if _SIDE[word] == "train"]
    held_out = [name for name, word in found.items() if _SIDE[word] == "heldout"]
    other = [name for name in held_out if found[name] not in _TEST]
    held_out = other or held_out
    if not train or not held_out:
        return {}
    for side, several, beside in (("images to train on", train, held_out), ("held-out images", held_out, train)):
        if len(several) > 1:
            raise InputError(
                f"{where} holds {', '.join(several)} beside {', '.join(beside)}; expected one folder of {side}: "
                "move the others elsewhere"
            )
    return {train[0]: "train", held_out[0]: "heldout"}


def check_no_split(folders: Mapping[str, Collection[str]], where: str) -> None:
    """Refuse to read as classes what looks like a split under names that are not understood.

    folders: the folders of a set, each with the names of the folders in it.

    Raises:
        InputError: all names speak of sides; or two hold folders of the same name, and the name of one speaks of a
            side; or one holds both sides.
    """
    spoken = {_SIDE[word] for name in folders for word in words_for_sides(name)}
    if all(map(words_for_sides, folders)) and len(spoken) == 2:
        raise InputError(
            f"{where} holds the folders {', '.join(sorted(folders)[:5])}, which look like a split; expected names that "
            "are understood: rename two of them to train and val, and move others elsewhere"
        )
    for name in folders:
        for other in folders if words_for_sides(name) else ():
            shared = sorted(set(folders[name]) & set(folders[other]))
            if other != name and shared:
                raise InputError(
                    f"{where} holds the folders {name} and {other}, which look like a split, as both hold "
                    f"{', '.join(shared[:3])}; expected names that are understood: rename them to train and val, or "
                    "move one of them elsewhere"
                )
            if other in folders[name]:
                raise InputError(
                    f"{where} holds {other}, and {name} holds {other} again, so that {name} looks like a split; "
                    "expected two folders train and val, with the classes in each"
                )
    for name, inside in folders.items():
        sides = sides_of(inside, f"{where}/{name}")
        if sides:
            train, held_out = sides
            raise InputError(
                f"{where}/{name} holds {train} and {held_out}, which look like a split inside of a class or of a "
                f"folder around the set; expected the split outside, {train}/{name} and {held_out}/{name}, or the "
                f"folder {where}/{name} itself"
            )


def hash_of(name: str) -> int:
    """A number below 2**64 that ``name`` alone decides."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def side_of(name: str, held_out: float) -> str:
    """``heldout`` for a share of all names, chosen by their hash; adding other images moves none."""
    return "heldout" if hash_of(name) < held_out * 2**64 else "train"


def split_by_hash(share: float) -> str:
    """How images are split where no folders say so, for people."""
    return f"{share:.0%} are held out, chosen by a hash of their paths"
