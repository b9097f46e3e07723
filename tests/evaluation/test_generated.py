"""Generated images have the labels of held-out ones and seeds of their own, and are judged as the definitions say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale import Pipeline
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.evaluation.generated import at_size, balanced_rows, draw_images, judge_generated
from nextscale.evaluation.subject import Judge, Subject, labels_of, no_progress
from nextscale.measures.tokenizer import BATCH
from nextscale.plan import default_plan
from tests.evaluation.conftest import tiny_classifier


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 200))
def test_labels_have_the_shares_of_the_held_out_images(labels: list[int], count: int) -> None:
    rows = balanced_rows(torch.tensor(labels), count)
    drawn = Counter(labels[row] for row in rows.tolist())
    for label, there in Counter(labels).items():
        assert abs(drawn[label] - count * there / len(labels)) <= 1
    if count == len(labels):
        assert sorted(rows.tolist()) == list(range(count))


def test_images_are_those_the_pipeline_draws_with_seeds_from_0(styled: Subject) -> None:
    assert styled.model is not None
    assert styled.vocabulary is not None
    labels = torch.arange(BATCH + 3) % 9
    images = draw_images(styled, default_plan(styled.model, top_k=5), labels)
    assert images.dtype == torch.uint8
    pipe = Pipeline(styled.tokenizer, styled.model, styled.vocabulary)
    for i in (0, 1, BATCH, BATCH + 2):
        style, number = divmod(int(labels[i]), 3)
        picture = pipe(number, style=styled.vocabulary.styles[style], seed=i, top_k=5, output_type="pt").images[0]
        assert torch.equal((picture * 255).round().byte(), images[i])


def test_images_of_another_size_are_held_against_by_area() -> None:
    images = torch.randint(256, (BATCH + 1, 3, 8, 8), dtype=torch.uint8)
    assert at_size(images, 8) is images
    means = images.double().unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    assert (at_size(images, 4) - means).abs().max() <= 0.5
    assert torch.equal(at_size(images[..., :4], 8)[..., ::2], images[..., :4])


def test_the_report_is_made_of_what_its_definitions_say(styled: Subject, judge: Judge, emoji: Path) -> None:
    heldout, train = load_data(emoji, 16, "heldout"), load_data(emoji, 16, "train")
    report, pictures = judge_generated(styled, judge, emoji, heldout, train, 90, no_progress)
    near = pictures.near
    assert (report.images, report.sampling, report.classes) == (90, {"top_k": 5}, 2)  # the flags are one family
    assert (report.source.images, report.train_source.images) == (36, 27)
    assert report.copies.images == report.closer.images == 90
    nearest = near.distances[:, 0]
    assert report.copies.value == pytest.approx(float((nearest <= report.threshold).double().mean()))
    assert report.closer.value == pytest.approx(float((nearest < near.heldout.median()).double().mean()))
    assert float((near.heldout <= report.threshold).double().mean()) == pytest.approx(1 / 36, abs=1e-6)
    assert styled.vocabulary is not None
    rows = balanced_rows(labels_of(styled.vocabulary, heldout), 90)
    said = judge.network(pictures.images / 127.5 - 1).classes.argmax(-1)
    named = [judge.network.config.names[i] for i in said.tolist()]
    asked = [heldout.classes[heldout.labels[row]] for row in rows.tolist()]
    kept = [i for i in range(90) if nearest[i] > report.threshold and asked[i] != "flag"]
    assert report.class_ratio is not None
    assert report.class_ratio.generated.images == len(kept)
    assert report.class_ratio.generated.value == pytest.approx(sum(named[i] == asked[i] for i in kept) / len(kept))
    assert report.class_ratio.real.images == 24
    assert report.style_ratio is not None
    assert report.style_ratio.generated.images == int((nearest > report.threshold).sum())
    assert report.style_ratio.real.images == 36
    assert report.frechet > 0
    assert pictures.asked[0] == "animal, noto"
    assert Counter(pictures.asked) == {f"{c}, {s}": 10 for c in heldout.classes for s in heldout.styles}


def test_a_classifier_without_styles_gives_no_style_ratio(styled: Subject, judge: Judge, emoji: Path) -> None:
    heldout, train = load_data(emoji, 16, "heldout"), load_data(emoji, 16, "train")
    blind = replace(judge, network=tiny_classifier(judge.network.config.names))
    assert judge_generated(styled, blind, emoji, heldout, train, 9, no_progress)[0].style_ratio is None


def test_what_cannot_be_judged_is_refused(styled: Subject, judge: Judge, emoji: Path) -> None:
    heldout, train = load_data(emoji, 16, "heldout"), load_data(emoji, 16, "train")
    with pytest.raises(InputError, match="1 generated and 36 held-out images; expected at least 2"):
        judge_generated(styled, judge, emoji, heldout, train, 1, no_progress)
    other = replace(judge, network=tiny_classifier(("animal", "car")))
    with pytest.raises(InputError, match="the classifier does not know the data's class 'face', 'flag'"):
        judge_generated(styled, other, emoji, heldout, train, 9, no_progress)
