"""The report of an evaluation as text for people; above each table stand the images and the precision it is for."""

from __future__ import annotations

from collections.abc import Sequence

from nextscale.evaluation.bars_table import bars_text, gain_text
from nextscale.evaluation.columns import aligned
from nextscale.evaluation.generated import GeneratedReport
from nextscale.evaluation.painting_table import painting_text
from nextscale.evaluation.report import GeneratorReport, Report
from nextscale.evaluation.subject import Sample
from nextscale.evaluation.tokenizer_report import Named, StyleQuality, TokenizerReport
from nextscale.measures.generator import Score
from nextscale.measures.recognition import Rate, Ratio
from nextscale.measures.tokenizer import BitUse, Spread


def text(report: Report) -> str:
    """The whole report; scales count as in the model's schedule, "all" means all of them."""
    s = report.settings
    head = (
        f"{s['model']}, revision {s['revision']}, {s['dtype']} on {s['device']}, "
        f"nextscale {s['nextscale']}, torch {s['torch']}\n"
        f"{s['data']}: {s['pixels']} pixels on {s['background']}, classes: {s['classes']}"
    )
    head += f", captions {s['captions_hash'][:12]}" if "captions_hash" in s else ""
    tokenizers = [report.tokenizer] if report.against is None else [report.tokenizer, report.against]
    parts = [head]
    for t in tokenizers:
        parts += [_reconstruction(report, t), _use(report, t)]
    if any(t.distance or t.styles for t in tokenizers) or len(tokenizers) > 1:
        parts.append(_kept(report, tokenizers))
    if report.generator is not None:
        parts.append(_generator(report, report.generator))
    if report.generated is not None:
        parts.append(_generated(report, report.generated))
    if report.from_text is not None:
        parts.append(bars_text(report.from_text, _judge(report)))
    if report.painting is not None:
        painting = report.painting
        parts.append(painting_text(painting, _on(report, painting.source, report.tokenizer), _judge(report)))
    return "\n\n".join([*parts, _bars(report)] if report.bars else parts)


def _reconstruction(report: Report, t: TokenizerReport) -> str:
    rows: list[tuple[str, ...]] = [("drawn from", "PSNR, dB", "std", "5th percentile")]
    for k, (size, spread) in enumerate(zip(t.scales, t.psnr_by_scale, strict=True)):
        name = size if k == 0 else f"up to {size}" if k < len(t.scales) - 1 else "all"
        rows.append((name, *_psnr(spread)))
    title = f"Reconstruction: mean over the images of each image's PSNR, pixels in [0, 1]\n{_on(report, t.source, t)}"
    return f"{title}, {t.images_per_second:.1f} images/s with every scale decoded\n{aligned(rows)}"


def _use(report: Report, t: TokenizerReport) -> str:
    """Use of the codebook, or of the bits."""
    if isinstance(t.use, BitUse):
        title, rows = f"Bits: {t.use.bits} in a token", [("scale", "entropy of a bit, bits", "stuck")]
    else:
        title, rows = f"Codebook: {t.codes} codes", [("scale", "codes in use", "perplexity")]
    for size, use in zip((*t.scales, "all"), (*t.use_by_scale, t.use), strict=True):
        if isinstance(use, BitUse):
            rows.append((size, f"{use.entropy:.3f}", f"{100 * use.stuck:.1f} %"))
        else:
            rows.append((size, f"{100 * use.share:.1f} %", f"{use.perplexity:.1f}"))
    return f"{title}\n{_on(report, t.codes_source, t)}\n{aligned(rows)}"


def _kept(report: Report, tokenizers: Sequence[TokenizerReport]) -> str:
    """Reconstruction from all scales, over all images and in every style; tokenizers side by side."""
    head: tuple[str, ...] = ("style", "images")
    rows: list[tuple[str, ...]] = [("all", str(tokenizers[0].psnr.count))]
    rows += [(style.name, str(style.psnr.count)) for style in tokenizers[0].styles]
    for t in tokenizers:
        head += ("PSNR, dB", "std", "5th percentile") + (("distance", "error", "std") if t.distance else ())
        head += ("style named", "in originals") if t.named else ()
        parts: list[TokenizerReport | StyleQuality] = [t, *t.styles]
        for i, part in enumerate(parts):
            rows[i] += _psnr(part.psnr) + (_distance(part.distance) if part.distance else ())
            rows[i] += _named(part.named) if part.named else ()
    title = f"Styles: {' and, right of it, '.join(t.name for t in tokenizers)}, drawn from all scales"
    if report.settings["classifier"]:
        title += (
            f"\ndistance: of an image to its reconstruction, Euclidean, in the features of {_judge(report)},"
            " as a multiple of the root mean square distance of two images picked at random; error: of the mean; style"
            " named: how often the classifier names the right style of a reconstruction, and of an original"
        )
    return f"{title}\n{_on(report, tokenizers[0].source, tokenizers[0])}\n{aligned([head, *rows])}"


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
    draw = "bit" if isinstance(report.tokenizer.use, BitUse) else "token"
    guess = f"a uniform guess: {g.uniform_loss:.3f}"
    title = f"Generator: cross-entropy in nats per {draw} ({guess}), accuracy of the likeliest"
    sampled = f"; train: {g.train_source.images} images, data {g.train_source.data_hash[:12]}" if g.train_source else ""
    speed = (
        f"{g.images_per_second:.1f} images/s, {g.tokens_per_second:.0f} tokens/s, "
        f"{100 * g.peak_share:.0f} % of this machine's matrix-product speed"
    )
    gain = f"\n{gain_text(g.text_gain)}" if g.text_gain else ""
    return f"{title}\n{_on(report, g.source, report.tokenizer)}{sampled}\n{speed}\n{aligned(rows)}{gain}"


