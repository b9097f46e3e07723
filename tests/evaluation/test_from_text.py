"""A model of texts is judged by what it draws of emoji, where that can be told, and by what its texts are worth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nextscale import Pipeline
from nextscale.conditions.text import TextConditioner
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.evaluation.bars import CELLS, FAMILIES, SEEN
from nextscale.evaluation.bars_table import share
from nextscale.evaluation.bench import DRAWN, SEEDS, drawn_by
from nextscale.evaluation.drawings import Drawings
from nextscale.evaluation.prompts import Asked
from nextscale.evaluation.report import Report, evaluate
from nextscale.evaluation.subject import Judge, Subject
from nextscale.evaluation.table import text
from nextscale.measures.generator import score_images
from nextscale.measures.tokenizer import encode_all, silent
from nextscale.models.infinity import Infinity, InfinityConfig
from tests.conditions.tiny_t5 import WIDTH, reference, save_t5
from tests.evaluation import cells
from tests.evaluation.conftest import tiny_classifier
from tests.makers import SIZES, randomise, tiny_bitwise


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A model of texts with random weights."""
    folder = tmp_path_factory.mktemp("encoder")
    save_t5(folder)
    sizes = {"text_width": WIDTH, "text_length": 16, "text_heads": 2, "sizes": SIZES}
    model = Infinity(InfinityConfig(depth=2, width=16, heads=2, hidden=32, bits=3, **sizes))  # type: ignore[arg-type]
    randomise(model)
    settings = {"guidance_scale": 3.0, "top_p": 0.9}
    return Subject("reader", "0123456789ab", tiny_bitwise(), model.eval(), TextConditioner(reference(folder)), settings)


@pytest.fixture(scope="module")
def emoji_judge() -> Judge:
    return Judge("classifier", "aaaabbbbcccc", tiny_classifier(cells.CLASSES, cells.STYLES))


@pytest.fixture(scope="module")
def report(reader: Subject, emoji_judge: Judge, emoji_cells: Path) -> Report:
    return evaluate(reader, emoji_cells, judge=emoji_judge, generated=8)


def test_the_report_has_every_bar_and_every_number_in_its_text(report: Report) -> None:
    found, shown = report.from_text, text(report)
    assert found is not None
    assert report.generated is None
    assert [(one.name, one.prompts) for one in found.retrievals] == [(SEEN, 2), (CELLS, 2), (FAMILIES, 2)]
    assert [one.rows[DRAWN].five.images for one in found.retrievals] == [2 * SEEDS] * 3
    assert "Drawn from text: every prompt with 4 seeds, guidance_scale 3.0, top_p 0.9; judged at 64 pixels" in shown
    for one in found.retrievals:
        for row in one.rows.values():
            columns = [row.five, row.first, row.own, *([] if one.name == SEEN else [row.new]), row.style]
            cells_of_row = "  ".join(share(column) for column in columns)
            assert cells_of_row.replace(" ", "") in shown.replace(" ", "")
    assert found.order is not None
    assert f"reconstructions {share(found.order.kept)}" in shown
    assert {bar.name[:3] for bar in report.bars} >= {"(a)", "(b)", "(c)", "(e)", "(f)"}
    for bar in report.bars:
        assert any(line.split()[: len(bar.name.split())] == bar.name.split() for line in shown.splitlines())
    told = json.loads(json.dumps(report.to_dict()))
    assert told["from_text"]["retrievals"][1]["rows"][DRAWN]["new"]["images"] == 8
    assert "sheets" not in told
    assert set(report.sheets) == {"seen", "cells", "families"}


def test_the_text_gain_is_the_loss_without_the_text_minus_the_loss_with_it(
    report: Report, reader: Subject, emoji_cells: Path
) -> None:
    heldout = load_data(emoji_cells, 16, "heldout", captions=True)
    maps, shown = encode_all(reader.tokenizer, heldout), reader.shown(heldout)
    assert reader.model is not None
    with_text = score_images(reader.model, reader.tokenizer, maps, shown)[1]
    assert report.generator is not None
    gain = report.generator.text_gain
    assert {name: (found.images, found.families) for name, found in gain.items()} == {CELLS: (9, 3), FAMILIES: (6, 2)}
    # The null stands where the text stood, as long as it was.
    bare = shown(torch.arange(len(heldout))).drop("text", torch.ones(len(heldout), dtype=torch.bool))
    without = score_images(reader.model, reader.tokenizer, maps, bare.select)[1]
    families = [record in cells.FAMILIES for record in heldout.names]
    for name, side in ((CELLS, False), (FAMILIES, True)):
        rows = [i for i, is_family in enumerate(families) if is_family == side]
        assert gain[name].value == pytest.approx(float((without - with_text)[rows].mean()), rel=1e-4)
    assert f"text gain on held-out cells: {gain[CELLS].value:.2f} ± {gain[CELLS].error:.2f} nats per image" in text(
        report
    )


def test_pictures_are_those_that_the_pipeline_draws_of_each_prompt(reader: Subject, emoji_cells: Path) -> None:
    data = [load_data(emoji_cells, 16, split, captions=True) for split in ("heldout", "train")]
    prompts = replace(Asked.of(Drawings.of(emoji_cells, *data), 2).seen, negative="twemoji")
    draw, plan = drawn_by(reader)
    images = draw(prompts, silent)
    assert any("negative" in branch for branch in plan.branches)
    assert reader.model is not None
    assert reader.conditioner is not None
    pipe = Pipeline(reader.tokenizer, reader.model, reader.conditioner, defaults=reader.defaults)
    again = pipe(prompt=[*prompts.texts] * SEEDS, negative_prompt="twemoji", seed=0, output_type="pt").images
    assert torch.equal((again * 255).round().byte(), images)


def test_nothing_is_drawn_where_it_cannot_be_judged_or_nobody_asks(
    reader: Subject, emoji_judge: Judge, emoji_cells: Path
) -> None:
    assert evaluate(reader, emoji_cells).from_text is None  # no classifier
    assert evaluate(reader, emoji_cells, "train", judge=emoji_judge).from_text is None
    report = evaluate(reader, emoji_cells, judge=emoji_judge, generated=0)
    assert report.from_text is None
    assert report.generator is not None
    assert set(report.generator.text_gain) == {CELLS, FAMILIES}
    with pytest.raises(InputError, match="6 images of each bar are to be drawn; expected a multiple of 4, the seeds"):
        evaluate(reader, emoji_cells, judge=emoji_judge, generated=6)
    with pytest.raises(InputError, match="judged by a classifier, and none is at hand"):
        evaluate(reader, emoji_cells, generated=8)
    plain = replace(reader, defaults={})
    report = evaluate(plain, emoji_cells, judge=emoji_judge, generated=4)
    assert report.from_text is not None
    assert report.from_text.negative is None
    assert "negative prompts have no say with these settings" in text(report)
