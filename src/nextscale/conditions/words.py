"""Plain English words find a class: by the names of classes, and by names and keywords of what they are made of.

Words are taken as a person means them: in lower case, singular, without accents.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from nextscale.conditions.base import UNCONDITIONAL
from nextscale.errors import InputError, quoted

_OTHER_CLASSES = 3  # alternatives named beside the class that was taken

# Words that say nothing about what is in a picture.
_PREPOSITIONS = frozenset({"at", "for", "in", "of", "on", "to", "with"})
_EMPTY_WORDS = _PREPOSITIONS | {"a", "an", "and", "one", "some", "the", "picture", "photo", "image", "drawing", "emoji"}
_IRREGULAR = {
    "buses": "bus",
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "wolves": "wolf",
    "leaves": "leaf",
    "knives": "knife",
}


def words_of(text: str) -> list[str]:
    """Words in lower case, singular and without accents: ``"Piñatas & cats"`` -> ``["pinata", "cat"]``."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return [_singular(word) for word in re.findall(r"[^\W_]+|[#*]", plain)]


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 5 and word.endswith(("sses", "xes", "ches", "shes", "toes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def slips(word: str, other: str) -> int:
    """Letters to add, leave out, exchange or swap with their neighbour until one word is the other."""
    before, last = list[int](), list(range(len(other) + 1))
    for i, a in enumerate(word):
        row = [i + 1]
        for j, b in enumerate(other):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (a != b)))
            if i and j and a == other[j - 1] and word[i - 1] == b:
                row[-1] = min(row[-1], before[j - 1] + 1)
        before, last = last, row
    return last[-1]


def telling(spoken: Sequence[str]) -> list[str]:
    """The different words that say something, in their order; all of them if none does."""
    found = [word for word in dict.fromkeys(spoken) if word not in _EMPTY_WORDS]
    return found or list(dict.fromkeys(spoken))


def noun(spoken: Sequence[str]) -> str:
    """The word English makes the thing itself: the last before a preposition, else the last of all."""
    saying = telling(spoken)
    cut = next((i for i, word in enumerate(spoken) if word in _PREPOSITIONS), len(spoken))
    before = [word for word in spoken[:cut] if word in saying]
    return before[-1] if before else saying[-1]


@dataclass(frozen=True)
class Thing:
    """One thing a class is made of (an emoji): its name, its class, and words people may call it by."""

    name: str
    class_id: int
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """What a name or plain words were taken for; ``reason`` is a phrase for people, ``alternatives`` are other class
    names; ``named``: the class was called by its name, so nothing need be said. ``class_id`` is None for no class.
    """

    class_name: str
    class_id: int | None
    reason: str
    alternatives: tuple[str, ...] = ()
    named: bool = False


class Finder:
    """Finds classes, by their names and by the things that they are made of."""

    def __init__(self, names: Sequence[str], things: Sequence[Thing]) -> None:
        self._names, self._things = names, things
        known = [_entry(thing.name, thing.class_id, thing.keywords) for thing in things]
        self._index = (*known, *(_entry(name, class_id, ()) for class_id, name in enumerate(names)))
        self._frequency = Counter(word for entry in self._index for word in entry.name_words | entry.keyword_words)
        backwards = list(enumerate(names))[::-1]  # so that the first of equal ones stays
        self._numbers = {name: i for i, name in enumerate(names)}
        self._composed = {unicodedata.normalize("NFC", name): i for i, name in backwards}
        self._folded = {name.casefold(): name for _, name in backwards}

    def named(self, text: str) -> int | None:
        """The class of this name, in whatever Unicode form it is written."""
        return self._numbers.get(text, self._composed.get(unicodedata.normalize("NFC", text)))

    def near_name(self, text: str, cutoff: float) -> str | None:
        """The class whose name is the nearest to a text, if it is near."""
        near = difflib.get_close_matches(text.casefold(), self._folded, n=1, cutoff=cutoff)
        return self._folded[near[0]] if near else None

    def suggestion(self, text: str) -> str:
        """What to say of a text that names no class."""
        near = self.near_name(text[:200], 0.5)
        some = f"one of {len(self._names)} names such as {self._names[0]!r}"
        return f"did you mean {near!r}?" if near else f"expected {some}"

    def find(self, words: str) -> Match:
        """The class that plain words mean.

        Tried in turn: the name of a class; the name of a thing; "unconditional", which is no class; the thing (or class
        name) in whose name and keywords the largest part of the words is found, where a rare word weighs more than a
        common one, and the noun ("car" in "a fast car", "tree" in "tree with snow") counts twice. Ties go to the thing
        with more of the words in its name, then to the one that comes first.

        Raises ``InputError`` if no word is known (with the nearest known word), or there is no word at all.
        """
        spoken = words_of(words)
        if not spoken:
            raise InputError(
                f"{quoted(words)} holds no word; expected a class name or plain words such as 'grinning cat'"
            )
        ranking, called_so = self._ranking(spoken), self.named(words.strip())
        same = [i for i, name in enumerate(self._names) if words_of(name) in (spoken, telling(spoken))]
        if called_so is not None or same:
            class_id = same[0] if called_so is None else called_so
            return replace(self._match(class_id, f"the class {self._names[class_id]!r}", ranking), named=True)
        called = [thing for thing in self._things if words_of(thing.name) == spoken]
        if called:  # "house" is rather the house than the houses
            thing = min(called, key=lambda thing: thing.name.lower() != words.strip().lower())
            return self._match(thing.class_id, f"the name {thing.name!r}", ranking)
        if words.strip().casefold() == UNCONDITIONAL:
            return Match(UNCONDITIONAL, None, "the picture of no class", named=True)
        if not ranking:
            near = self.near_word(words)
            other = f"try another word, or one of the {len(self._names)} class names such as {self._names[0]!r}"
            raise InputError(f"no class is known for {quoted(words)}; {f'did you mean {near!r}?' if near else other}")
        return self._match(ranking[0].class_id, self._because(ranking[0], spoken), ranking)

    def knows(self, words: str) -> bool:
        """Whether all that say something are known."""
        return all(word in self._frequency for word in telling(words_of(words)))

    def near_word(self, words: str) -> str | None:
        """The known word that the fewest slips of the finger make of an unknown one, words of names first."""
        named = {word for entry in self._index for word in entry.name_words}
        for known in (named, self._frequency.keys() - named):
            for word in telling(words_of(words)):
                far = {other: slips(word, other) for other in known if abs(len(word) - len(other)) <= 2}
                near = [other for other, count in far.items() if count <= (len(word) + 1) // 4]
                if near:
                    return min(near, key=lambda other: (far[other], sorted(word) != sorted(other), other))
        return None

    def _ranking(self, spoken: Sequence[str]) -> list[_Entry]:
        """All entries that know one of the words, the best first."""
        weights = {word: math.log(1 + len(self._index) / max(1, self._frequency[word])) for word in telling(spoken)}
        weights[noun(spoken)] *= 2
        scored = []
        for order, entry in enumerate(self._index):
            in_name = sum(weight for word, weight in weights.items() if word in entry.name_words)
            in_keywords = sum(weight for word, weight in weights.items() if word in entry.keyword_words)
            if in_name + in_keywords > 0:
                spare = len(entry.name_words.difference(weights))
                scored.append(((-in_name - in_keywords, -in_name, spare, order), entry))
        return [entry for _, entry in sorted(scored, key=lambda pair: pair[0])]

    def _because(self, entry: _Entry, spoken: Sequence[str]) -> str:
        named = [repr(word) for word in telling(spoken) if word in entry.name_words]
        hinted = [repr(word) for word in telling(spoken) if word in entry.keyword_words]
        kind = "class" if entry.name in self._names else "name"
        reasons = [f"{' and '.join(named)} in the {kind} {entry.name!r}"] if named else []
        if hinted:
            whose = "its keywords" if named else f"the keywords of {entry.name!r}"
            reasons.append(f"{' and '.join(hinted)} in {whose}")
        return ", ".join(reasons)

    def _match(self, class_id: int, reason: str, ranking: Sequence[_Entry]) -> Match:
        others = dict.fromkeys(self._names[entry.class_id] for entry in ranking if entry.class_id != class_id)
        return Match(self._names[class_id], class_id, reason, tuple(others)[:_OTHER_CLASSES])


@dataclass(frozen=True)
class _Entry:
    """The words of a thing or of a class name; no word is in both sets."""

    name: str
    class_id: int
    name_words: frozenset[str]
    keyword_words: frozenset[str]


def _entry(name: str, class_id: int, keywords: Iterable[str]) -> _Entry:
    named = frozenset(words_of(name))
    more = frozenset(word for keyword in keywords for word in words_of(keyword))
    return _Entry(name, class_id, named, more - named)
