"""A comparison's numbers are those of the single measurements; its FLOPs add up; ratios are to the first model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from nextscale.conditions.classes import ClassVocabulary
from nextscale.errors import InputError
from nextscale.evaluation.compare import Comparison, compare, comparison_text, same_weights
from nextscale.evaluation.report import evaluate
from nextscale.evaluation.speed import block_flops
from nextscale.evaluation.subject import Subject
from nextscale.memory.make import look_ahead
from nextscale.models.base import NextScaleModel
from nextscale.plan import default_plan
from tests.makers import CLASS_MODELS, CLASSES, SIZES, randomise, tiny_m_var, tiny_text_m_var, tiny_tokenizer, tiny_var


@pytest.fixture(scope="module")
def comparison(subject: Subject, pictures: Path) -> Comparison:
    return compare([subject, replace(subject, name="other", model=tiny_m_var())], pictures)


@pytest.mark.parametrize("make", CLASS_MODELS.values(), ids=CLASS_MODELS)
def test_flops_of_the_blocks_are_split_without_remainder(make: Callable[[], NextScaleModel]) -> None:
    """Linear: two per weight and token of every linear layer but AdaLN's; all parts together: what the blocks cost."""
    model = make()
    flops, schedule = block_flops(model), model.schedule
    linear = {n: m for n, m in model.blocks.named_modules() if isinstance(m, nn.Linear) and not n.endswith("ada_lin")}
    assert flops.linear == 2 * schedule.tokens * sum(module.weight.numel() for module in linear.values())
    plan = default_plan(model)
    outlook = look_ahead(plan.memories["model"], plan.course(0, model))
    steps = sum(model.step_flops(outlook, k, 1, 1) for k in range(len(schedule)))
    embedding = sum(model.embed_flops(n, k, 1) for k, n in enumerate(schedule.lengths))
    assert flops.linear + flops.attention + flops.scan == steps - embedding
    assert flops.condition == model.condition_flops(1)


def test_attention_and_scan_are_told_apart() -> None:
    var, m_var, lengths = block_flops(tiny_var()), block_flops(tiny_m_var()), [h * w for h, w in SIZES]
    assert var.scan == 0
    past = sum(n * sum(lengths[: k + 1]) for k, n in enumerate(lengths))
    assert var.attention == 4 * 32 * 3 * past  # width 32, depth 3
    assert m_var.attention == 4 * 32 * 2 * sum(n * n for n in lengths)  # own scale only
    assert m_var.scan > 0
    assert block_flops(tiny_m_var("attention")).scan == 0
    of_texts = block_flops(tiny_text_m_var())
    assert of_texts.attention == 4 * 32 * 3 * sum(n * n for n in lengths)
    assert of_texts.scan > 0


def test_losses_and_parameters_are_those_of_single_evaluations(
    comparison: Comparison, subject: Subject, pictures: Path
) -> None:
    first, other = comparison.models
    alone = evaluate(subject, pictures).generator
    assert alone is not None
    assert first.scores == alone.scores
    assert other.scores != first.scores
    assert first.parameters == sum(p.numel() for p in tiny_var().parameters()) > first.block_parameters
    assert (first.name, other.name, comparison.scales) == ("tiny", "other", ("1x1", "2x2", "3x3", "4x4"))
    assert comparison.same_tokenizer


def test_the_difference_of_losses_is_that_of_whole_images(comparison: Comparison) -> None:
    first, other = comparison.models
    assert first.more is None
    assert other.more is not None
    tokens = sum(h * w for h, w in SIZES)
    assert other.more.value == pytest.approx(tokens * (other.scores.total.loss - first.scores.total.loss))
    assert (other.more.images, other.more.families) == (10, 10)  # outside emoji sets every image is one of its own
    shown = f"loss of other minus that of tiny: {other.more.value:+.3f} ± {other.more.error:.3f} nats per image"
    assert shown in comparison_text(comparison)


def test_ratios_are_to_the_first_model(comparison: Comparison) -> None:
    first, other = comparison.models
    ratios = {line.name: line.ratios for line in comparison.lines}
    assert ratios["loss all"] == (other.scores.total.loss / first.scores.total.loss,)
    assert ratios["images/s"] == (other.speed.images_per_second / first.speed.images_per_second,)
    assert ratios["MFLOPs: scan"] == (None,)  # the first has none


def test_speeds_are_possible_ones(comparison: Comparison) -> None:
    for model in comparison.models:
        s = model.speed
        assert 0 < s.slowest <= s.images_per_second <= s.fastest
        assert s.undecoded > s.images_per_second
        assert 0 < s.peak_share < 1.5


def test_the_text_holds_every_line_and_what_it_was_measured_on(comparison: Comparison) -> None:
    shown = comparison_text(comparison)
    words = [" ".join(line.split()) for line in shown.splitlines()]
    for line in comparison.lines:
        values = " ".join(line.write(value) for value in line.values)
        assert any(found.startswith(f"{line.name} {values} ") for found in words)
    for words_of_settings in ("heldout: 10 images", "float32 on cpu", "tiny: revision", "other / tiny", "in turns"):
        assert words_of_settings in shown
    assert "different tokenizers" not in shown
    told = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert told["models"][1]["scores"]["total"]["loss"] == comparison.models[1].scores.total.loss


def test_different_tokenizers_are_seen_and_said(subject: Subject, pictures: Path) -> None:
    other = tiny_tokenizer()
    assert same_weights(subject.tokenizer, other)
    randomise(other, seed=1)
    assert not same_weights(subject.tokenizer, other)
    compared = compare([subject, replace(subject, name="other", tokenizer=other)], pictures)
    assert not compared.same_tokenizer
    assert "different tokenizers" in comparison_text(compared)
    assert compared.models[0].scores != compared.models[1].scores  # each on its own tokens


def test_what_cannot_be_compared_is_refused(subject: Subject, pictures: Path) -> None:
    unknown = ClassVocabulary(tuple(f"c{i}" for i in range(CLASSES)))
    with pytest.raises(InputError, match="alone is a tokenizer alone; expected models with a generator"):
        compare([subject, replace(subject, name="alone", model=None)], pictures)
    with pytest.raises(
        InputError, match=r"tiny draws the scales .* and small the scales .*; expected models of the sa"
    ):
        compare([subject, replace(subject, name="small", tokenizer=tiny_tokenizer(SIZES[:3]))], pictures)
    with pytest.raises(InputError, match="the model does not know the data's class"):
        compare([subject, replace(subject, conditioner=unknown)], pictures)
