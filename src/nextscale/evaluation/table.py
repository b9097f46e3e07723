"""The report of an evaluation as text for people; above each table stand the images and the precision it is for."""

from __future__ import annotations

from collections.abc import Sequence

from nextscale.evaluation.generator import Score
from nextscale.evaluation.report import GeneratorReport, Report, Source


def text(report: Report) -> str:
    """The whole report; scales count as in the model's schedule, "all" means all of them."""
    s = report.settings
    head = (
        f"{s['model']}, revision {s['revision']}, {s['dtype']} on {s['device']}, "
        f"nextscale {s['nextscale']}, torch {s['torch']}\n"
        f"{s['data']}: {s['pixels']} pixels on {s['background']}, classes: {s['classes']}"
    )
    parts = [head, _reconstruction(report), _codes(report), _bars(report)]
    if report.generator is not None:
        parts.insert(3, _generator(report, report.generator))
    return "\n\n".join(parts)


def _reconstruction(report: Report) -> str:
    t = report.tokenizer
    rows = [("drawn from", "PSNR, dB", "std", "5th percentile")]
    for k, (size, spread) in enumerate(zip(report.scales, t.psnr_by_scale, strict=True)):
        name = size if k == 0 else f"up to {size}" if k < len(report.scales) - 1 else "all"
        rows.append((name, f"{spread.mean:.2f}", f"{spread.std:.2f}", f"{spread.p5:.2f}"))
    title = f"Reconstruction: mean over the images of each image's PSNR, pixels in [0, 1]\n{_on(report, t.source)}"
    return f"{title}, {t.images_per_second:.1f} images/s with every scale decoded\n{_aligned(rows)}"


def _codes(report: Report) -> str:
    t = report.tokenizer
    rows = [("scale", "codes in use", "perplexity")]
    for size, use in zip((*report.scales, "all"), (*t.use_by_scale, t.use), strict=True):
        rows.append((size, f"{100 * use.share:.1f} %", f"{use.perplexity:.1f}"))
    return f"Codebook: {t.codes} codes\n{_on(report, t.codes_source)}\n{_aligned(rows)}"


def _generator(report: Report, g: GeneratorReport) -> str:
    rows: list[tuple[str, ...]] = [("scale", "tokens", "loss", "accuracy")]
    rows[0] += ("train loss", "train accuracy", "gap") if g.train else ()
    measured = [*g.scores.scales, g.scores.total]
    compared: Sequence[Score | None] = [None] * len(measured) if g.train is None else [*g.train.scales, g.train.total]
    for size, score, train in zip((*report.scales, "all"), measured, compared, strict=True):
        row: tuple[str, ...] = (size, str(score.tokens), f"{score.loss:.3f}", f"{100 * score.accuracy:.1f} %")
        if train is not None:
            row += (f"{train.loss:.3f}", f"{100 * train.accuracy:.1f} %", f"{score.loss - train.loss:+.3f}")
        rows.append(row)
    title = (
        f"Generator: cross-entropy in nats per token (a uniform guess: {g.uniform_loss:.3f}), accuracy of the likeliest"
    )
    sampled = f"; train: {g.train_source.images} images, data {g.train_source.data_hash[:12]}" if g.train_source else ""
    speed = (
        f"{g.images_per_second:.1f} images/s, {g.tokens_per_second:.0f} tokens/s, "
        f"{100 * g.peak_share:.0f} % of this machine's matrix-product speed"
    )
    return f"{title}\n{_on(report, g.source)}{sampled}\n{speed}\n{_aligned(rows)}"


def _bars(report: Report) -> str:
    rows = [("bar", "measured", "at least", "")]
    for bar in report.bars:
        rows.append((bar.name, f"{bar.value:.3f}", f"{bar.at_least:g}", "pass" if bar.met else "miss"))
    return f"Bars of the bundled model\n{_aligned(rows)}"


def _on(report: Report, source: Source) -> str:
    s = report.settings
    return (
        f"{source.split}: {source.images} images, data {source.data_hash[:12]}, {s['dtype']} on {s['device']}, "
        f"revision {s['revision']}"
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
