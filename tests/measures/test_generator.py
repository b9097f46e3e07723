"""Losses and accuracies obey their closed forms, add up, and are those of the model's own forward pass."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextscale.conditions.classes import class_features
from nextscale.measures.generator import Scores, score_generator, score_images, token_scores
from nextscale.measures.tokenizer import BATCH
from nextscale.scales import ScaleSchedule
from tests.makers import CLASSES, CODES, SIZES, tiny_tokenizer, tiny_var

LENGTHS = [h * w for h, w in SIZES]


def some_tokens(count: int) -> tuple[list[Tensor], Tensor]:
    """Random token maps and labels."""
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(CODES, (count, h, w), generator=generator) for h, w in SIZES]
    return maps, torch.randint(CLASSES, (count,), generator=generator)


@given(st.integers(2, 200), st.floats(-50, 50))
def test_uniform_logits_have_the_loss_ln_v(codes: int, level: float) -> None:
    tokens = torch.arange(6).view(2, 3) % codes
    loss, _ = token_scores(torch.full((2, 3, codes), level), tokens)
    assert loss.flatten().tolist() == pytest.approx([math.log(codes)] * 6, rel=1e-4)


def test_a_sure_prediction_scores_by_whether_it_is_right() -> None:
    tokens = torch.tensor([[3, 1, 0]])
    loss, right = token_scores(1000.0 * F.one_hot(torch.tensor([[3, 1, 2]]), 4), tokens)
    assert loss.tolist() == [[0, 0, 1000]]
    assert right.tolist() == [[True, True, False]]


@given(st.lists(st.floats(0, 20), min_size=14, max_size=14), st.lists(st.floats(0, 1), min_size=14, max_size=14))
def test_scales_weighted_by_their_tokens_average_to_the_total(loss: list[float], accuracy: list[float]) -> None:
    schedule = ScaleSchedule.of([1, 2, 3])
    scores = Scores.of(torch.tensor(loss).double(), torch.tensor(accuracy).double(), schedule)
    assert [score.tokens for score in scores.scales] == [1, 4, 9]
    assert scores.total.tokens == 14
    for name in ("loss", "accuracy"):
        weighted = sum(score.tokens * getattr(score, name) for score in scores.scales) / 14
        assert getattr(scores.total, name) == pytest.approx(weighted)


def test_scores_are_those_of_one_forward_pass_over_all_images() -> None:
    """More images than a batch holds, and a number that is no multiple of it: the mean is still over all tokens."""
    model, tokenizer, (maps, labels) = tiny_var(), tiny_tokenizer(), some_tokens(BATCH + 5)
    logits = model(tokenizer.follow(maps).inputs, model.condition(class_features(labels)))
    targets = torch.cat([t.flatten(1) for t in maps], 1)
    scores = score_generator(model, tokenizer, maps, class_features(labels).select)
    assert scores.total.loss == pytest.approx(float(F.cross_entropy(logits.flatten(0, 1), targets.flatten())), rel=1e-4)
    assert scores.total.accuracy == pytest.approx(float((logits.argmax(-1) == targets).double().mean()), abs=1e-3)
    for k, score in enumerate(scores.scales):
        place = model.schedule.slice(k)
        expected = F.cross_entropy(logits[:, place].flatten(0, 1), targets[:, place].flatten())
        assert score.tokens == LENGTHS[k]
        assert score.loss == pytest.approx(float(expected), rel=1e-4)


def test_a_model_that_knows_nothing_has_the_loss_ln_v_at_every_scale() -> None:
    model, (maps, labels) = tiny_var(), some_tokens(3)
    model.head_lin.weight.zero_()
    model.head_lin.bias.zero_()
    scores = score_generator(model, tiny_tokenizer(), maps, class_features(labels).select)
    assert [s.loss for s in (*scores.scales, scores.total)] == pytest.approx([math.log(CODES)] * 5, rel=1e-5)


def test_tokens_and_labels_both_matter() -> None:
    model, tokenizer, (maps, labels) = tiny_var(), tiny_tokenizer(), some_tokens(4)
    scores = score_generator(model, tokenizer, maps, class_features(labels).select)
    assert score_generator(model, tokenizer, maps, class_features((labels + 1) % CLASSES).select) != scores
    coarse = [(maps[0] + 1) % CODES, *maps[1:]]
    changed = score_generator(model, tokenizer, coarse, class_features(labels).select)
    assert changed.scales[3].loss != scores.scales[3].loss  # fine scales see coarse ones
    fine = [*maps[:3], (maps[3] + 1) % CODES]
    assert (
        score_generator(model, tokenizer, fine, class_features(labels).select).scales[:3] == scores.scales[:3]
    )  # and never the reverse


def test_a_model_in_training_mode_is_our_own_mistake() -> None:
    maps, labels = some_tokens(2)
    with pytest.raises(AssertionError, match="eval"):
        score_generator(tiny_var().train(), tiny_tokenizer(), maps, class_features(labels).select)


def test_scoring_leaves_training_possible() -> None:
    """What scoring keeps (the attention mask) must not be an inference tensor."""
    model, tokenizer, (maps, labels) = tiny_var(), tiny_tokenizer(), some_tokens(2)
    score_generator(model, tokenizer, maps, class_features(labels).select)
    model.train().requires_grad_(True)
    model(tokenizer.follow(maps).inputs, model.condition(class_features(labels))).sum().backward()
    assert model.head_lin.weight.grad is not None


def test_the_loss_of_an_image_is_that_of_all_its_draws_together() -> None:
    model, tokenizer, (maps, labels) = tiny_var(), tiny_tokenizer(), some_tokens(3)
    scores, losses = score_images(model, tokenizer, maps, class_features(labels).select)
    assert float(losses.mean()) == pytest.approx(scores.total.loss * sum(LENGTHS), rel=1e-6)
    for i in range(3):
        alone = score_images(model, tokenizer, [m[i, None] for m in maps], class_features(labels[i, None]).select)
        assert float(losses[i]) == pytest.approx(float(alone[1]), rel=1e-5)
