"""Class labels: ids, names, plain words that find a class, and styles.

A class-conditional model knows its labels as integers. A ``ClassVocabulary`` travels with it and turns what people
write into those integers: a class name as it is ("animal-mammal"), or words ("grinning cat"), looked up in the names
and keywords of the things the classes are made of. Things drawn in several styles have a label per class and style. An
entry is ``{"class": "cat-face", "style": "noto"}``, without a style where a model has none; None for both is no class.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions.base import UNCONDITIONAL, Conditioner, Entry, Features, Source
from nextscale.conditions.words import Finder, Match, Thing, words_of
from nextscale.errors import CheckpointError, InputError, quoted, warn_user
from nextscale.habits import PICTURE, Habit, translated
from nextscale.settings import typed
from nextscale.values import is_whole, listed, plain

__all__ = ["UNCONDITIONAL", "ClassVocabulary", "Match", "Thing", "class_features", "numbered"]

READ = ("class_labels", "prompt", "style")
UNREAD = {
    "negative_prompt": Habit(
        "a model of classes reads no negative prompt; guidance_scale moves away from the picture of no class",
        ("", (), ("",)),
    ),
    "image": PICTURE,
}
"""Arguments of a call that it does not read, and what may stand there all the same."""


@dataclass(frozen=True)
class ClassVocabulary(Conditioner):
    """The classes of a model in the order of their ids, the things they are made of, and the styles they come in.

    styles: none where a model knows none; missing: the pairs (style, class) that no training image showed. Its length
    is the number of labels a model has: every class in every style.

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

    file = "classes.json"
    sort = "class-conditional"
    example = "class_labels=[0]"

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

        names, styles: in the order of their ids; an image folder has no styles; records: mappings with ``name``,
        ``class``, ``keywords``, ``tones`` and perhaps ``gender``, in the order ties are decided by. Skin-tone variants
        and further styles of the same name are left out.
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
        """Read what ``to_dict`` wrote, also before there were styles. Raises ``CheckpointError`` for anything else."""
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
            named = self._finder.named(label)
            if named is not None:
                return named
            if label.strip().casefold() == UNCONDITIONAL:
                return None
            if not _is_number(label):
                raise InputError(f"there is no class {quoted(label)}; {self._finder.suggestion(label)}")
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
        other = self._finder.named(str(label))
        if other not in (None, label):
            raise InputError(
                f"class label {label} could be the class of the id {label}, which is called {self.names[label]!r}, or "
                f"the class called '{label}'; expected a name: {self.names[label]!r} or '{label}'"
            )
        return label

    def look_up(self, text: str) -> Match:
        """The class that a person means by a text: one of that name or number, none, or one that its words find.

        For what is typed. Words that stand for another class than their own are to be told to whoever typed them
        (``Match.named`` is False), and so is a number that could be an id as well. Raises ``InputError`` for a text
        that is neither, or a class name with an error in it; with the nearest class or word.
        """
        named = self._finder.named(text)
        if named is not None:
            other = int(text) if _is_number(text) else named
            if other == named or not 0 <= other < len(self.names):
                return Match(self.names[named], named, "the class of this name", named=True)
            return Match(self.names[named], named, f"the class of this name; the id {other} is {self.names[other]!r}")
        if _is_number(text) or text.strip().casefold() == UNCONDITIONAL:
            class_id = self._id(text)
            name = UNCONDITIONAL if class_id is None else self.names[class_id]
            return Match(name, class_id, f"the class of the id {class_id}", named=True)
        near = self._finder.near_name(text, 0.8)
        if near and not self._finder.knows(text):
            raise InputError(f"there is no class {quoted(text)}; did you mean {near!r}?")
        try:
            return self.find(text)
        except InputError:
            word = self._finder.near_word(text)
            meant = f"did you mean {word!r}?" if word else self._finder.suggestion(text)
            raise InputError(f"there is no class {quoted(text)}; {meant}") from None

    def style_ids(self, styles: Sequence[Any]) -> list[int]:
        """Ids of styles by name. Raises ``InputError`` for what is none, with the nearest one."""
        known = {unicodedata.normalize("NFC", style): i for i, style in enumerate(self.styles)}
        asked = [unicodedata.normalize("NFC", style) if isinstance(style, str) else style for style in styles]
        for style in asked:
            if not self.styles:
                raise InputError(f"the style {quoted(style)} was asked for, but this model has no styles; leave it out")
            if not isinstance(style, str) or style not in known:
                text = style.lower() if isinstance(style, str) else ""
                near = difflib.get_close_matches(text, self.styles, n=1, cutoff=0.5)
                guess = f"did you mean {near[0]!r}? " if near else ""
                raise InputError(f"there is no style {quoted(style)}; {guess}expected one of {', '.join(self.styles)}")
        return [known[style] for style in asked]

    def find(self, words: str) -> Match:
        """The class that plain words mean; how, and what is refused: :meth:`nextscale.conditions.words.Finder.find`."""
        return self._finder.find(words)

    @cached_property
    def _finder(self) -> Finder:
        return Finder(self.names, self.things)

    @property
    def gives(self) -> Mapping[str, int]:
        return {"class": len(self)}

    @property
    def about(self) -> str:
        return f"{len(self.names)} classes" + (f" in the styles {', '.join(self.styles)}" if self.styles else "")

    def lists(self) -> dict[str, list[str]]:
        return {"classes": list(self.names), "styles": list(self.styles)}

    def check(self, reads: Mapping[str, int]) -> None:
        if len(self) != reads.get("class"):
            raise CheckpointError(f"{len(self)} labels were named for a model of {reads.get('class', 'none')}")

    def resolve(self, class_labels: Any = None, prompt: Any = None, style: Any = None, **others: Any) -> list[Entry]:
        """One entry per label or prompt. Warns of styles that lack their class, and of words that stand for a class."""
        translated({}, {name: value for name, value in others.items() if value is not None}, UNREAD, READ)
        class_ids = self._class_ids(class_labels, prompt)
        style_ids = self._chosen_styles(style, class_ids)
        return [self.entry(*ids) for ids in zip(class_ids, style_ids, strict=True)]

    def arguments(self, entries: Sequence[Entry]) -> dict[str, list[Any]]:
        found = super().arguments(entries)
        return {"class_labels" if name == "class" else name: values for name, values in found.items()}

    def entry(self, class_id: int | None, style_id: int | None = 0) -> Entry:
        """The entry of a class in a style; None for both is no class."""
        style = None if style_id is None or not self.styles else self.styles[style_id]
        name = None if class_id is None else self.names[class_id]
        return {"class": name} | ({"style": style} if self.styles else {})

    def samples(self, count: int) -> list[Entry]:
        """Classes spread over all of them, in the styles they were seen in by turns."""
        class_ids = torch.linspace(0, len(self.names) - 1, min(count, len(self))).long().tolist()
        seen = [[self.styles.index(style) for style in self.styles_of(i)] or [0] for i in class_ids]
        return [self.entry(i, known[n % len(known)]) for n, (i, known) in enumerate(zip(class_ids, seen, strict=True))]

    def features(self, entries: Sequence[Entry]) -> Features:
        names, styles = ({None: 0} | {one: i for i, one in enumerate(known)} for known in (self.names, self.styles))
        class_ids = torch.tensor([names[entry["class"]] for entry in entries])
        style_ids = torch.tensor([styles[entry.get("style")] for entry in entries])
        dropped = torch.tensor([entry["class"] is None for entry in entries])
        labels = self.labels(class_ids, style_ids).masked_fill(dropped, len(self))
        return class_features(labels, dropped=dropped)

    def spread(self, say: Callable[[str], None], **typed: list[str]) -> dict[str, list[Any]]:
        """Every class in every style that was named, or in all that it was seen in; in the first if none was named,
        which is said. Says, too, which classes words were taken for; what it does not read is left for a call to
        refuse. Raises ``InputError`` for what is not there.
        """
        find = self.look_up if "class_labels" in typed else self.find
        texts, styles = typed.get("class_labels") or typed.get("prompt") or [], typed.get("style", [])
        found = {text: find(text) for text in texts}
        by_words = {text: match for text, match in found.items() if not match.named}
        for text, match in by_words.items():
            others = f"; other classes: {', '.join(match.alternatives)}" if match.alternatives else ""
            say(f"{text!r} is drawn as {match.class_name} (found {match.reason}{others})")
        if by_words:
            say("the class is drawn, not the word: all words that find a class give the same picture for a seed")
        drawn = self._in_styles([found[text].class_id for text in texts], styles, say)
        labels = [None if class_id is None else self.names[class_id] for class_id, _ in drawn]
        named = {"style": [style for _, style in drawn]} if self.styles or styles else {}
        return {name: texts for name, texts in typed.items() if name not in READ} | {"class_labels": labels, **named}

    def _in_styles(
        self, class_ids: Sequence[int | None], named: Sequence[str | None], say: Callable[[str], None]
    ) -> list[tuple[int | None, str | None]]:
        """Every class in every style; no class has no style."""
        if not self.styles:  # where a call refuses all that are named
            return [(class_id, style) for class_id in class_ids for style in named or [None]]
        if named and all(class_id is None for class_id in class_ids):
            raise InputError(f"the style is {named[0]!r}, but a picture of no class has no style; leave it out")
        drawn, told = list[tuple[int | None, str | None]](), list[str]()
        for class_id in class_ids:
            seen = [] if class_id is None else self.styles_of(class_id)
            wanted: Sequence[str | None] = [None] if not seen else seen if "all" in named else named or seen[:1]
            if class_id is not None:
                which = "" if len(seen) == len(self.styles) else f"{self.names[class_id]} "
                told.append(f"{which}in the style {seen[0]}; other styles: {', '.join(seen[1:]) or 'none'}")
            drawn += [(class_id, style) for style in wanted]
        if len(self.styles) > 1 and not named:
            for line in dict.fromkeys(told):
                say(line)
        return drawn

    def _class_ids(self, class_labels: Any, prompt: Any) -> list[int | None]:
        if (class_labels is None) == (prompt is None):
            raise InputError(
                "give either class_labels or prompt: one of the two, not both and not neither; class_labels=[None] (or "
                "'unconditional') draws a picture of no class"
            )
        if prompt is not None:
            asked = [prompt] if isinstance(prompt, str) else listed(prompt)
            if not asked or not all(isinstance(words, str) for words in asked):
                raise InputError(f"prompt is {quoted(prompt)}; give some words, or a list of them")
        else:
            one = plain(class_labels)
            asked = [one] if isinstance(one, int | float | str | bytes | Mapping) else listed(one)
            if asked is None:
                raise InputError(f"class_labels is {quoted(one)}; expected a name or an id, or a list of them")
            if not asked:
                raise InputError("class_labels is empty; name at least one class")
        find = self.look_up if prompt is None else self.find
        texts = dict.fromkeys(one for one in asked if isinstance(one, str))
        found = {text: find(text) for text in texts if prompt is not None or self._finder.named(text) is None}
        _say_what_is_drawn({text: match.class_name for text, match in found.items() if not match.named})
        return [found[one].class_id if isinstance(one, str) and one in found else self._id(one) for one in asked]

    def _chosen_styles(self, style: Any, class_ids: Sequence[int | None]) -> list[int | None]:
        """One style per class: the one that was named, or the first that the class was seen in; None where there is no
        class, which has no style.
        """
        if style is None:
            seen_in = [() if class_id is None else self.styles_of(class_id) for class_id in class_ids]
            return [self.styles.index(styles[0]) if styles else None for styles in seen_in]
        named = [style] * len(class_ids) if isinstance(style, str) else listed(style)
        if named is None:
            raise InputError(f"style is {quoted(style)}; give the name of a style, or one name per label")
        if isinstance(style, str) and not all(class_id is None for class_id in class_ids):
            named = [None if class_id is None else style for class_id in class_ids]
        if len(named) != len(class_ids):
            self.style_ids(named)
            raise InputError(
                f"{len(named)} styles were given for {len(class_ids)} labels; give one style, or one per label"
            )
        for one, class_id in zip(named, class_ids, strict=True):
            if class_id is None and one is not None:
                raise InputError(f"style is {quoted(one)} for a picture of no class; it has no style, so leave it out")
        ids = iter(self.style_ids([one for one, i in zip(named, class_ids, strict=True) if i is not None]))
        style_ids = [None if class_id is None else next(ids) for class_id in class_ids]
        for pair in dict.fromkeys(zip(class_ids, style_ids, strict=True)):
            self._warn_if_missing(self.entry(*pair))
        return style_ids

    def _warn_if_missing(self, entry: Entry) -> None:
        name, style = entry["class"], entry.get("style")
        if (style, name) not in self.missing:
            return
        seen = [other for other in self.styles if (other, name) not in self.missing]
        instead = f"; styles with images of it: {', '.join(seen)}" if seen else ""
        warn_user(
            f"the model was trained on no image of {name} in the style {style}, so what it draws there means "
            f"nothing{instead}"
        )


def _say_what_is_drawn(classes: Mapping[str, str]) -> None:
    """One warning for all words of a call that were taken for a class."""
    if classes:
        told = [f"{quoted(words)} is drawn as {name}" for words, name in list(classes.items())[:4]]
        more = f", and {len(classes) - 4} more" if len(classes) > 4 else ""
        warn_user(f"{', '.join(told)}{more}: the model knows classes, and draws one of the class, not of the words")


def class_features(ids: Tensor, weights: Tensor | None = None, dropped: Tensor | None = None) -> Features:
    """Features of labels (B,) int64, or of several (B, n) mixed by ``weights`` (B, n); see ``Source`` for dropped."""
    tensors = {"ids": ids} if weights is None else {"ids": ids, "weights": weights}
    return Features(len(ids), {"class": Source("class", tensors, dropped)})


def numbered(names: Sequence[str]) -> bool:
    """Whether classes have numbers for names, "0", "1", ..., as those of converted checkpoints do."""
    return list(names) == [str(i) for i in range(len(names))]


def _is_number(text: str) -> bool:
    return text.strip().lstrip("-").isdecimal() and len(text) < 20
