"""Memory against the number of pictures: what is added up, where two models cross, and what equal parameters are."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from nextscale.evaluation.footprint import Footprint, fewer_from, footprint, footprint_text, of_equal_size
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import default_plan
from nextscale.price import price
from nextscale.rehearse import Rehearsal, rehearse
from tests.makers import tiny_tokenizer, tiny_var

CPU = torch.device("cpu")


def made(name: str, weights: int, drawing: int, decoding: int = 0) -> Footprint:
    return Footprint(name, 10, 100, weights, 1, Rehearsal(drawing, decoding, decoding, 0, 0))


def test_the_total_is_weights_once_and_the_larger_half_for_every_picture() -> None:
    one = Footprint("a", 10, 100, 1000, 1, Rehearsal(drawing=30, decoding=50, decoding_more=5, moved=0, calls=0))
    assert [one.total(n) for n in (1, 2, 3)] == [1050, 1060, 1090]


@pytest.mark.parametrize(
    ("a", "b", "less", "start"),
    [
        (made("a", 100, 10), made("b", 40, 30), "a", 4),  # at 3 pictures both need 130
        (made("a", 100, 10), made("b", 40, 31), "a", 3),
        (made("b", 40, 31), made("a", 100, 10), "a", 3),
        (made("a", 10, 10), made("b", 40, 30), "a", 1),
    ],
)
def test_where_two_models_cross(a: Footprint, b: Footprint, less: str, start: int) -> None:
    found = fewer_from(a, b)
    assert found is not None
    assert (found[0].name, found[1]) == (less, start)
    more = b if found[0] is a else a
    assert found[0].total(start) < more.total(start)
    assert start == 1 or found[0].total(start - 1) >= more.total(start - 1)


def test_a_model_and_itself_need_the_same() -> None:
    one = made("a", 1, 2)
    assert fewer_from(one, replace(one)) is None
    assert "need the same memory" in footprint_text([one, one])


def test_a_footprint_adds_up_to_what_the_plan_and_the_rehearsal_say() -> None:
    model = copy.deepcopy(tiny_var()).to("meta")
    parts = {"tokenizer": copy.deepcopy(tiny_tokenizer()).to("meta"), "model": model}
    plan = default_plan(model, guidance_scale=2.0)
    found = footprint("tiny", plan, parts, CPU, torch.bfloat16)
    assert found.weights == 2 * sum(p.numel() for part in parts.values() for p in part.parameters())
    assert found.cache == price(plan, parts, 1, 2).memory
    assert found.total(8) == pytest.approx(found.weights + rehearse(plan, parts, 8, CPU).peak, rel=0.05)


@pytest.mark.parametrize("pixels", [256, 1024])
def test_equal_parameters_are_found_within_the_family_of_published_sizes(pixels: int) -> None:
    with torch.device("meta"):
        small, large = VAR(VARConfig.published(12, pixels)), MVAR(MVARConfig.published(16, pixels))
    target = sum(p.numel() for p in large.parameters())
    found = of_equal_size(small, target)
    assert found is not None
    model, words = found
    assert isinstance(model, VAR)
    depth = model.config.depth
    assert words == f"of depth {depth} and width {64 * depth}"
    with torch.device("meta"):
        published = VAR(VARConfig.published(depth, pixels))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in published.parameters())
    assert sum(p.numel() for p in model.parameters()) / target == pytest.approx(1, abs=0.1)


def test_models_of_equal_parameters_are_left_as_they_are() -> None:
    model = tiny_var()
    assert of_equal_size(model, sum(p.numel() for p in model.parameters())) is None