def _generated(report: Report, g: GeneratedReport) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in g.sampling.items()) or "plain sampling"
    lines = [
        f"Generated: {g.images} images with seeds 0 to {g.images - 1}, {settings}; labels in the proportions of the "
        "held-out images",
        f"{_on(report, g.source, report.tokenizer)}; train: {g.train_source.images} images, "
        f"data {g.train_source.data_hash[:12]}",
        f"judged by {_judge(report)}; near copies: nearest training image at most {g.threshold:.3f} away, as the "
        "nearest hundredth of the held-out images has it",
        f"recognised: generated images that are no near copies (class: of the {g.classes} classes with three or more "
        "held-out families), held-out ones weighted to the same labels; ± one standard error",
    ]
    rows: list[tuple[str, ...]] = [("", "generated", "images", "held-out", "images", "ratio")]
    for name, ratio in (("class recognised", g.class_ratio), ("style recognised", g.style_ratio)):
        rows.append((name, *_ratio(ratio)))
    rows.append(("near copies", _percent(g.copies), str(g.copies.images), "1.0 %", str(g.source.images), "-"))
    rows.append(
        (
            "nearer than the held-out median",
            _percent(g.closer),
            str(g.closer.images),
            "50.0 %",
            str(g.source.images),
            "-",
        )
    )
    after = (
        f"chance that a generated image is farther from the training images than a held-out one: {g.farther:.3f} "
        "(0.5: alike; less: memorised)\n"
        f"Frechet distance to the held-out images in the classifier's features (not the FID): {g.frechet:.4f}; "
        f"of {min(g.images, g.train_source.images)} training images: {g.frechet_train:.4f}"
    )
    return "\n".join([*lines, aligned(rows), after])


def _bars(report: Report) -> str:
    most = any(bar.at_most is not None for bar in report.bars)
    rows: list[tuple[str, ...]] = [("bar", "measured", "at least", *(["at most"] if most else []), "")]
    for bar in report.bars:
        bounds = ("" if bound is None else f"{bound:.3g}" for bound in (bar.at_least, bar.at_most)[: 1 + most])
        rows.append((bar.name, f"{bar.value:.3f}", *bounds, "pass" if bar.met else "miss"))
    return f"Bars of the bundled model\n{aligned(rows)}"


def _on(report: Report, source: Sample, t: TokenizerReport) -> str:
    s = report.settings
    return (
        f"{source.split}: {source.images} images, data {source.data_hash[:12]}, {s['dtype']} on {s['device']}, "
        f"{t.name} revision {t.revision}"
    )


def _judge(report: Report) -> str:
    return f"{report.settings['classifier']}, revision {report.settings['classifier_revision']}"


def _psnr(spread: Spread) -> tuple[str, ...]:
    return f"{spread.mean:.2f}", f"{spread.std:.2f}", f"{spread.p5:.2f}"


def _named(named: Named) -> tuple[str, ...]:
    return f"{100 * named.kept:.1f} %", f"{100 * named.originals:.1f} %"


def _distance(spread: Spread) -> tuple[str, ...]:
    return f"{spread.mean:.4f}", f"{spread.error:.4f}", f"{spread.std:.4f}"


def _percent(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ± {100 * rate.error:.1f} %"


def _ratio(ratio: Ratio | None) -> tuple[str, ...]:
    if ratio is None:
        return ("-",) * 5
    generated, real = ratio.generated, ratio.real
    shares = (_percent(generated), str(generated.images), _percent(real), str(real.images))
    return *shares, f"{ratio.value:.3f} ± {ratio.error:.3f}"
