"""The text shows every number of the report, with the settings it was measured in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nextscale.evaluation.report import Report, Subject, evaluate
from nextscale.evaluation.table import text
from nextscale.evaluation.tokenizer import CodeUse, Spread


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
        assert "float32 on cpu, revision 0123456789ab" in line
        if source is not None:
            assert f"{source.images} images, data {source.data_hash[:12]}" in line


def test_bars_say_pass_or_miss(report: Report) -> None:
    good = replace(report.tokenizer, psnr=Spread(22.0, 1, 20), use=CodeUse(0.95, 0.3 * report.tokenizer.codes))
    bad = replace(report.tokenizer, psnr=Spread(21.99, 1, 20), use=CodeUse(0.949, 0.29 * report.tokenizer.codes))
    assert verdicts(replace(report, tokenizer=good)) == ["pass"] * 3
    assert verdicts(replace(report, tokenizer=bad)) == ["miss"] * 3


def verdicts(report: Report) -> list[str]:
    return [line.split()[-1] for line in text(report).split("\n\n")[-1].splitlines()[2:]]


def test_a_tokenizer_alone_has_no_generator_table(report: Report) -> None:
    assert "Generator" not in text(replace(report, generator=None))
