"""Class labels: ids, names, plain words that find a class, and styles.

A class-conditional model knows its labels as integers. A ``ClassVocabulary`` travels with it and turns what people
write into those integers: a class name as it is ("animal-mammal"), or words ("grinning cat"), looked up in the names
and keywords of the things the classes are made of. Where the same things were drawn in several styles, class and style
together are the label.
"""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions.base import Features, Source
from nextscale.conditions.words import noun, slips, telling, words_of
from nextscale.errors import CheckpointError, InputError, quoted
from nextscale.settings import typed
from nextscale.values import is_whole, plain

UNCONDITIONAL = "unconditional"
"""What people write for a picture of no class, which is ``None`` everywhere else."""
_OTHER_CLASSES = 3  # alternatives named beside the class that was taken


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

    def labels_of(self, class_ids: Sequence[int | None], style_ids: Sequence[int | None]) -> Tensor:
        """The same from lists, with None for no class, whose label is the null class, and where there is no style."""
        known = [torch.tensor([i or 0 for i in ids], dtype=torch.long) for ids in (class_ids, style_ids)]
        nothing = torch.tensor([i is None for i in class_ids], dtype=torch.bool)
        return self.labels(*known).masked_fill(nothing, len(self))

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
            known = set(words_of(name))
            more = [*record["keywords"], *filter(None, [record.get("gender")])]
            keywords = tuple(word for word in more if not known.issuperset(words_of(word)))
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

    def ids(self, labels: Sequence[int | str | None]) -> list[int | None]:
        """Class ids of names or ids; a number may also be written as a string. None, or "unconditional", is no class.

        A text is a name first. Raises ``InputError`` for a name that is no class (with the nearest one), for an id out
        of range, and for one that is the name of another class.
        """
        return [self._id(label) for label in labels]

    def _id(self, label: Any) -> int | None:
        label = plain(label)
        if label is None:
            return None
        if isinstance(label, str):
            named = self._named(label)
            if named is not None:
                return named
            if label.strip().casefold() == UNCONDITIONAL:
                return None
            if not _is_number(label):
                raise InputError(f"there is no class {quoted(label)}; {self._nearest_class(label)}")
            label = int(label)
        elif isinstance(label, list | tuple | Mapping | Set):
            raise InputError(
                f"a class label is {quoted(label)}; classes cannot be mixed yet, so give one class per picture"
            )
        elif not is_whole(label):
            raise InputError(
                f"a class label is {quoted(label)}; expected a name or an id from 0 to {len(self.names) - 1}"
            )
        if not 0 <= label < len(self.names):
            raise InputError(f"class id {quoted(label)} is out of range; expected 0 to {len(self.names) - 1}")
        other = self._named(str(label))
        if other not in (None, label):
            raise InputError(
                f"class label {label} could be the class of the id {label}, which is called {self.names[label]!r}, or "
                f"the class called '{label}'; expected a name: {self.names[label]!r} or '{label}'"
            )
        return label

    def has(self, text: str) -> bool:
        """Whether there is a class of this name."""
        return self._named(text) is not None

    def _named(self, text: str) -> int | None:
        """The class of this name, in whatever Unicode form it is written."""
        if text in self._numbers:
            return self._numbers[text]
        return self._composed.get(unicodedata.normalize("NFC", text))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def _composed(self) -> dict[str, int]:
        return {unicodedata.normalize("NFC", name): i for i, name in reversed(list(enumerate(self.names)))}

    def look_up(self, text: str) -> Match:
        """The class that a person means by a text: one of that name or number, none, or one that its words find.

        For what is typed. Words that stand for another class than their own are to be told to whoever typed them
        (``Match.named`` is False), and so is a number that could be an id as well. Raises ``InputError`` for a text
        that is neither, or a class name with an error in it; with the nearest class or word.
        """
        named = self._named(text)
        if named is not None:
            other = int(text) if _is_number(text) else named
            if other == named or not 0 <= other < len(self.names):
                return Match(self.names[named], named, "the class of this name", named=True)
            return Match(self.names[named], named, f"the class of this name; the id {other} is {self.names[other]!r}")
        if _is_number(text) or text.strip().casefold() == UNCONDITIONAL:
            class_id = self._id(text)
            name = UNCONDITIONAL if class_id is None else self.names[class_id]
            return Match(name, class_id, f"the class of the id {class_id}", named=True)
        near = difflib.get_close_matches(text.casefold(), self._folded, n=1, cutoff=0.8)
        strange = [word for word in telling(words_of(text)) if word not in self._frequency]
        if strange and near:
            raise InputError(f"there is no class {quoted(text)}; did you mean {self._folded[near[0]]!r}?")
        try:
            return self.find(text)
        except InputError:
            word = self._near_word(words_of(text))
            meant = f"did you mean {word!r}?" if word else self._nearest_class(text)
            raise InputError(f"there is no class {quoted(text)}; {meant}") from None

    def style_ids(self, styles: Sequence[Any]) -> list[int]:
        """Ids of styles by name.

        Raises:
            InputError: a style that is none (with the nearest one), or any style where the model knows none.
        """
        known = {unicodedata.normalize("NFC", style): i for i, style in enumerate(self.styles)}
        asked = [unicodedata.normalize("NFC", style) if isinstance(style, str) else style for style in styles]
        for style in asked:
            if not self.styles:
                raise InputError(f"the style {quoted(style)} was asked for, but this model has no styles; leave it out")
            if not isinstance(style, str) or style not in known:
                near = (
                    difflib.get_close_matches(style.lower(), self.styles, n=1, cutoff=0.5)
                    if isinstance(style, str)
                    else []
                )
                guess = f"did you mean {near[0]!r}? " if near else ""
                raise InputError(f"there is no style {quoted(style)}; {guess}expected one of {', '.join(self.styles)}")
        return [known[style] for style in asked]

    def _nearest_class(self, text: str) -> str:
        near = difflib.get_close_matches(text.casefold()[:200], self._folded, n=1, cutoff=0.5)
        some = f"one of {len(self.names)} names such as {self.names[0]!r}"
        return f"did you mean {self._folded[near[0]]!r}?" if near else f"expected {some}"

    @cached_property
    def _folded(self) -> dict[str, str]:
        """Every class name by what it is without its capitals."""
        return {name.casefold(): name for name in reversed(self.names)}

    def find(self, words: str) -> Match:
        """The class that plain words mean.

        Tried in turn: the name of a class; the name of a thing; "unconditional", which is no class; the thing (or class
        name) in whose name and keywords the largest part of the words is found, where a rare word weighs more than a
        common one, and the noun ("car" in "a fast car", "tree" in "tree with snow") counts twice. Ties go to the thing
        with more of the words in its name, then to the one that comes first.

        Raises:
            InputError: no word is known (with the nearest known word), or there is no word at all.
        """
        spoken = words_of(words)
        if not spoken:
            raise InputError(
                f"{quoted(words)} holds no word; expected a class name or plain words such as 'grinning cat'"
            )
        ranking = self._ranking(spoken)
        called_so = self._named(words.strip())
        same = [i for i, name in enumerate(self.names) if words_of(name) in (spoken, telling(spoken))]
        if called_so is not None or same:
            class_id = same[0] if called_so is None else called_so
            return replace(self._match(class_id, f"the class {self.names[class_id]!r}", ranking), named=True)
        called = [thing for thing in self.things if words_of(thing.name) == spoken]
        if called:  # "house" is rather the house than the houses
            thing = min(called, key=lambda thing: thing.name.lower() != words.strip().lower())
            return self._match(thing.class_id, f"the name {thing.name!r}", ranking)
        if words.strip().casefold() == UNCONDITIONAL:
            return Match(UNCONDITIONAL, None, "the picture of no class", named=True)
        if not ranking:
            near = self._near_word(spoken)
            other = f"try another word, or one of the {len(self.names)} class names such as {self.names[0]!r}"
            raise InputError(f"no class is known for {quoted(words)}; {f'did you mean {near!r}?' if near else other}")
        return self._match(ranking[0].class_id, self._because(ranking[0], spoken), ranking)

    def _because(self, entry: _Entry, spoken: Sequence[str]) -> str:
        named = [repr(word) for word in telling(spoken) if word in entry.name_words]
        hinted = [repr(word) for word in telling(spoken) if word in entry.keyword_words]
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

    @cached_property
    def _index(self) -> tuple[_Entry, ...]:
        things = [_entry(thing.name, thing.class_id, thing.keywords) for thing in self.things]
        classes = [_entry(name, class_id, ()) for class_id, name in enumerate(self.names)]
        return (*things, *classes)

    @cached_property
    def _frequency(self) -> Counter[str]:
        return Counter(word for entry in self._index for word in entry.name_words | entry.keyword_words)

    def _near_word(self, spoken: Sequence[str]) -> str | None:
        """The known word that the fewest slips of the finger make of an unknown one, words of names first."""
        named = {word for entry in self._index for word in entry.name_words}
        for known in (named, self._frequency.keys() - named):
            for word in telling(spoken):
                far = {other: slips(word, other) for other in known if abs(len(word) - len(other)) <= 2}
                near = [other for other, count in far.items() if count <= (len(word) + 1) // 4]
                if near:
                    return min(near, key=lambda other: (far[other], sorted(word) != sorted(other), other))
        return None


def class_features(ids: Tensor, weights: Tensor | None = None, dropped: Tensor | None = None) -> Features:
    """Features of labels (B,) int64, or of several (B, n) mixed by ``weights`` (B, n); see ``Source`` for dropped."""
    tensors = {"ids": ids} if weights is None else {"ids": ids, "weights": weights}
    return Features(len(ids), {"class": Source("class", tensors, dropped)})


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
    named = frozenset(words_of(name))
    more = frozenset(word for keyword in keywords for word in words_of(keyword))
    return _Entry(name, class_id, named, more - named)


def _is_number(text: str) -> bool:
    return text.strip().lstrip("-").isdecimal() and len(text) < 20
