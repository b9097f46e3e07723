"""A contest as tables for people: what was measured on what, then pictures, then costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from nextscale.evaluation.columns import aligned
from nextscale.evaluation.contest import Contest, Standing
from nextscale.measures.recognition import Rate

ABSENT = "-"


class Column(NamedTuple):
    """head: above it; write: one entrant's cell, given the plain model's; ``AttributeError`` where there is none."""

    head: str
    write: Callable[[Standing, Standing], str]


def _rate(rate: Rate | None) -> str:
    return ABSENT if rate is None else f"{100 * rate.value:.1f} ± {100 * rate.error:.1f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.2f}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f}"


QUALITY = (
    Column("class named, %", lambda row, plain: ABSENT if row.seen is None else _rate(row.seen.classes)),
    Column("style named, %", lambda row, plain: ABSENT if row.seen is None else _rate(row.seen.styles)),
    Column("Frechet", lambda row, plain: ABSENT if row.seen is None else f"{row.seen.frechet:.4f}"),
    Column("loss", lambda row, plain: ABSENT if row.loss is None else f"{row.loss:.4f}"),
    Column(
        "more, nats/image",
        lambda row, plain: ABSENT if row.more is None else f"{row.more.value:+.2f} ± {row.more.error:.2f}",
    ),
    Column("PSNR, dB", lambda row, plain: ABSENT if row.fidelity is None else f"{row.fidelity.psnr:.2f}"),
    Column("equal tokens, %", lambda row, plain: ABSENT if row.fidelity is None else f"{100 * row.fidelity.same:.1f}"),
    Column(
        "last scale, %", lambda row, plain: ABSENT if row.fidelity is None else f"{100 * row.fidelity.same_last:.1f}"
    ),
)
COST = (
    Column("ms/picture", lambda row, plain: _ms(row.cost.seconds)),
    Column("fastest", lambda row, plain: _ms(row.cost.fastest)),
    Column("slowest", lambda row, plain: _ms(row.cost.slowest)),
    Column("undecoded", lambda row, plain: _ms(row.cost.undecoded)),
    Column("/ plain", lambda row, plain: f"{row.cost.undecoded / plain.cost.undecoded:.3f}"),
    Column("GFLOPs", lambda row, plain: f"{row.cost.flops / 1e9:,.3f}"),
    Column("attended", lambda row, plain: f"{row.cost.attended:.4g}" if row.cost.attended else ABSENT),
    Column("kept", lambda row, plain: f"{row.cost.kept:.4g}" if row.cost.kept else ABSENT),
    Column("memory MiB, end", lambda row, plain: _mib(row.cost.live)),
    Column("most", lambda row, plain: _mib(row.cost.most)),
    Column("peak MiB", lambda row, plain: _mib(row.cost.peak)),
)


def cells(c: Contest, columns: Sequence[Column]) -> list[tuple[str, ...]]:
    """The head, and a line for every entrant; columns that say nothing of anybody are left out."""
    plain = c.rows[0]
    lines = [[column.write(row, plain) for column in columns] for row in c.rows]
    used = [i for i in range(len(columns)) if any(line[i] != ABSENT for line in lines)]
    head = ("", *(columns[i].head for i in used))
    return [head, *((row.name, *(line[i] for i in used)) for row, line in zip(c.rows, lines, strict=True))]


def contest_text(c: Contest) -> str:
    """The contest as text."""
    parts = [_heading(c)]
    if "data" in c.settings:
        parts += [_quality_notes(c), aligned(cells(c, QUALITY))]
    parts += [_cost_notes(c), aligned(cells(c, COST))]
    return "\n\n".join([*parts, *filter(None, [_controls(c)])])


def _heading(c: Contest) -> str:
    s, models = c.settings, dict.fromkeys(f"{row.model}: revision {row.revision}" for row in c.rows)
    where = f"{s['dtype']} on {s['device']}, threads: {s['threads']}, nextscale {s['nextscale']}, torch {s['torch']}"
    roles = [f"roles: {s['roles']}"] if s.get("roles") else []
    return "\n".join([*models, where, *roles])


def _quality_notes(c: Contest) -> str:
    s = c.settings
    sampling = ", ".join(f"{name} {value}" for name, value in s["sampling"].items()) or "plain sampling"
    notes = [
        f"pictures: {s['pictures']} of each, seeds 0 to {s['pictures'] - 1}, {sampling}; asked for as the held-out "
        "images are labelled, evenly spaced"
    ]
    if c.real is not None:
        real = f"; held-out images: class {_rate(c.real.classes)} %"
        real += "" if c.real.styles is None else f", style {_rate(c.real.styles)} %"
        notes.append(f"named: by {s['classifier']}, revision {s['classifier_revision']}; ± one standard error{real}")
        notes.append("Frechet: to these images in its features; not the FID, and larger for fewer pictures")
    else:
        notes.append("no classifier was given, so nobody says what is in the pictures")
    notes.append(
        f"loss: nats per token (or bit) of {s['held_out']} held-out images ({s['data']}, data {s['data_hash'][:12]}), "
        "the true tokens told scale by scale, without guidance; more: than plain, image by image"
    )
    notes.append("PSNR, equal tokens (or bits): to the plain model's pictures at equal seeds (100 dB: the same)")
    return "\n".join(notes)


def _cost_notes(c: Contest) -> str:
    s, batch = c.settings, f"{c.settings['batch']} picture{'s' if c.settings['batch'] > 1 else ''}"
    notes = [
        f"times: {batch} at once, median of {s['rounds']} rounds in turns; undecoded: without pixels; "
        "/ plain: of these",
        "GFLOPs: of one picture; attended, kept: tokens per layer at the last scale, and before it; memory: live bytes "
        f"of what {batch} remember, after the last scale and at the most; peak: predicted, with weights",
    ]
    if s["device"] == "cpu" and s["threads"] == 1:
        notes.append("one thread: times are its processor time, which leaves out that of other programs")
    elif s["busy"]:
        notes.append("other programs took processor time: times are too long, and their ratios unsure")
    return "\n".join(notes)


def _controls(c: Contest) -> str:
    """What the method does that takes about as long as a smaller plain model."""
    methods, lines = [row for row in c.rows if row.kind == "method"], []
    for control in (row for row in c.rows if row.kind == "control" and methods):
        near = min(methods, key=lambda row: abs(row.cost.seconds - control.cost.seconds))
        lines.append(
            f"{control.name} takes {_ms(control.cost.seconds)} ms a picture; nearest to it in time is {near.name} with "
            f"{_ms(near.cost.seconds)} ms"
            + (
                ""
                if near.seen is None or control.seen is None
                else f": {_rate(control.seen.classes)} % against {_rate(near.seen.classes)} % of the classes named"
            )
        )
    return "\n".join(lines)
