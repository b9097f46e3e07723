"""What ``nextscale generate`` was asked for: words, classes, styles and seeds, turned into the arguments of a call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nextscale.cli.console import given, remark
from nextscale.errors import InputError

if TYPE_CHECKING:
    from nextscale.conditions.classes import ClassVocabulary, Match
    from nextscale.pipeline import Pipeline

MOST_PICTURES = 10_000
"""Pictures of one command; all of them are drawn before the first is written."""
LONGEST_PROMPT = 500
"""Letters of a prompt or of a class's name; every word is looked for."""


@dataclass(frozen=True)
class Asked:
    """What a user asked for, before anything is loaded."""

    words: list[str]
    classes: list[str]
    styles: list[str]
    num_images: int | None
    seed: int | list[int] | None
    sampling: dict[str, Any]

    @property
    def prompts(self) -> list[str]:
        """Every argument is a prompt if one of them holds a space, as in "red heart" "grinning cat"; else all of them
        are the words of one.
        """
        several = any(len(words.split()) > 1 for words in self.words)
        return self.words if several else [" ".join(self.words)] if self.words else []

    def check(self) -> None:
        """Raises ``InputError`` unless words or classes are given, not both, and a number of pictures within bounds."""
        if self.num_images is not None and self.num_images < 1:
            raise InputError(f"--num-images is {self.num_images}; expected at least 1")
        if self.words and self.classes:
            raise InputError(f"words ({' '.join(self.words)!r}) and --class were both given; expected one of them")
        if not self.words and not self.classes:
            raise InputError(
                'nothing to draw was named; expected words, as in nextscale generate "grinning cat", or --class '
                "(--list-classes lists the classes)"
            )
        for text in (*self.prompts, *self.classes):
            if len(text) > LONGEST_PROMPT:
                raise InputError(f"{text!r} has {len(text)} letters; expected at most {LONGEST_PROMPT}")
        seeds = len(self.seed) if isinstance(self.seed, list) else 1
        check_number(max(seeds, len(self.prompts or self.classes) * (self.num_images or 1)))

    def options(self) -> list[str]:
        """The names of all that was asked for, as options."""
        named = {"class": self.classes, "style": self.styles}
        named |= given(num_images=self.num_images, seed=self.seed, **self.sampling)
        options = ["--" + name.replace("_", "-") for name, value in named.items() if value != []]
        return ["the words", *options] if self.words else options

    def arguments(self, pipe: Pipeline) -> dict[str, Any]:
        """The pipeline's arguments: every class in every style. Says which classes words were taken for, and which
        style was taken where none was named. Raises ``InputError`` for what is not there, and for too many pictures.
        """
        if len(self.words) > 1 and len(self.prompts) == 1:
            each = " ".join(f"-c {word}" for word in self.words[:3])
            remark(f"these words are one prompt, {self.prompts[0]!r}; a picture for each: {each}")
        find = pipe.vocabulary.find if self.words else pipe.vocabulary.look_up
        found = {text: find(text) for text in self.prompts or self.classes}
        _say_what_is_drawn(found)
        labels = [found[text].class_id for text in self.prompts or self.classes]
        drawn, styles = _in_styles(labels, self.styles, pipe.vocabulary)
        counted = len(self.seed) // len(drawn) if isinstance(self.seed, list) else 1  # a list of seeds says how many
        number = max(1, counted) if self.num_images is None else self.num_images
        names = [None if label is None else pipe.vocabulary.names[label] for label in drawn]
        return {"class_labels": names, "style": styles, "num_images": number, "seed": self.seed, **self.sampling}


def seeds_of(text: str | None) -> int | list[int] | None:
    """One seed, or one per picture. Raises ``InputError`` for what is none."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,20}( *, *[0-9]{1,20})*", text.strip()):
        raise InputError(f"--seed is {text!r}; expected a whole number, or one per picture with commas, as in 3,1,4")
    seeds = [int(seed) for seed in text.split(",")]
    return seeds if len(seeds) > 1 else seeds[0]


def check_number(pictures: int) -> None:
    """Raises ``InputError`` for more pictures than one command draws."""
    if pictures > MOST_PICTURES:
        raise InputError(
            f"{pictures:,} pictures were asked for; expected at most {MOST_PICTURES:,} in one command (--num-images "
            "counts for every class in every style)"
        )


def _say_what_is_drawn(found: dict[str, Match]) -> None:
    """Which classes words were taken for, and that nothing else of them counts."""
    by_words = {text: match for text, match in found.items() if not match.named}
    for text, match in by_words.items():
        others = f"; other classes: {', '.join(match.alternatives)}" if match.alternatives else ""
        remark(f"{text!r} is drawn as {match.class_name} (found {match.reason}{others})")
    if by_words:
        remark("the class is drawn, not the word: all words that find a class give the same picture for a seed")


def _in_styles(
    labels: list[int | None], named: list[str], vocabulary: ClassVocabulary
) -> tuple[list[int | None], list[str | None] | None]:
    """Every class in every style that was named, or in all that it was seen in; in the first if none was named, which
    is said. No class has no style.
    """
    if not vocabulary.styles:
        return [label for label in labels for _ in range(max(1, len(named)))], [*named * len(labels)] or None
    if named and not any(label is not None for label in labels):
        raise InputError(f"--style is {named[0]!r}, but a picture of no class has no style; leave it out")
    drawn, styles, told = list[int | None](), list[str | None](), list[str]()
    for label in labels:
        seen = [] if label is None else vocabulary.styles_of(label)
        wanted: list[str] | list[None] = [None] if not seen else seen if "all" in named else named or seen[:1]
        if label is not None:
            which = "" if len(seen) == len(vocabulary.styles) else f"{vocabulary.names[label]} "
            told.append(f"{which}in the style {seen[0]}; other styles: {', '.join(seen[1:]) or 'none'}")
        drawn += [label] * len(wanted)
        styles += wanted
    if len(vocabulary.styles) > 1 and not named:
        for line in dict.fromkeys(told):
            remark(line)
    return drawn, styles
