"""The report on painting as text for people."""

from __future__ import annotations

from collections.abc import Callable

from nextscale.evaluation.columns import aligned
from nextscale.evaluation.painting import BoxesReport, PaintingReport
from nextscale.measures.painting import Mean


def painting_text(report: PaintingReport, on: str, judge: str) -> str:
    """A column for every sort of boxes. on: what all tables are headed with; judge: the classifier."""
    settings = ", ".join(f"{name} {value}" for name, value in report.sampling.items()) or "plain sampling"
    lines = [
        f"Painting: a box of {report.source.images} drawings painted anew as what they are, seeds 0 to "
        f"{report.source.images - 1}, {settings}; what is in the box is hidden from the model",
        on,
        f"class recognised by {judge}" if not report.unjudged else f"class not judged: {report.unjudged}",
        "± one standard error (drawings of one family count as one, differences are paired); border / inside: steps "
        "from pixel to pixel across the border of the box, by those inside",
    ]
    boxes = report.boxes

    def row(title: str, means: Callable[[BoxesReport], Mean], show: Callable[[Mean], str]) -> tuple[str, ...]:
        return title, *(show(means(one)) for one in boxes)

    rows = [("", *(one.name for one in boxes)), ("in the box", *(f"{100 * one.masked:.1f} %" for one in boxes))]
    rows += [
        row("PSNR outside, reconstruction, dB", lambda one: one.outside_reconstruction, _plain),
        row("PSNR outside, painted, without paste, dB", lambda one: one.outside, _plain),
        row("difference, dB", lambda one: one.outside_difference, _signed),
    ]
    tables: list[tuple[str, Callable[[BoxesReport], dict[str, Mean]], Callable[[Mean], str]]] = [
        ("class recognised, ", lambda one: one.recognised, _share),
        ("painted, above a ", lambda one: one.above, _more),
        ("border / inside, ", lambda one: one.seams, _plain),
    ]
    for title, means, show in tables:
        rows += [(title + name, *(show(means(one)[name]) for one in boxes)) for name in means(boxes[0])]
    return "\n".join([*lines, aligned(rows)])


def _plain(mean: Mean) -> str:
    return f"{mean.value:.2f} ± {mean.error:.2f}"


def _signed(mean: Mean) -> str:
    return f"{mean.value:+.2f} ± {mean.error:.2f}"


def _share(mean: Mean) -> str:
    return f"{100 * mean.value:.1f} ± {100 * mean.error:.1f} %"


def _more(mean: Mean) -> str:
    return f"{100 * mean.value:+.1f} ± {100 * mean.error:.1f} %"
