"""A report holds what the single measurements give on the right images, says which, and refuses what does not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nextscale.conditions.classes import ClassVocabulary, class_features
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.evaluation.bars import Bar
from nextscale.evaluation.report import evaluate
from nextscale.evaluation.subject import Judge, Subject, sample_rows
from nextscale.measures.generator import score_generator
from nextscale.measures.tokenizer import Spread, Step, code_use, encode_all, reconstruction_psnr
from tests.evaluation.conftest import HELDOUT, TRAIN, draw_folder
from tests.makers import CODES, SIZES, randomise, tiny_tokenizer


def test_every_number_is_measured_on_the_images_it_names(subject: Subject, pictures: Path) -> None:
    report = evaluate(subject, pictures)
    heldout, train = load_data(pictures, 16, "heldout"), load_data(pictures, 16, "train")
    tokens, train_tokens = encode_all(subject.tokenizer, heldout.images), encode_all(subject.tokenizer, train.images)
    t, g = report.tokenizer, report.generator
    assert g is not None
    measured = reconstruction_psnr(subject.tokenizer, heldout.images, tokens, range(4))
    assert t.psnr_by_scale == tuple(Spread.of(measured[k]) for k in range(4))
    assert t.psnr == t.psnr_by_scale[-1]
    assert (t.use, t.use_by_scale) == code_use(train_tokens, CODES)
    assert subject.model is not None
    assert g.scores == score_generator(subject.model, subject.tokenizer, tokens, class_features(heldout.labels).select)
    rows = sample_rows(TRAIN, HELDOUT)
    sampled = [maps[rows] for maps in train_tokens]
    assert g.train == score_generator(
        subject.model, subject.tokenizer, sampled, class_features(train.labels[rows]).select
    )
    assert g.train != g.scores
    assert g.uniform_loss == math.log(CODES)
    assert (t.source.split, t.source.images, t.source.data_hash) == ("heldout", HELDOUT, heldout.hash)
    assert (t.codes_source.split, t.codes_source.images, t.codes_source.data_hash) == ("train", TRAIN, train.hash)
    assert g.source == t.source
    assert g.train_source is not None
    assert (g.train_source.split, g.train_source.images) == ("train", HELDOUT)


def test_the_settings_say_what_a_repetition_needs(subject: Subject, pictures: Path) -> None:
    settings = evaluate(subject, pictures).settings
    expected = {"model": "tiny", "revision": "0123456789ab", "device": "cpu", "dtype": "float32", "pixels": "16x16"}
    expected |= {"split": "heldout", "background": "white", "data": str(pictures), "torch": torch.__version__}
    assert expected.items() <= settings.items()
    assert (settings["images"], settings["train_images"], settings["classes"]) == (HELDOUT, TRAIN, 5)


@pytest.mark.parametrize(("split", "images"), [("train", TRAIN), ("all", TRAIN + HELDOUT)])
def test_training_images_are_compared_with_held_out_ones_only(
    subject: Subject, pictures: Path, split: str, images: int
) -> None:
    report = evaluate(subject, pictures, split)
    assert report.generator is not None
    assert report.generator.train is None
    assert report.generator.train_source is None
    assert report.tokenizer.source.images == report.generator.source.images == images
    assert report.tokenizer.codes_source.images == TRAIN
    assert [bar.name for bar in report.bars] == ["codes in use", "perplexity / codes"]


def test_a_tokenizer_is_measured_alone(subject: Subject, pictures: Path) -> None:
    alone = evaluate(replace(subject, model=None, conditioner=None), pictures)
    assert alone.generator is None
    assert alone.tokenizer.psnr == evaluate(subject, pictures).tokenizer.psnr


def test_the_order_of_the_models_classes_is_respected(subject: Subject, pictures: Path) -> None:
    """The same model with its classes renamed: other images get other labels, so the loss changes."""
    assert subject.vocabulary is not None
    orders = (subject.vocabulary, ClassVocabulary(subject.vocabulary.names[::-1]))
    a, b = (evaluate(replace(subject, conditioner=order), pictures).generator for order in orders)
    assert a is not None
    assert b is not None
    assert a.scores.total.loss != b.scores.total.loss


def test_another_tokenizer_is_measured_in_the_same_way(styled: Subject, judge: Judge, emoji: Path) -> None:
    other = Subject("other", "ddddeeeeffff", tiny_tokenizer())
    randomise(other.tokenizer, seed=1)
    report = evaluate(styled, emoji, judge=judge, against=other)
    alone = evaluate(other, emoji, judge=judge).tokenizer
    assert report.against is not None
    assert replace(report.against, images_per_second=alone.images_per_second) == alone
    assert report.against.psnr != report.tokenizer.psnr
    bars = {bar.name: bar for bar in report.bars}
    assert report.tokenizer.distance is not None
    assert alone.distance is not None
    ratio = alone.distance.mean / report.tokenizer.distance.mean
    assert bars["distance of other / distance"] == Bar("distance of other / distance", ratio, 1.0)
    worst = min(report.tokenizer.styles, key=lambda style: style.psnr.mean)
    assert bars[f"PSNR of the worst style ({worst.name}), dB"].value == worst.psnr.mean


def test_generated_images_add_their_bars_and_no_tensors_to_the_json(styled: Subject, judge: Judge, emoji: Path) -> None:
    report = evaluate(styled, emoji, judge=judge, generated=36)
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["generated"]["images"] == 36
    assert "neighbours" not in told
    assert report.generated is not None
    assert report.generated.style_ratio is not None
    last = report.bars[-1]
    assert (last.name, last.value, last.at_least) == (
        "style recognised, ratio",
        report.generated.style_ratio.value,
        0.95,
    )


def test_what_cannot_be_judged_is_refused_before_any_work(styled: Subject, judge: Judge, emoji: Path) -> None:
    started: list[str] = []

    @contextmanager
    def progress(title: str, unit: str) -> Iterator[Step]:
        started.append(title)
        yield lambda done, total: None

    with pytest.raises(InputError, match="judged by a classifier, and none is at hand; name one with --classifier"):
        evaluate(styled, emoji, progress=progress, generated=9)
    with pytest.raises(InputError, match="expected the split heldout, not train"):
        evaluate(styled, emoji, "train", progress, judge=judge, generated=9)
    with pytest.raises(InputError, match="styled is a tokenizer alone"):
        evaluate(replace(styled, model=None, conditioner=None), emoji, progress=progress, judge=judge, generated=9)
    small = Subject("small", "", tiny_tokenizer(SIZES[:3]))
    with pytest.raises(InputError, match="small keeps images of 12 pixels; expected 16, as styled does"):
        evaluate(styled, emoji, progress=progress, against=small)
    assert started == []


def test_bars_are_met_from_their_value_on() -> None:
    assert Bar("x", 0.3, 0.3).met
    assert not Bar("x", 0.2999, 0.3).met


def test_the_report_is_json_without_infinities(subject: Subject, pictures: Path) -> None:
    report = evaluate(subject, pictures)
    told = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert told["tokenizer"]["psnr"]["mean"] == report.tokenizer.psnr.mean
    assert [bar["at_least"] for bar in told["bars"]] == [23, 0.95, 0.3]
    assert [bar["met"] for bar in told["bars"]] == [bar.met for bar in report.bars]
    assert told["scales"] == ["1x1", "2x2", "3x3", "4x4"]


def test_every_stage_reports_its_end(subject: Subject, pictures: Path) -> None:
    stages: dict[str, tuple[int, int]] = {}

    @contextmanager
    def progress(title: str, unit: str) -> Iterator[Step]:
        assert unit == "images"
        yield lambda done, total: stages.update({title: (done, total)})

    evaluate(subject, pictures, progress=progress)
    assert list(stages.values()) == [(10, 10), (10, 10), (15, 15), (10, 10), (10, 10)]


def test_an_unknown_split_or_folder_is_refused(subject: Subject, pictures: Path) -> None:
    with pytest.raises(InputError, match="no split 'test'; expected one of train, heldout, all"):
        evaluate(subject, pictures, "test")
    with pytest.raises(InputError, match="does not exist"):
        evaluate(subject, pictures / "none")


def test_unknown_classes_are_refused(subject: Subject, tmp_path: Path) -> None:
    folder = draw_folder(tmp_path / "data", ("animal", "planet"))
    with pytest.raises(InputError, match="class 'planet', and the data lack 'face', 'flag', 'food'"):
        evaluate(subject, folder)
    assert (
        evaluate(replace(subject, model=None, conditioner=None), folder).generator is None
    )  # a tokenizer needs no classes


def test_images_that_do_not_fit_the_resolution_are_refused(subject: Subject, tmp_path: Path) -> None:
    small = draw_folder(tmp_path / "small", side=12)
    with pytest.raises(InputError, match="smaller than 16 pixels"):
        evaluate(subject, small)
    emoji = tmp_path / "emoji"
    emoji.mkdir()
    (emoji / "dataset.json").write_text(json.dumps({"recipe": {"format_version": 1, "resolution": 32}}))
    with pytest.raises(InputError, match="drawn at 32 pixels; expected 16"):
        evaluate(subject, emoji)


def test_a_model_of_oblong_pictures_is_refused(pictures: Path) -> None:
    oblong = Subject("oblong", "", tiny_tokenizer(((1, 1), (2, 4))))
    with pytest.raises(InputError, match="8x16 pixels; expected square"):
        evaluate(oblong, pictures)
