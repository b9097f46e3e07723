"""Masked refinement: which passes are taken, what is refused, and that a call, a recipe and the price know of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import nextscale
from nextscale.errors import PlanError
from nextscale.methods.refine import refined
from nextscale.pipeline import Pipeline
from nextscale.plan import default_plan
from nextscale.price import price
from tests.makers import tiny_hmar, tiny_pipeline, tiny_tokenizer, tiny_var


@pytest.fixture
def pipe() -> Pipeline:
    return tiny_pipeline(tiny_hmar(2), guidance_scale=2.0)


@pytest.mark.parametrize(
    ("asked", "passes"),
    [
        ("paper", [1, 2, 4, 1]),
        ("1,3;1,1,2,5", [1, 2, 4, 1]),
        ([[1, 3], (1, 1, 2, 5)], [1, 2, 4, 1]),
        ("1, 3", [1, 2, 1, 1]),
        ("4;9;5,11", [1, 1, 1, 2]),
        ("none", [1, 1, 1, 1]),
    ],
)
def test_what_is_not_listed_is_drawn_at_once(asked: str | Sequence[Any], passes: list[int]) -> None:
    plan = refined(default_plan(tiny_hmar(2), guidance_scale=2.0), asked)
    assert [len(row.passes or (1,)) for row in plan.rows] == passes
    assert all(row.again_guidance == (None if row.passes is None else (1.0, 0.0)) for row in plan.rows)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("1,2", "refine has 1,2 for the scale 2x2; .*add up to its 4 tokens, and these add up to 3"),
        ("0,4", "expected numbers of at least 1"),
        ("4;9;16;1", "refine lists passes for 4 scales; expected at most 3, those after the first"),
        ("1;;4", "refine is '1;;4'; expected"),
        ("best", "refine is 'best'; expected"),
        ([1, 3], "refine is "),
        (3, "refine is 3"),
        ([[True, 3]], "refine is "),
    ],
)
def test_what_cannot_be_is_refused(pipe: Pipeline, asked: Any, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        pipe.plan(refine=asked)


def test_passes_need_tokens_that_differ_in_how_sure_they_are(pipe: Pipeline) -> None:
    with pytest.raises(PlanError, match=r"row 1 \(2x2\): top_k is 1, so its tokens are all equally sure"):
        pipe(class_labels="face", refine="paper", top_k=1)
    assert pipe.plan(refine="none", top_k=1).rows[1].passes is None
    for other in (tiny_var(), tiny_hmar(0)):
        with pytest.raises(PlanError, match="refine is 'paper', but this model draws every scale in one pass"):
            tiny_pipeline(other)(class_labels="face", refine="paper")


def test_a_picture_is_refined_by_default_and_repeated(pipe: Pipeline, tmp_path: Path) -> None:
    """The published evaluation refines, so a converted checkpoint does, and says so in its pictures."""
    pipe.defaults |= {"refine": "paper"}
    pipe.save_pretrained(tmp_path / "hmar")
    loaded = nextscale.load(tmp_path / "hmar", device="cpu", dtype="float32")
    drawn = loaded(class_labels=["face", "tool"], seed=3)
    plain = loaded(class_labels=["face", "tool"], seed=3, refine="none")
    assert not all(torch.equal(a, b) for a, b in zip(drawn.tokens, plain.tokens, strict=True))
    drawn.images[0].save(tmp_path / "face.png")
    again = loaded.repeat(tmp_path / "face.png")
    assert all(torch.equal(a[:1], b) for a, b in zip(drawn.tokens, again.tokens, strict=True))


def test_refinement_off_draws_what_the_first_stage_draws() -> None:
    both, first = tiny_hmar(2), tiny_hmar(0)
    first.load_state_dict({name: t for name, t in both.state_dict().items() if not name.startswith("mask_")})
    pictures = [tiny_pipeline(model, top_k=20)(class_labels="face", seed=1) for model in (both, first)]
    assert all(torch.equal(a, b) for a, b in zip(*(one.tokens for one in pictures), strict=True))


def test_a_later_pass_costs_one_branch(pipe: Pipeline) -> None:
    parts = {"tokenizer": tiny_tokenizer(), "model": pipe.model}
    plain, paper = (price(pipe.plan(refine=asked), parts) for asked in ("none", "paper"))
    added = [b.flops - a.flops for a, b in zip(plain.lines, paper.lines, strict=True)]
    assert added[0] == added[1] == added[4] == added[5] == 0
    assert 0.45 < added[2] / plain.lines[2].flops < 0.6
    assert 1.4 < added[3] / plain.lines[3].flops < 1.7
