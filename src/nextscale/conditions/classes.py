"""Class labels: ids, names, plain words that find a class, and styles.

A class-conditional model knows its labels as integers. A ``ClassVocabulary`` travels with it and turns what people
write into those integers: a class name as it is ("animal-mammal"), or words ("grinning cat"), looked up in the names
and keywords of the things the classes are made of. Where the same things were drawn in several styles, class and style
together are the label.
"""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from nextscale.errors import CheckpointError, InputError, quoted
from nextscale.settings import typed

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
_OTHER_CLASSES = 3  # alternatives named beside the class that was taken


@dataclass(frozen=True)
class Thing:
    """One thing a class is made of (an emoji): its name, its class, and words people may call it by."""

    name: str
    class_id: int
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class Match:
    """What plain words were taken for; ``reason`` is a phrase for people, ``alternatives`` are other class names."""

    class_name: str
    class_id: int
    reason: str
    alternatives: tuple[str, ...]


@dataclass(frozen=True)
class ClassVocabulary:
    """The classes of a model in the order of their ids, the things they are made of, and the styles they come in.

    ``styles`` is empty where a model knows no styles. Its length is the number of labels a model has: every class in
    every style. ``missing`` are the pairs (style, class) that no training image showed.

    >>> vocabulary = ClassVocabulary(("cat-face", "animal-bird"), (Thing("grinning cat", 0, ("smile",)),))
    >>> vocabulary.ids(["animal-bird", 0])
    [1, 0]
    >>> vocabulary.find("a smiling cat").class_name
    'cat-face'
    """

    names: tuple[str, ...]
    things: tuple[Thing, ...] = ()
    styles: tuple[str, ...] = ()
    missing: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        for kind, names in (("class names", self.names), ("styles", self.styles)):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            if repeated:
                raise InputError(f"a vocabulary needs {kind} that differ, and got {repeated[0]!r} twice")
        if not self.names:
            raise InputError("a vocabulary needs class names that differ, and got none")
        for thing in self.things:
            if not 0 <= thing.class_id < len(self.names):
                raise InputError(f"{thing.name!r} has class {thing.class_id}; expected 0 to {len(self.names) - 1}")
        for style, name in self.missing:
            if style not in self.styles or name not in self.names:
                raise InputError(f"{name!r} is said to be missing in {style!r}, but that is no class in a style")

    def __len__(self) -> int:
        return len(self.names) * max(1, len(self.styles))

    def labels(self, class_ids: Tensor, style_ids: Tensor) -> Tensor:
        """A model's labels (N,) int64: style * number of classes + class, so that without styles it is the class.

        class_ids, style_ids: (N,) int64; style ids are 0 where there are no styles.
        """
        labels = style_ids * len(self.names) + class_ids
        # One more would be the null class, which a model takes without complaint.
        assert not len(labels) or int(labels.max()) < len(self), f"a label of {int(labels.max())} among {len(self)}"
        return labels

    def styles_of(self, class_id: int) -> list[str]:
        """The styles that a class was seen in while the model was trained; all of them where it was seen in none."""
        seen = [style for style in self.styles if (style, self.names[class_id]) not in self.missing]
        return seen or list(self.styles)

    @classmethod
    def from_records(
        cls, names: Sequence[str], records: Iterable[Mapping[str, Any]], styles: Sequence[str] = ()
    ) -> ClassVocabulary:
        """Build a vocabulary from the lines of an emoji set's ``metadata.jsonl``.

        Args:
            names: the classes in the order of their ids.
            records: mappings with ``name``, ``class``, ``keywords``, ``tones`` and perhaps ``gender``, in the order
                ties are decided by.
                Skin-tone variants and further styles of the same name are left out.
            styles: the styles in the order of their ids; a set of one style has this one, an image folder has none.
        """
        number = {name: i for i, name in enumerate(names)}
        things: dict[str, Thing] = {}
        for record in records:
            name = str(record["name"])
            if record["tones"] or name in things or record["class"] not in number:
                continue
            known = set(_words(name))
            more = [*record["keywords"], *filter(None, [record.get("gender")])]
            keywords = tuple(word for word in more if not known.issuperset(_words(word)))
            things[name] = Thing(name, number[record["class"]], keywords)
        return cls(tuple(names), tuple(things.values()), tuple(styles))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; ``from_dict`` reads it back. A thing is ``[name, class id, "keyword|keyword"]``."""
        things = [[thing.name, thing.class_id, "|".join(thing.keywords)] for thing in self.things]
        missing = [list(pair) for pair in sorted(self.missing)]
        return {"names": list(self.names), "styles": list(self.styles), "missing": missing, "things": things}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClassVocabulary:
        """Read what ``to_dict`` wrote, also before there were styles.

        Raises:
            CheckpointError: the data is something else.
        """
        known = {"names", "styles", "missing", "things"}
        if not isinstance(data, Mapping) or set(data) - known or "names" not in data:
            seen = f"the keys {quoted(sorted(data))}" if isinstance(data, Mapping) else type(data).__name__
            raise CheckpointError(f"a vocabulary is {seen}; expected names, styles, missing and things")
        try:
            names, styles = (typed(data.get(key, ()), tuple[str, ...], key) for key in ("names", "styles"))
            missing = typed(data.get("missing", ()), tuple[tuple[str, str], ...], "missing")
            things = [
                Thing(name, class_id, tuple(words.split("|")) if words else ())
                for name, class_id, words in typed(data.get("things", ()), tuple[tuple[str, int, str], ...], "things")
            ]
            return cls(names, tuple(things), styles, frozenset(missing))
        except InputError as error:
            raise CheckpointError(
                f"a vocabulary is damaged: {error}; expected names, styles, missing and things"
            ) from error

    def ids(self, labels: Sequence[int | str]) -> list[int]:
        """Class ids of names or ids; a number may also be written as a string.

        Raises:
            InputError: a name that is no class (with the nearest one), or an id out of range.
        """
        return [self._id(label) for label in labels]

    def _id(self, label: int | str) -> int:
        if isinstance(label, str):
            if label in self.names:
                return self.names.index(label)
            if not label.strip().lstrip("-").isdecimal():
                raise InputError(f"there is no class {label!r}; {self._nearest_class(label)}")
        elif isinstance(label, bool) or not hasattr(label, "__index__"):
            raise InputError(f"a class label is {label!r}; expected a name or an id from 0 to {len(self.names) - 1}")
        number = int(label)
        if not 0 <= number < len(self.names):
            raise InputError(f"class id {number} is out of range; expected 0 to {len(self.names) - 1}")
        return number

    def style_ids(self, styles: Sequence[str]) -> list[int]:
        """Ids of styles by name.

        Raises:
            InputError: a style that is none (with the nearest one), or any style where the model knows none.
        """
        for style in styles:
            if not self.styles:
                raise InputError(f"the style {style!r} was asked for, but this model has no styles; leave it out")
            if style not in self.styles:
                near = difflib.get_close_matches(str(style).lower(), self.styles, n=1, cutoff=0.5)
                guess = f"did you mean {near[0]!r}? " if near else ""
                raise InputError(f"there is no style {style!r}; {guess}expected one of {', '.join(self.styles)}")
        return [self.styles.index(style) for style in styles]

    def _nearest_class(self, text: str) -> str:
        near = difflib.get_close_matches(text.lower(), self.names, n=1, cutoff=0.5)
        some = f"one of {len(self.names)} names such as {self.names[0]!r}"
        return f"did you mean {near[0]!r}?" if near else f"expected {some}"

    def find(self, words: str) -> Match:
        """The class that plain words mean.

        Tried in turn: the name of a class; the name of a thing; the thing (or class name) in whose name and keywords
        the largest part of the words is found, where a rare word weighs more than a common one, and the noun ("car" in
        "a fast car", "tree" in "tree with snow") counts twice. Ties go to the thing with more of the words in its
        name, then to the one that comes first.

        Raises:
            InputError: no word is known (with the nearest known word), or there is no word at all.
        """
        spoken = _words(words)
        if not spoken:
            raise InputError(f"{words!r} holds no word; expected a class name or plain words such as 'grinning cat'")
        ranking = self._ranking(spoken)
        same = [i for i, name in enumerate(self.names) if name == words.strip() or _words(name) == spoken]
        if same:
            return self._match(same[0], f"the class {self.names[same[0]]!r}", ranking)
        called = [thing for thing in self.things if _words(thing.name) == spoken]
        if called:  # "house" is rather the house than the houses
            thing = min(called, key=lambda thing: thing.name.lower() != words.strip().lower())
            return self._match(thing.class_id, f"the name {thing.name!r}", ranking)
        if not ranking:
            raise InputError(f"no class is known for {words!r}; {self._nearest_word(spoken)}")
        return self._match(ranking[0].class_id, self._because(ranking[0], spoken), ranking)

    def _because(self, entry: _Entry, spoken: Sequence[str]) -> str:
        named = [repr(word) for word in _telling(spoken) if word in entry.name_words]
        hinted = [repr(word) for word in _telling(spoken) if word in entry.keyword_words]
        kind = "class" if entry.name in self.names else "name"
        reasons = [f"{' and '.join(named)} in the {kind} {entry.name!r}"] if named else []
        if hinted:
            whose = "its keywords" if named else f"the keywords of {entry.name!r}"
            reasons.append(f"{' and '.join(hinted)} in {whose}")
        return ", ".join(reasons)

    def _match(self, class_id: int, reason: str, ranking: Sequence[_Entry]) -> Match:
        others = dict.fromkeys(self.names[entry.class_id] for entry in ranking if entry.class_id != class_id)
        return Match(self.names[class_id], class_id, reason, tuple(others)[:_OTHER_CLASSES])

    def _ranking(self, spoken: Sequence[str]) -> list[_Entry]:
        """All entries that know one of the words, the best first."""
        weights = {word: math.log(1 + len(self._index) / max(1, self._frequency[word])) for word in _telling(spoken)}
        weights[_noun(spoken)] *= 2
        scored = []
        for order, entry in enumerate(self._index):
            in_name = sum(weight for word, weight in weights.items() if word in entry.name_words)
            in_keywords = sum(weight for word, weight in weights.items() if word in entry.keyword_words)
            if in_name + in_keywords > 0:
                spare = len(entry.name_words.difference(weights))
                scored.append(((-in_name - in_keywords, -in_name, spare, order), entry))
        return [entry for _, entry in sorted(scored, key=lambda pair: pair[0])]

    @cached_property
    def _index(self) -> tuple[_Entry, ...]:
        things = [_entry(thing.name, thing.class_id, thing.keywords) for thing in self.things]
        classes = [_entry(name, class_id, ()) for class_id, name in enumerate(self.names)]
        return (*things, *classes)

    @cached_property
    def _frequency(self) -> Counter[str]:
        return Counter(word for entry in self._index for word in entry.name_words | entry.keyword_words)

    def _nearest_word(self, spoken: Sequence[str]) -> str:
        names = [word for entry in self._index for word in entry.name_words]
        for known in (names, list(self._frequency)):
            for word in _telling(spoken):
                near = difflib.get_close_matches(word, known, n=1, cutoff=0.7)
                if near:
                    return f"did you mean {near[0]!r}?"
        return f"try another word, or one of the {len(self.names)} class names such as {self.names[0]!r}"


def numbered(names: Sequence[str]) -> bool:
    """Whether classes have numbers for names, "0", "1", ..., as those of converted checkpoints do."""
    return list(names) == [str(i) for i in range(len(names))]


@dataclass(frozen=True)
class _Entry:
    """The words of a thing or of a class name; no word is in both sets."""

    name: str
    class_id: int
    name_words: frozenset[str]
    keyword_words: frozenset[str]


def _entry(name: str, class_id: int, keywords: Iterable[str]) -> _Entry:
    named = frozenset(_words(name))
    more = frozenset(word for keyword in keywords for word in _words(keyword))
    return _Entry(name, class_id, named, more - named)


def _words(text: str) -> list[str]:
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


def _telling(spoken: Sequence[str]) -> list[str]:
    """The different words that say something, in their order; all of them if none does."""
    telling = [word for word in dict.fromkeys(spoken) if word not in _EMPTY_WORDS]
    return telling or list(dict.fromkeys(spoken))


def _noun(spoken: Sequence[str]) -> str:
    """The word English makes the thing itself: the last before a preposition, else the last of all."""
    telling = _telling(spoken)
    cut = next((i for i, word in enumerate(spoken) if word in _PREPOSITIONS), len(spoken))
    before = [word for word in spoken[:cut] if word in telling]
    return before[-1] if before else telling[-1]
