"""The bars of drawing emoji from text, as text for people: every rate beside its controls."""

from __future__ import annotations

from collections.abc import Mapping

from nextscale.evaluation.bars import BarsReport
from nextscale.evaluation.columns import aligned
from nextscale.evaluation.found import SIDE, Retrieval
from nextscale.measures.paired import Difference
from nextscale.measures.retrieval import FIVE, Share

COLUMNS = {
    f"first {FIVE}": "five",
    "first": "first",
    "right style": "own",
    "and no copy": "new",
    "style named": "style",
}


def bars_text(report: BarsReport, judge: str) -> str:
    """judge: who judged, for people."""
    settings = ", ".join(f"{name} {value}" for name, value in report.sampling.items()) or "plain sampling"
    head = (
        f"Drawn from text: every prompt with {report.seeds} seeds, {settings}; judged at {SIDE} pixels in the features "
        f"of {judge}\n"
        f"first {FIVE}, first: how often the right drawing is among the {FIVE} nearest, or the nearest, of all emoji "
        "without skin tones in its style\n"
        f"right style: among the first {FIVE}, and nearer than the same emoji in any other style; and no copy: and no "
        "near copy of a training picture\n"
        "style named: how often the classifier names the style; ± standard deviation over seeds (of real drawings: "
        "over as many choices)"
    )
    parts = [head, *map(_retrieval, report.retrievals)]
    lines = [*_order(report), *_negation(report), *_negative(report), *report.left_out]
    return "\n\n".join([*parts, "\n".join(lines)] if lines else parts)


def gain_text(gain: Mapping[str, Difference]) -> str:
    """The text gain, a line for each side."""
    return "\n".join(
        f"text gain on {name}: {found.value:.2f} ± {found.error:.2f} nats per image (loss without the text minus loss "
        f"with it; {found.images} images of {found.families} families)"
        for name, found in gain.items()
    )


def _retrieval(one: Retrieval) -> str:
    columns = {head: name for head, name in COLUMNS.items() if any(getattr(row, name) for row in one.rows.values())}
    rows: list[tuple[str, ...]] = [("", *columns, "pictures")]
    rows += [
        (who, *(share(getattr(row, name)) for name in columns.values()), str(row.five.images))
        for who, row in one.rows.items()
    ]
    copies = ""
    if one.copies is not None:
        copies = (
            f"; near copies of training pictures: {share(one.copies)} (at most {one.threshold:.3f} of the usual "
            "distance of two drawings away, as the nearest hundredth of the held-out drawings has it)"
        )
    many = "" if one.prompts == 1 else "s"
    return f"{one.name[0].upper()}{one.name[1:]}: {one.prompts} prompt{many}{copies}\n{aligned(rows)}"


def _order(report: BarsReport) -> list[str]:
    found = report.order
    if found is None:
        return []
    return [
        f"order of words, {found.prompts} prompts: nearer to its own drawing than to that of the emoji whose name has "
        f"the same words in another order: {share(found.drawn)}; reconstructions {share(found.kept)}, "
        f"empty prompt {share(found.without_text)}"
    ]


def _negation(report: BarsReport) -> list[str]:
    found = report.negation
    if found is None:
        return []
    return [
        f'"no" and "without", {found.prompts} prompts: nearer to its drawing than the picture of the prompt without '
        f"that word: {share(found.nearer)}; among the first {FIVE}: {share(found.whole)}, without that word "
        f"{share(found.rest)}"
    ]


def _negative(report: BarsReport) -> list[str]:
    found = report.negative
    if found is None:
        return []
    return [
        f"negative prompt twemoji, {found.prompts} prompts without a style: recognised as Twemoji: "
        f"{share(found.given)}, without it {share(found.alone)}"
    ]


def share(found: Share | None) -> str:
    """A share in percent, with its spread."""
    if found is None:
        return "-"
    return (
        f"{100 * found.value:.1f} %"
        if found.spread is None
        else f"{100 * found.value:.1f} ± {100 * found.spread:.1f} %"
    )
