"""The bars of a model that draws emoji from text: are its pictures what was asked for, and by which of the words?

``bars_table.py`` makes text of what is found. Shape letters: ``S`` seeds, ``P`` prompts, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from nextscale.evaluation.bench import (
    DRAWN,
    KEPT,
    KIN,
    NO_STYLE,
    NO_TEXT,
    REAL,
    SEEDS,
    Bench,
    Drawn,
    Sheet,
    drawn_by,
)
from nextscale.evaluation.drawings import Drawings
from nextscale.evaluation.found import Retrieval
from nextscale.evaluation.prompts import STYLE, Asked
from nextscale.evaluation.subject import Judge, Progress, Subject
from nextscale.measures.retrieval import Share

PICTURES = 400
"""Pictures of a bar, where nobody says how many."""
FIVE_BAR, FIRST_BAR, CELL_BAR, STYLE_BAR, ORDER_BAR, NEGATIVE_BAR = 0.7, 0.45, 0.4, 0.9, 0.7, 0.5
"""(a) among the first five, and the first, as a share of reconstructions; (b) likewise; (c) style named, as a share of
real drawings; (f) nearer to the own drawing than to the twin's; (g) what a negative prompt may leave."""
SEEN, CELLS, FAMILIES = "seen emoji in seen styles", "held-out cells", "held-out families"
SHORT = {SEEN: "seen", CELLS: "cells", FAMILIES: "families"}


