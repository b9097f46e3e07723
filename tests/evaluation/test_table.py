"""The text shows every number of the report, with the settings it was measured in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nextscale.evaluation.report import Report, evaluate
from nextscale.evaluation.subject import Judge, Subject
from nextscale.evaluation.table import text
from nextscale.measures.tokenizer import CodeUse, Spread
from tests.makers import randomise, tiny_tokenizer


@pytest.fixture(scope="module")
def report(subject: Subject, pictures: Path) -> Report:
    return evaluate(subject, pictures)


def test_every_number_is_shown(report: Report) -> None:
    shown, t, g = text(report), report.tokenizer, report.generator
    assert g is not None
    assert g.train is not None
    numbers = [f"{value:.2f}" for spread in t.psnr_by_scale for value in (spread.mean, spread.std, spread.p5)]
    numbers += [f"{use.perplexity:.1f}" for use in (*t.use_by_scale, t.use)]
    numbers += [f"{100 * use.share:.1f} %" for use in (*t.use_by_scale, t.use)]
    for scores in (g.scores, g.train):
        numbers += [f"{score.loss:.3f}" for score in (*scores.scales, scores.total)]
        numbers += [f"{100 * score.accuracy:.1f} %" for score in (*scores.scales, scores.total)]
    numbers += [f"{g.scores.total.loss - g.train.total.loss:+.3f}", f"{g.images_per_second:.1f} images/s"]
    words = [" ".join(line.split()) for line in shown.splitlines()]
    assert [number for number in numbers if not any(number in line for line in words)] == []


def test_each_table_has_its_settings_beside_it(report: Report) -> None:
    tables = text(report).split("\n\n")[1:]
    assert [table.split()[0] for table in tables] == ["Reconstruction:", "Codebook:", "Generator:", "Bars"]
    for table, split, source in zip(
        tables, ("heldout", "train", "heldout"), (report.tokenizer.source, report.tokenizer.codes_source, None)
    ):
        line = table.splitlines()[1]
        assert line.startswith(f"{split}: ")
        assert "float32 on cpu, tiny revision 0123456789ab" in line
        if source is not None:
            assert f"{source.images} images, data {source.data_hash[:12]}" in line


def test_bars_say_pass_or_miss(report: Report) -> None:
    good = replace(report.tokenizer, psnr=Spread(23.0, 1, 20, 9), use=CodeUse(0.95, 0.3 * report.tokenizer.codes))
    bad = replace(report.tokenizer, psnr=Spread(22.99, 1, 20, 9), use=CodeUse(0.949, 0.29 * report.tokenizer.codes))
    assert verdicts(replace(report, tokenizer=good)) == ["pass"] * 3
    assert verdicts(replace(report, tokenizer=bad)) == ["miss"] * 3


@pytest.fixture(scope="module")
def judged(styled: Subject, judge: Judge, emoji: Path) -> Report:
    other = Subject("other", "ddddeeeeffff", tiny_tokenizer())
    randomise(other.tokenizer, seed=1)
    return evaluate(styled, emoji, judge=judge, against=other, generated=36)


def test_tokenizers_stand_side_by_side_in_every_style(judged: Report) -> None:
    (part,) = (part for part in text(judged).split("\n\n") if part.startswith("Styles: styled and, right of it, other"))
    assert "in the features of classifier, revision aaaabbbbcccc" in part
    lines = [line.split() for line in part.splitlines()[-4:]]
    assert judged.against is not None
    for i, line in enumerate(lines):
        numbers = []
        for t in (judged.tokenizer, judged.against):
            psnr, distance, named = (getattr(t.styles[i - 1] if i else t, m) for m in ("psnr", "distance", "named"))
            numbers += [f"{psnr.mean:.2f}", f"{psnr.std:.2f}", f"{psnr.p5:.2f}"]
            numbers += [f"{distance.mean:.4f}", f"{distance.error:.4f}", f"{distance.std:.4f}"]
            numbers += [f"{100 * named.kept:.1f}", "%", f"{100 * named.originals:.1f}", "%"]
        assert line == [["all", "36"], ["noto", "12"], ["twemoji", "12"], ["openmoji", "12"]][i] + numbers


def test_what_the_classifier_says_is_shown_with_errors_and_names(judged: Report) -> None:
    (part,) = (part for part in text(judged).split("\n\n") if part.startswith("Generated: 36 images"))
    g, words = judged.generated, " ".join(part.split())
    assert g is not None
    for ratio in (g.class_ratio, g.style_ratio):
        assert ratio is not None
        assert (
            f"{100 * ratio.generated.value:.1f} ± {100 * ratio.generated.error:.1f} % {ratio.generated.images}" in words
        )
        assert f"{ratio.value:.3f} ± {ratio.error:.3f}" in words
    for shown in ("seeds 0 to 35, top_k 5", f"held-out one: {g.farther:.3f}", f"{g.frechet:.4f}", "(not the FID)"):
        assert shown in words
    assert f"near copies {100 * g.copies.value:.1f} ±" in words


def verdicts(report: Report) -> list[str]:
    return [line.split()[-1] for line in text(report).split("\n\n")[-1].splitlines()[2:]]


def test_a_tokenizer_alone_has_no_generator_table(report: Report) -> None:
    assert "Generator" not in text(replace(report, generator=None))
