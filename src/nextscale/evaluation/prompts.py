"""Which prompts the bars of a model that draws emoji from text ask for. Hashes choose them; none is picked."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nextscale.data.emoji_cells import is_flag
from nextscale.evaluation.drawings import Drawings

TWINS, NEGATIONS = 40, 12
"""Most prompts on the order of words, and most names that say "no" or "without"."""
STYLE = "twemoji"
"""The style that a negative prompt names."""
_WORD = re.compile(r"[^\W_]+(?:[-'\u2019][^\W_]+)*")
_NO = re.compile(r" (?:no|without)(?![\w-])|(?<![\w-])(?:no|without) ", re.IGNORECASE)


@dataclass(frozen=True)
class Prompts:
    """texts: what is asked for; rows: the drawing that is the right answer to each; negative: a prompt for all."""

    texts: tuple[str, ...]
    rows: tuple[int, ...]
    negative: str | None = None

    @classmethod
    def of(cls, drawings: Drawings, rows: Sequence[int]) -> Prompts:
        """By the short captions, which name emoji and style."""
        return cls(tuple(drawings.texts[row] for row in rows), tuple(rows))

    def __len__(self) -> int:
        return len(self.rows)

    def without_style(self, drawings: Drawings) -> Prompts:
        """The same emoji by their names alone."""
        return replace(self, texts=tuple(drawings.records[row]["name"] for row in self.rows))

    def without_text(self) -> Prompts:
        """Nothing is asked for."""
        return replace(self, texts=("",) * len(self))


@dataclass(frozen=True)
class Asked:
    """The prompts of the bars; any may be empty.

    seen, cells, families: base emoji of each side; ordered: prompts, of which ``twins`` are the rows of the emoji
    whose names have the same words in another order; negated: names that say "no"; affirmed: the same without it.
    """

    seen: Prompts
    cells: Prompts
    families: Prompts
    ordered: Prompts
    twins: tuple[int, ...]
    negated: Prompts
    affirmed: Prompts

    @property
    def longest(self) -> Prompts:
        """The largest group that is held against an empty prompt."""
        return max(self.seen, self.cells, self.families, self.ordered, key=len)

    @classmethod
    def of(cls, drawings: Drawings, count: int) -> Asked:
        """At most ``count`` prompts of each kind."""
        seen, cells, families = (
            Prompts.of(drawings, in_turn(drawings, drawings.asked(side), count)) for side in ("train", "cell", "family")
        )
        pairs = word_order_twins(drawings)[: min(count, TWINS)]
        negated = Prompts.of(drawings, negations(drawings)[: min(count, NEGATIONS)])
        affirmed = replace(negated, texts=tuple(_NO.sub("", text) for text in negated.texts))
        ordered, twins = (tuple(rows) for rows in zip(*pairs, strict=True)) if pairs else ((), ())
        return cls(seen, cells, families, Prompts.of(drawings, ordered), twins, negated, affirmed)


def in_turn(drawings: Drawings, rows: Sequence[int], count: int) -> list[int]:
    """``count`` of these rows, or as many as can be had: a style after the other in turn, every family once, in the
    order of a hash.
    """
    found, families = list[int](), set[str]()
    of_style = defaultdict[str, list[int]](list)
    for row in sorted(rows, key=drawings.order, reverse=True):
        of_style[drawings.records[row]["style"]].append(row)

    def new(left: list[int]) -> Iterator[int]:
        while left:
            row = left.pop()
            if drawings.records[row]["family"] not in families:
                yield row

    while len(found) < count and any(of_style.values()):
        for style in drawings.styles:
            for row in new(of_style[style] if len(found) < count else []):
                families.add(drawings.records[row]["family"])
                found.append(row)
                break
    return found


def word_order_twins(drawings: Drawings) -> list[tuple[int, int]]:
    """Rows of emoji and of their twins, whose names have the same words in another order, in a style that both were
    seen in and that draws them differently; those without skin tones first.
    """
    alike = defaultdict[tuple[str, ...], dict[str, tuple[str, ...]]](dict)
    for record in drawings.records:
        if not is_flag(record):
            words = tuple(_WORD.findall(record["name"].casefold()))
            alike[tuple(sorted(words))][record["name"]] = words
    found = list[tuple[int, int]]()
    for said in alike.values():
        for name, words in said.items():
            twins = [other for other in said if said[other] != words]
            pairs = [
                (drawings.named.get((name, style)), drawings.named.get((other, style)))
                for other in twins
                for style in drawings.styles
            ]
            seen = [(a, b) for a, b in pairs if a is not None and b is not None and _seen(drawings, a, b)]
            ordered = sorted(seen, key=lambda pair: drawings.order(*pair))
            found += [pair for pair in ordered if drawings.differ(*pair)][:1]
    return sorted(found, key=lambda pair: (bool(drawings.records[pair[0]]["tones"]), drawings.order(pair[0])))


def negations(drawings: Drawings) -> list[int]:
    """Rows of seen base emoji whose names say "no" or "without" of something, each in one style, in the order of a
    hash.
    """
    said = [row for row in drawings.asked("train") if _NO.search(drawings.records[row]["name"])]
    return list({drawings.records[row]["name"]: row for row in sorted(said, key=drawings.order)}.values())


def _seen(drawings: Drawings, *rows: int) -> bool:
    return all(drawings.sides[row] == "train" for row in rows)
