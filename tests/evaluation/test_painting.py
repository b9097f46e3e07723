"""What is measured of painting is what an edit paints, beside controls of the same drawings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextscale import Pipeline
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData
from nextscale.evaluation.generated import balanced_rows
from nextscale.evaluation.painting import (
    CONTROLS,
    PaintedPictures,
    PaintingReport,
    boxes_of,
    judge_painting,
)
from nextscale.evaluation.painting_table import painting_text
from nextscale.evaluation.subject import Judge, Subject, no_progress
from nextscale.measures.tokenizer import encode_all
from tests.evaluation.conftest import tiny_classifier

COUNT = 36


@pytest.fixture(scope="module")
def data(emoji: Path) -> ImageData:
    return load_data(emoji, 16, "heldout")


def judged(
    subject: Subject, judge: Judge | None, emoji: Path, data: ImageData
) -> tuple[PaintingReport, PaintedPictures]:
    tokens = encode_all(subject.tokenizer, data.images)
    return judge_painting(subject, judge, emoji, data, tokens, subject.shown(data), no_progress)


@pytest.fixture(scope="module")
def found(styled: Subject, judge: Judge, emoji: Path, data: ImageData) -> tuple[PaintingReport, PaintedPictures]:
    return judged(styled, judge, emoji, data)


def order(data: ImageData) -> list[int]:
    """All rows in the order in which they are painted: by class and style."""
    return balanced_rows(data.labels * 3 + data.style_labels, COUNT).tolist()


def test_drawings_are_painted_in_as_an_edit_does_it(
    styled: Subject, data: ImageData, found: tuple[PaintingReport, PaintedPictures]
) -> None:
    pipe = Pipeline(styled.tokenizer, styled.model, styled.conditioner)  # type: ignore[arg-type]
    for name, boxes in boxes_of(16, COUNT).items():
        drawings, masked, pasted, unpasted = found[1].boxes[name]
        for i in (0, 20, 35):
            row = order(data)[i]
            drawing = data.images[row].permute(1, 2, 0).numpy()
            assert np.array_equal(drawings[i].permute(1, 2, 0), drawing)
            asked: dict[str, Any] = {
                "style": data.styles[int(data.style_labels[row])],
                "box": boxes[i],
                "seed": i,
                "top_k": 5,
            }
            for paste, images in ((True, pasted), (False, unpasted)):
                (edited,) = pipe.edit(drawing, data.classes[int(data.labels[row])], paste=paste, **asked)
                assert np.array_equal(images[i].permute(1, 2, 0), np.asarray(edited))
            x, y, width, height = boxes[i]
            assert (masked[i, :, y : y + height, x : x + width] == 127).all()
            assert int((masked[i] != drawings[i]).any(0).sum()) <= width * height


def test_boxes_lie_in_the_picture_and_are_the_same_every_time() -> None:
    boxes = boxes_of(64, 500)
    assert boxes == boxes_of(64, 500)
    assert boxes["centre box"] == [[16, 16, 32, 32]] * 500
    x, y, width, height = torch.tensor(boxes["random boxes"]).T
    for start, size in ((x, width), (y, height)):
        assert (int(size.min()), int(size.max())) == (16, 48)
        assert int(start.min()) == 0
        assert int((start + size).max()) == 64


def test_the_numbers_are_those_of_these_pictures(
    judge: Judge, data: ImageData, found: tuple[PaintingReport, PaintedPictures]
) -> None:
    report, pictures = found
    assert (report.source.images, report.sampling, report.unjudged) == (COUNT, {"top_k": 5}, "")
    names = judge.network.config.names
    for one in report.boxes:
        drawings, _, pasted, _ = pictures.boxes[one.name]
        mask = torch.stack([torch.zeros(16, 16, dtype=torch.bool)] * COUNT)
        for i, (x, y, width, height) in enumerate(boxes_of(16, COUNT)[one.name]):
            mask[i, y : y + height, x : x + width] = True
        assert one.masked == pytest.approx(float(mask.double().mean()))
        white = torch.where(mask[:, None], 255, drawings)
        for what, images in (("drawing", drawings), ("painted", pasted), ("white box", white)):
            said = judge.network(images / 127.5 - 1).classes.argmax(-1).tolist()
            right = [names[a] == data.classes[int(data.labels[row])] for a, row in zip(said, order(data), strict=True)]
            assert one.recognised[what].value == pytest.approx(sum(right) / COUNT)
        more = one.recognised["painted"].value - one.recognised["white box"].value
        assert one.above["white box"].value == pytest.approx(more)
        assert one.outside_difference.value == pytest.approx(one.outside.value - one.outside_reconstruction.value)
        assert set(one.above) == set(CONTROLS)
        assert one.seams["painted"].value != one.seams["painted, without paste"].value


def test_bars_are_for_the_pixels_outside_and_for_both_controls(found: tuple[PaintingReport, PaintedPictures]) -> None:
    bars = found[0].bars()
    assert [name.split(": ")[1] for name, *_ in bars[:3]] == [
        "PSNR outside, difference, dB",
        "class recognised, above a white box",
        "class recognised, above a box of the mean colour",
    ]
    assert bars[0][2] == -0.5
    assert bars[1][2] == pytest.approx(2 * found[0].boxes[0].above["white box"].error)
    assert len(bars) == 6


def test_where_nothing_can_judge_the_rest_is_measured(
    styled: Subject, judge: Judge, emoji: Path, data: ImageData, found: tuple[PaintingReport, PaintedPictures]
) -> None:
    stranger = replace(judge, network=tiny_classifier(("animal", "car")))
    report = judged(styled, stranger, emoji, data)[0]
    assert "the classifier does not know the data's class 'face', 'flag'" in report.unjudged
    for one, full in zip(report.boxes, found[0].boxes, strict=True):
        assert one == replace(full, recognised={}, above={})
    assert [name.split(": ")[1] for name, *_ in report.bars()] == ["PSNR outside, difference, dB"] * 2
    assert "class not judged: the classifier does not know" in painting_text(report, "", "")


def test_the_pictures_have_drawings_from_all_over_the_set(found: tuple[PaintingReport, PaintedPictures]) -> None:
    sheets = found[1].sheets()
    assert list(sheets) == ["painting, centre box", "painting, random boxes"]
    for sheet in sheets.values():
        assert sheet.width > 12 * 16 * 4  # twelve in a row, four times as large