@dataclass(frozen=True)
class Bar:
    """A number that should be at least, or at most, so large."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


@dataclass(frozen=True)
class Order:
    """How often a picture is nearer to its own drawing than to its twin's, the emoji whose name has the same words in
    another order; of drawn pictures, of reconstructions, and of pictures of an empty prompt.
    """

    prompts: int
    drawn: Share
    kept: Share
    without_text: Share


@dataclass(frozen=True)
class Negation:
    """Names that say "no" or "without", and the same prompts without that word, with the same seeds.

    nearer: how often the picture of the whole prompt is nearer to the drawing than the other one is; whole, rest: how
    often each of the two is found among the five nearest.
    """

    prompts: int
    nearer: Share
    whole: Share
    rest: Share


@dataclass(frozen=True)
class Negative:
    """How often pictures of prompts without a style are recognised as Twemoji: alone, and with that negative prompt."""

    prompts: int
    alone: Share
    given: Share


@dataclass(frozen=True)
class BarsReport:
    """Everything that the bars are read from. sampling: settings of all that was drawn; picture i of each kind has seed
    i, and the prompts are asked for with one seed after the other; left_out: what is missing and why, a sentence each.
    """

    seeds: int
    sampling: dict[str, Any]
    retrievals: tuple[Retrieval, ...] = ()
    order: Order | None = None
    negation: Negation | None = None
    negative: Negative | None = None
    left_out: tuple[str, ...] = ()

    @property
    def bars(self) -> tuple[Bar, ...]:
        """Those that could be measured."""
        bars = [bar for one in self.retrievals for bars in (_found(one), _styled(one), _apart(one)) for bar in bars]
        if self.order is not None:
            bars.append(Bar("(f) nearer to its own drawing than to its twin's", self.order.drawn.value, ORDER_BAR))
        if self.negative is not None and self.negative.alone.value:
            left = self.negative.given.value / self.negative.alone.value
            bars.append(Bar("(g) recognised as Twemoji, with that negative prompt / without", left, None, NEGATIVE_BAR))
        return tuple(sorted(bars, key=lambda bar: bar.name[:3]))


def _ratio(name: str, drawn: Share, other: Share, at_least: float) -> Bar:
    """Where the other share is 0, as that of a tokenizer which keeps nothing, nothing is reached."""
    return Bar(name, drawn.value / other.value if other.value else 0.0, at_least)


def _found(found: Retrieval) -> Iterator[Bar]:
    """(a) of seen emoji, (b) of cells; of held-out families there is none."""
    drawn, kept = found.rows[DRAWN], found.rows[KEPT]
    if found.name == SEEN:
        yield _ratio("(a) seen: among the first five / reconstructions", drawn.five, kept.five, FIVE_BAR)
        yield _ratio("(a) seen: first / reconstructions", drawn.first, kept.first, FIRST_BAR)
    elif found.name == CELLS and drawn.new is not None and kept.new is not None:
        yield _ratio("(b) cells: in the right style, no near copy / reconstructions", drawn.new, kept.new, CELL_BAR)


def _styled(found: Retrieval) -> Iterator[Bar]:
    """(c) of what (a) and (b) draw."""
    drawn, real = found.rows[DRAWN].style, found.rows[REAL].style
    if found.name != FAMILIES and drawn is not None and real is not None:
        yield _ratio(f"(c) {SHORT[found.name]}: style named / in the drawings", drawn, real, STYLE_BAR)


def _apart(found: Retrieval) -> Iterator[Bar]:
    """(e): nothing that was asked for without the style, or not at all, is found more often than another emoji of its
    class. What the style word does is measured on cells: the model has seen their emoji in other styles alone.
    """
    if KIN["class"] not in found.rows or found.name == FAMILIES:
        return
    of_class, nothing = found.rows[KIN["class"]], found.rows[NO_TEXT]
    yield _at_most(f"(e) {SHORT[found.name]}: empty prompt, among the first five", nothing.five, of_class.five)
    if found.name == CELLS:
        unstyled = found.rows[NO_STYLE].own
        if unstyled is not None and of_class.own is not None:
            yield _at_most("(e) cells: without the style word, in the right style", unstyled, of_class.own)


def _at_most(name: str, share: Share, control: Share) -> Bar:
    """No more than a control, within its spread."""
    return Bar(name, share.value, None, control.value + (control.spread or 0))


def judge_text(
    subject: Subject, judge: Judge, drawings: Drawings, count: int, progress: Progress
) -> tuple[BarsReport, dict[str, Sheet]]:
    """:func:`judge_bars` of what a model draws that reads texts, with the settings that it was saved with."""
    draw, plan = drawn_by(subject)
    negatives = any("negative" in branch for branch in plan.branches)
    bench = Bench.of(draw, subject.tokenizer, judge, drawings, progress)
    return judge_bars(bench, count, dict(subject.defaults), negatives)


def judge_bars(
    bench: Bench, pictures: int, sampling: dict[str, Any], negatives: bool
) -> tuple[BarsReport, dict[str, Sheet]]:
    """Draw ``pictures`` of each kind, a multiple of ``SEEDS``, and judge them; also sheets of them, by name.

    sampling: the settings that are drawn with; negatives: whether negative prompts have a say with these.
    """
    drawings, asked = bench.drawings, Asked.of(bench.drawings, pictures // SEEDS)
    if not asked.seen:
        return BarsReport(SEEDS, sampling, left_out=("all emoji of the set are held out: the bars are left out",)), {}
    empty = bench.drawn(asked.longest.without_text(), "empty prompts").features
    alone = bench.drawn(asked.seen.without_style(drawings), f"{SEEN}, without the style word")
    retrievals, sheets, left_out = list[Retrieval](), dict[str, Sheet](), list[str]()
    for letter, name, prompts in (("a", SEEN, asked.seen), ("b", CELLS, asked.cells), ("d", FAMILIES, asked.families)):
        if not prompts:
            left_out.append(f"the set has no {name}: ({letter}) is left out")
            continue
        drawn, others = bench.drawn(prompts, name), {NO_TEXT: empty[:, : len(prompts)]}
        if name == SEEN:
            others[NO_STYLE] = alone.features
        elif name == CELLS:
            others[NO_STYLE] = bench.drawn(prompts.without_style(drawings), f"{name}, without the style word").features
        copies = None if name == SEEN else bench.galleries.copies(prompts.rows[0])
        retrievals.append(bench.retrieval(name, drawn, others, copies))
        sheets[SHORT[name]] = bench.sheet(drawn)
    order, negation = _order(bench, asked, empty), _negation(bench, asked)
    negative = _negative(bench, alone) if negatives else None
    if retrievals[0].rows[DRAWN].style is None:
        left_out.append("the classifier does not know the styles of the set: (c) is left out")
    if order is None:
        left_out.append("no two names of seen emoji have the same words in another order: (f) is left out")
    if negative is None or not negative.alone.value:
        left_out.append(f"{_no_negative(bench, negatives)}: (g) is left out")
    found = (tuple(retrievals), order, negation, negative, tuple(left_out))
    return BarsReport(SEEDS, sampling, *found), sheets


def _order(bench: Bench, asked: Asked, empty: Tensor) -> Order | None:
    prompts, twins, nearer = asked.ordered, asked.twins, bench.galleries.nearer
    if not prompts:
        return None
    rows, drawn = prompts.rows, bench.drawn(prompts, "names with twins").features
    of = (drawn, bench.kept(rows), empty[:, : len(rows)])
    return Order(len(rows), *(Share.of(nearer(features, rows, twins)) for features in of))


def _negation(bench: Bench, asked: Asked) -> Negation | None:
    if not asked.negated:
        return None
    rows, galleries = asked.negated.rows, bench.galleries
    whole, rest = (bench.drawn(prompts, 'names with "no"').features for prompts in (asked.negated, asked.affirmed))
    own = galleries.features[list(rows)]
    nearer = (whole - own).norm(dim=-1) < (rest - own).norm(dim=-1)
    five = (galleries.found(features, rows).five for features in (whole, rest))
    return Negation(len(rows), Share.of(nearer), *five)


def _negative(bench: Bench, alone: Drawn) -> Negative | None:
    """alone: prompts without a style."""
    styles = [STYLE] * len(alone.prompts)
    before = bench.named(alone.features, styles) if STYLE in bench.drawings.styles else None
    if before is None:
        return None
    given = bench.drawn(replace(alone.prompts, negative=STYLE), f"with the negative prompt {STYLE}")
    after = bench.named(given.features, styles)
    assert after is not None
    return Negative(len(styles), before, after)


def _no_negative(bench: Bench, negatives: bool) -> str:
    """Why it could not be judged."""
    if not negatives:
        return "negative prompts have no say with these settings (guidance scale 1, say)"
    if STYLE not in bench.drawings.styles:
        return f"the set is not drawn in the style {STYLE}"
    if not bench.knows_styles:
        return "the classifier does not know the styles of the set"
    return f"no picture of a prompt without a style is recognised as {STYLE}"
