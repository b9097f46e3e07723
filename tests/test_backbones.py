"""The table of backbones: a row for everything that a model can vary, all by one judge, with a picture each."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.folder import load_data
from nextscale.evaluation.subject import Judge, Subject
from nextscale.measures.generator import score_generator
from nextscale.measures.tokenizer import encode_all
from tests.evaluation.conftest import draw_emoji, tiny_classifier
from tests.makers import STYLES, load_tool, tiny_direct, tiny_flexvar, tiny_hmar, tiny_tokenizer

SCALES = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6), (8, 8))
VOCABULARY = ClassVocabulary(("animal", "face", "flag"), styles=STYLES)


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_tool("backbones")


@pytest.fixture(scope="module")
def subjects() -> list[Subject]:
    """32x32 pixels: a model of one schedule, one that goes over a scale again, one that is free in its scales."""
    tokenizer, direct = tiny_tokenizer(SCALES), tiny_direct(SCALES)
    hmar, masked = (tiny_hmar(blocks, classes=9, depth=1, sizes=SCALES) for blocks in (0, 1))
    flexvar = tiny_flexvar(classes=9, depth=1, sizes=SCALES, places=16)
    models = (("plain", tokenizer, hmar), ("again", tokenizer, masked), ("free", direct, flexvar))
    return [Subject(name, name, kept, model, VOCABULARY, {"top_k": 5}) for name, kept, model in models]


def test_models_have_rows_for_what_they_can_vary(tool: ModuleType, subjects: list[Subject]) -> None:
    rows = [(one.name, tool.plan_of(one, **more)) for one in subjects for more in tool.settings_of(one)]
    shown = [(name, plan.schedule.grid, sum(len(row.passes or [1]) for row in plan.rows)) for name, plan in rows]
    assert shown == [
        ("plain", (8, 8), 6),
        *(("again", (8, 8), 6 + extra) for extra in (0, 1, 4, 8)),
        *(("free", (8, 8), steps) for steps in (4, 6, 8)),
        *(("free", grid, 6) for grid in ((6, 6), (12, 8))),
        *(("free", (16, 16), steps) for steps in (10, 12)),
    ]


def test_every_row_is_judged_alike_and_has_a_picture(
    tool: ModuleType, subjects: list[Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses stand where tokens are those of the first model; larger pictures need more memory."""
    monkeypatch.setattr(tool, "REFINEMENTS", ("1,3",))
    monkeypatch.setattr(tool, "SHAPES", (((3 / 2, 1), (4,)), ((1 / 2, 1 / 2), (4,))))
    folder = draw_emoji(tmp_path / "emoji", train=2, heldout=1, side=32)
    judge = Judge("judge", "0123456789ab", tiny_classifier(VOCABULARY.names, STYLES))
    heldout, rows = tool.measure(subjects, judge, folder, 3, 1, tmp_path / "out")
    assert [row.cells[:4] for row in rows] == [
        ("plain", "32x32", "6", "0"),
        ("again", "32x32", "6", "1"),
        ("free", "48x32", "4", "0"),
        ("free", "16x16", "4", "0"),
    ]
    assert all(row.judged.images == row.judged.copies.images == 3 for row in rows)
    tokens, again = encode_all(subjects[0].tokenizer, load_data(folder, 32, "heldout")), subjects[1]
    assert again.model is not None
    loss = score_generator(again.model, again.tokenizer, tokens, again.shown(heldout)).total.loss
    assert [row.loss for row in rows[1:]] == [loss, None, None]
    assert rows[2].bytes > rows[3].bytes
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {row.name for row in rows}
    assert len(tool.table(rows).splitlines()) == 2 + len(rows)


def test_the_sheet_shows_pictures_at_their_own_size_and_seeds(tool: ModuleType, subjects: list[Subject]) -> None:
    images = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 48, 32) * 100
    heldout = type("Data", (), {"classes": ("a",), "styles": ("s",), "labels": [0] * 3, "style_labels": [0] * 3})()
    page: Image.Image = tool.sheet(tool.DrawnImages(images, torch.arange(3)), subjects[0], heldout)
    colours = [colour for _, colour in (page.getcolors(10**6) or []) if colour in {(n, n, n) for n in (0, 100, 200)}]
    assert len(colours) == 3
    assert page.width >= 3 * 4 * 32
