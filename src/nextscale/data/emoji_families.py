"""Which emoji there are, which of them belong together, and on which side of the split they lie.

A *family* is everything that draws the same thing: all styles, skin tones, genders and hair colours of one emoji or
role, and emoji that differ only in colour, direction or a small detail. Families, never single images, are held out,
so a held-out image has no near copy among the training images. The split is computed from the whole of emojibase,
whatever styles are built: an emoji is on the same side in every build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nextscale.data.emoji_sources import PACKAGES, Package, fetch, plain_code_points, read_json

HELD_OUT_SHARE = 0.2
COMPONENT = "component"  # the emojibase group of bare skin tones and hair: no emoji of their own

_DROPPED = {
    *("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"),  # skin tones
    *("2640", "2642"),  # female sign, male sign
    *("1f9b0", "1f9b1", "1f9b2", "1f9b3"),  # red, curly, no, white hair
    "27a1",  # "facing right"
}
_PERSON = {"1f468": "1f9d1", "1f469": "1f9d1"}  # man, woman -> person

# Near copies that Unicode encodes as separate emoji. One line is one family; its first entry names it.
_NEAR_COPIES = """
1f9d1 1f471 1f9d4
1f9d2 1f466 1f467
1f9d3 1f474 1f475
1fac5 1f934 1f478
1f385 1f936 1f9d1-1f384
1f483 1f57a
1f930 1fac3 1fac4
1f931 1f9d1-1f37c
1f9d1-1f91d-1f9d1 1f46b 1f46c 1f46d
1f48f 1f9d1-2764-1f48b-1f9d1 1f491 1f9d1-2764-1f9d1
1f464 1f465
2764 1fa77 1f9e1 1f49b 1f49a 1f499 1fa75 1f49c 1f90e 1f5a4 1fa76 1f90d 2665
1f44d 1f44e
1f448 1f449 1f446 1f447
1f91b 1f91c
1faf1 1faf2
1faf7 1faf8
1f648 1f649 1f64a
1f311 1f312 1f313 1f314 1f315 1f316 1f317 1f318 1f534 1f7e0 1f7e1 1f7e2 1f535 1f7e3 1f7e4 26ab 26aa
1f7e5 1f7e7 1f7e8 1f7e9 1f7e6 1f7ea 1f7eb 2b1b 2b1c 25fc 25fb 25fe 25fd 25aa 25ab
1f536 1f537 1f538 1f539
1f53a 1f53b
1f533 1f532
1f4d5 1f4d7 1f4d8 1f4d9
1f507 1f508 1f509 1f50a
1f50d 1f50e
1f512 1f513
23f3 231b
1f30d 1f30e 1f30f
1f4eb 1f4ea 1f4ec 1f4ed
1f4c8 1f4c9
1f1fa-1f1f8 1f1fa-1f1f2
1f1e6-1f1fa 1f1ed-1f1f2
1f1ee-1f1e9 1f1f2-1f1e8
1f1f9-1f1e9 1f1f7-1f1f4
1f514 1f515
1f4e4 1f4e5
1f600 1f603 1f604 1f606
1f617 1f619 1f61a
1f642 1f610 1f611 1f615 1f641 2639
1f61b 1f61c 1f61d
1f62f 1f626 1f627
1f63a 1f638 1f431
270b 1f590
1f4ac 1f5e8
271d 2626
1f608 1f47f
2603 26c4
1f52f 2721
2753 2754
2757 2755
1f947 1f948 1f949 1f3c5
1f6b9 1f6ba
1f520 1f521
2b06 2b07 27a1 2b05 2195 2194
2196 2197 2198 2199
21a9 21aa
2934 2935
25b6 25c0 1f53c 1f53d 23f8 23f9 23fa
1f503 1f504
23e9 23ea 23eb 23ec
23ed 23ee 23ef
1f505 1f506
1f4bf 1f4c0
1f327 1f328
1f442 1f9bb
2709 1f4e7 1f4e8 1f4e9
1f1f3-1f1f4 1f1e7-1f1fb 1f1f8-1f1ef
1f1eb-1f1f7 1f1e8-1f1f5 1f1f2-1f1eb 1f1e7-1f1f1 1f1ec-1f1f5
1f1ee-1f1f4 1f1e9-1f1ec
1f192 1f193 1f195
"""
_CLOCKS = [f"{code:x}" for code in range(0x1F550, 0x1F568)]
_KEYCAPS = [*(f"{ord(sign):04x}-20e3" for sign in "1234567890#*"), "1f51f"]


def _first_of_line() -> dict[str, str]:
    table: dict[str, str] = {}
    for copies in [*map(str.split, _NEAR_COPIES.strip().split("\n")), _CLOCKS, _KEYCAPS]:
        for code_points in copies:
            assert code_points not in table, code_points
            table[code_points] = copies[0]
    return table


_SAME_AS = _first_of_line()


@dataclass(frozen=True)
class Emoji:
    """One emoji as emojibase knows it: a base emoji or a skin-tone variant of one."""

    hexcode: str
    character: str
    name: str
    keywords: tuple[str, ...]
    group: str
    class_name: str
    family: str
    split: str
    tones: tuple[int, ...]
    gender: str | None


def family_key(hexcode: str) -> str:
    """The family of a base emoji: code points in lower case, for instance ``1f9d1-1f52c`` for every scientist.

    Skin-tone variants belong to the family of the emoji they vary: ask with the base emoji's ``hexcode``.
    """
    parts = [part for part in hexcode.lower().split("-") if part not in ("200d", "fe0f")]
    kept = [_PERSON.get(part, part) for part in parts if part not in _DROPPED]
    if len(kept) > 1 and set(kept) <= {"1f9d1", "1f9d2", "1f466", "1f467"}:
        return "1f46a"  # every drawing of parents and children
    key = "-".join(kept or parts)  # the female, male and arrow signs are emoji of their own, too
    return _SAME_AS.get(key, key)


def split_families(class_of_family: Mapping[str, str]) -> dict[str, str]:
    """Decide for each family whether it is in the split ``train`` or ``heldout``.

    About a fifth of the families of each class is held out, the first in the order of a hash of their keys; a class of
    one or two families is held out nowhere, so every class keeps something to learn from.

    Args:
        class_of_family: the class each family is counted in.
    """
    by_class: dict[str, list[str]] = {}
    for family, class_name in class_of_family.items():
        by_class.setdefault(class_name, []).append(family)
    split = {}
    for families in by_class.values():
        ordered = sorted(families, key=_stable_hash)
        held_out = int(HELD_OUT_SHARE * len(families) + 0.5)
        for i, family in enumerate(ordered):
            split[family] = "heldout" if i < held_out else "train"
    return split


def _stable_hash(family: str) -> str:
    return hashlib.sha256(f"nextscale emoji split: {family}".encode()).hexdigest()


def read_emojibase(packages: Mapping[str, Package] = PACKAGES) -> list[Emoji]:
    """All emoji of emojibase in its order, each base emoji followed by its skin-tone variants, with their split.

    Left out: components (bare skin tones and hair) and regional indicators, which emojibase puts in no group.

    Raises:
        InputError: as ``fetch`` and ``read_json``.
    """
    entries, named = read_json(fetch(packages["emojibase"]), "en/data.json", "meta/groups.json")
    groups, subgroups = named["groups"], named["subgroups"]
    bases = [entry for entry in entries if "group" in entry and groups[str(entry["group"])] != COMPONENT]
    bases.sort(key=lambda entry: int(entry["order"]))
    class_of_family: dict[str, str] = {}
    for base in bases:
        class_of_family.setdefault(family_key(base["hexcode"]), subgroups[str(base["subgroup"])])
    split = split_families(class_of_family)
    found = []
    for base in bases:
        family = family_key(base["hexcode"])
        for entry in (base, *base.get("skins", ())):
            tone = entry.get("tone", ())
            found.append(
                Emoji(
                    hexcode=plain_code_points(entry["hexcode"]),
                    character=entry["emoji"],
                    name=entry["label"],
                    keywords=tuple(base.get("tags", ())),
                    group=groups[str(base["group"])],
                    class_name=subgroups[str(base["subgroup"])],
                    family=family,
                    split=split[family],
                    tones=(tone,) if isinstance(tone, int) else tuple(tone),
                    gender=_gender(base),
                )
            )
    return found


def _gender(base: Mapping[str, Any]) -> str | None:
    """``female`` or ``male`` where the emoji says so: by emojibase's field, or by one woman or man among its parts."""
    if "gender" in base:
        return ("female", "male")[int(base["gender"])]
    people = [part for part in base["hexcode"].lower().split("-") if part in ("1f469", "1f468")]
    return {"1f469": "female", "1f468": "male"}[people[0]] if len(people) == 1 else None


def rules_hash() -> str:
    """A fingerprint of the tables above: builds made under different family rules are different builds."""
    rules = repr((sorted(_SAME_AS.items()), sorted(_DROPPED), sorted(_PERSON.items()), HELD_OUT_SHARE))
    return hashlib.sha256(rules.encode()).hexdigest()
