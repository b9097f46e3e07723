"""The bars of drawing emoji from text, as text for people: every rate beside its controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
    lines = "\n".join(_sentences(report))
    return "\n\n".join([*parts, lines] if lines else parts)


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


def _sentences(report: BarsReport) -> Iterator[str]:
    """What is no table."""
    if order := report.order:
        yield (
            f"order of words, {order.prompts} prompts: nearer to its own drawing than to that of the emoji whose name "
            f"has the same words in another order: {share(order.drawn)}; reconstructions {share(order.kept)}, "
            f"empty prompt {share(order.without_text)}"
        )
    if negation := report.negation:
        yield (
            f'"no" and "without", {negation.prompts} prompts: nearer to its drawing than the picture of the prompt '
            f"without that word: {share(negation.nearer)}; among the first {FIVE}: {share(negation.whole)}, without "
            f"that word {share(negation.rest)}"
        )
    if negative := report.negative:
        yield (
            f"negative prompt twemoji, {negative.prompts} prompts without a style: recognised as Twemoji: "
            f"{share(negative.given)}, without it {share(negative.alone)}"
        )
    yield from report.left_out


def share(found: Share | None) -> str:
    """A share in percent, with its spread."""
    if found is None:
        return "-"
    return (
        f"{100 * found.value:.1f} %"
        if found.spread is None
        else f"{100 * found.value:.1f} ± {100 * found.spread:.1f} %"
    )
