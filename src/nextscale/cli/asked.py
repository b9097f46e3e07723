"""What ``nextscale generate`` was asked for: words, classes, styles and seeds, turned into the arguments of a call."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.cli.console import given, remark
from nextscale.errors import InputError, quoted

if TYPE_CHECKING:
    from nextscale.pipeline import Pipeline

MOST_PICTURES = 10_000
"""Pictures of one command; all of them are drawn before the first is written."""
MOST_BYTES = 1 << 30
"""Of a file of prompts."""
LONGEST_NAME, LONGEST_PROMPT = 500, 10_000
"""Letters of a class's name, or of a prompt that is to find a class: every word is looked for; and of any other."""


@dataclass(frozen=True)
class Asked:
    """What a user asked for, before anything is loaded. lines: the prompts of a file, None where none was named."""

    words: list[str]
    classes: list[str]
    styles: list[str]
    negative: str | None
    num_images: int | None
    seed: int | list[int] | None
    sampling: dict[str, Any]
    lines: list[str] | None = None

    @property
    def prompts(self) -> list[str]:
        """The lines of a file; else the arguments, each a prompt if one of them holds a space, as in "red heart" "a
        cat", and all together one if none does.
        """
        if self.lines is not None:
            return self.lines
        several = any(len(words.split()) > 1 for words in self.words)
        return self.words if several else [" ".join(self.words)] if self.words else []

    def check(self, needed: bool = True) -> None:
        """Raises ``InputError`` unless words or classes are given, not both, and a number of pictures within bounds.
        needed: one of them must be.
        """
        if self.num_images is not None and self.num_images < 1:
            raise InputError(f"--num-images is {self.num_images}; expected at least 1")
        words = f"words ({' '.join(self.words)!r})"
        told = [
            name for name, value in ((words, self.words), ("--prompts", self.lines), ("--class", self.classes)) if value
        ]
        if len(told) > 1:
            raise InputError(f"{told[0]} and {told[1]} were both given; expected one of them")
        if needed and not told:
            raise InputError(
                'nothing to draw was named; expected words, as in nextscale generate "grinning cat", or --class '
                "(--list-classes lists the classes)"
            )
        if twice := [style for i, style in enumerate(self.styles) if style in self.styles[:i]]:
            raise InputError(f"--style {twice[0]} was given twice; expected each style once")
        for texts, most in ((self.classes, LONGEST_NAME), ([*self.prompts, self.negative or ""], LONGEST_PROMPT)):
            _check_length(texts, most)
        seeds = len(self.seed) if isinstance(self.seed, list) else 1
        check_number(max(seeds, len(self.prompts or self.classes) * (self.num_images or 1)))

    def options(self) -> list[str]:
        """The names of all that was asked for, as options."""
        named = {"prompts": self.lines or [], "class": self.classes, "style": self.styles}
        named |= given(negative_prompt=self.negative, num_images=self.num_images, seed=self.seed, **self.sampling)
        options = ["--" + name.replace("_", "-") for name, value in named.items() if value != []]
        return ["the words", *options] if self.words else options

    def arguments(self, pipe: Pipeline) -> dict[str, Any]:
        """The pipeline's arguments, with one value per picture of a prompt or class in a style, and their plan; remarks
        on what its conditioner makes of them. Raises ``InputError`` for what is not there.
        """
        return {**self.shown(pipe), "plan": pipe.plan(**self.sampling)}

    def shown(self, pipe: Pipeline) -> dict[str, Any]:
        """As :meth:`arguments`, without a plan; what shall be shown may be left open."""
        from nextscale.conditions.classes import ClassVocabulary

        of_classes = isinstance(pipe.conditioner, ClassVocabulary)
        if of_classes:
            _check_length(self.prompts, LONGEST_NAME)
        instead = "say what to draw in words"
        styled = of_classes or "styles" in pipe.conditioner.lists()
        for option, values, read in (("--class", self.classes, of_classes), ("--style", self.styles, styled)):
            if values and not read:
                raise InputError(
                    f"{option} is {quoted(values[0])}, but this model reads {pipe.conditioner.about}; "
                    + (f'say it among the words, as in "a frog, {values[0]}"' if option == "--style" else instead)
                )
        if len(self.words) > 1 and len(self.prompts) == 1:
            several = " ".join(f"-c {word}" for word in self.words[:3]) if of_classes else "a line of --prompts FILE"
            remark(f"these words are one prompt, {self.prompts[0]!r}; a picture for each: {several}")
        typed = {"prompt": self.prompts, "class_labels": self.classes, "style": self.styles}
        typed |= {"negative_prompt": [] if self.negative is None else [self.negative]}
        spread = {name: texts for name, texts in typed.items() if texts}
        if self.prompts or self.classes:
            spread = pipe.conditioner.spread(remark, **spread)
        drawn = max(map(len, spread.values()), default=1)
        counted = len(self.seed) // drawn if isinstance(self.seed, list) else 1  # a list of seeds says how many
        number = max(1, counted) if self.num_images is None else self.num_images
        return {**spread, "num_images": number, "seed": self.seed}


def _check_length(texts: list[str], most: int) -> None:
    for text in texts:
        if len(text) > most:
            raise InputError(f"{quoted(text)} has {len(text):,} letters; expected at most {most:,}")


def prompts_in(file: Path) -> list[str]:
    """The lines of a file, without the empty ones, which is said. Raises ``InputError`` for what is no text."""
    from nextscale.documents import read_text

    text = read_text(file, largest=MOST_BYTES)
    if "\0" in text:
        raise InputError(f"{file} is not text (byte 0 stands in it); expected prompts in UTF-8, one a line")
    lines = [line.strip() for line in text.split("\n")]
    prompts = [line for line in lines if line]
    if not prompts:
        raise InputError(f"{file} holds no prompt; expected one a line")
    empty = len(lines) - len(prompts) - (not lines[-1])  # what follows the last line's end is no line
    if empty:
        remark(f"{file} has empty lines, which were skipped: {empty:,}")
    return prompts


def seeds_of(text: str | None) -> int | list[int] | None:
    """One seed, or one per picture. Raises ``InputError`` for what is none."""
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,20}( *, *[0-9]{1,20})*", text.strip()):
        raise InputError(f"--seed is {text!r}; expected a whole number, or one per picture with commas, as in 3,1,4")
    seeds = [int(seed) for seed in text.split(",")]
    return seeds if len(seeds) > 1 else seeds[0]


def only(negative: list[str] | None) -> str | None:
    """The negative prompt, which is one for all prompts. Raises ``InputError`` where several were given."""
    if negative and len(negative) > 1:
        raise InputError(
            f"--negative-prompt was given {len(negative)} times; expected one for all prompts, with commas where it "
            "names several things (in Python there may be one per prompt)"
        )
    return negative[0] if negative else None


def check_number(pictures: int) -> None:
    """Raises ``InputError`` for more pictures than one command draws."""
    if pictures > MOST_PICTURES:
        raise InputError(
            f"{pictures:,} pictures were asked for; expected at most {MOST_PICTURES:,} in one command (--num-images "
            "counts for every class in every style)"
        )
