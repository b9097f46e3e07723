"""Rules of painting: which tokens each keeps, and the laws that hold for every model."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.conditions.classes import class_features
from nextscale.errors import InputError
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.memory.base import MemoryPlan
from nextscale.methods.paint import RULES, cover_masks, edit_mask, given_of, paint, shares
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan, default_plan
from nextscale.sampling import IndependentNoise
from nextscale.scales import ScaleSchedule
from nextscale.state import ScaleEvent
from nextscale.verification.var import model_of, tokenizer_of
from nextscale.verification.vectors import read_vectors
from tests import makers
from tests.makers import MODELS, features_of, tiny_tokenizer
from tests.verification.golden import golden


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> NextScaleModel:
    return MODELS[request.param]()


def drawn(model: NextScaleModel, given: Any = None) -> list[ScaleEvent]:
    plan = default_plan(model, guidance_scale=2.0)
    parts = {"tokenizer": makers.tokenizer_of(model), "model": model, "given": given}
    noise = IndependentNoise([7, 8])
    return list(generate(plan if given is None else paint(plan), parts, features_of(model), noise))


def given(model: NextScaleModel, repaint: Tensor, rule: str) -> Any:
    tokenizer = makers.tokenizer_of(model)
    height, width = tokenizer.pixels()
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(2)) * 2 - 1
    return given_of(tokenizer, images, repaint, rule=rule)


def test_shares_are_exact_where_cells_cut_through_pixels() -> None:
    """A mask whose left third is set covers all of the first of three columns, and two thirds of the first of two."""
    mask = torch.zeros(6, 6)
    mask[:, :2] = 1
    torch.testing.assert_close(shares(mask, (1, 3)), torch.tensor([[1.0, 0, 0]], dtype=torch.float64))
    torch.testing.assert_close(shares(mask, (2, 2))[0], torch.tensor([2 / 3, 0], dtype=torch.float64))
    torch.testing.assert_close(shares(mask.bool(), (1, 4))[0], torch.tensor([1, 1 / 3, 0, 0], dtype=torch.float64))
    assert shares(torch.ones(3, 5, 7), (16, 16)).sub(1).abs().max() < 1e-12  # more cells than pixels


def test_cover_repaints_half_covered_cells_and_the_whole_only_when_most_is() -> None:
    half = torch.zeros(4, 4)
    half[:, :2] = 1
    one, two, four = cover_masks(half, ScaleSchedule.of([1, 2, 4]))
    assert one.all()  # just half is not more than half
    assert two.tolist() == [[False, True]] * 2
    assert torch.equal(four, half == 0)
    half[0, 2] = 1
    assert not cover_masks(half, ScaleSchedule.of([1, 4]))[0].any()
    tenths = torch.ones(1, 10) * (torch.arange(10) < 5)  # half in tenths, which are no binary fractions
    assert cover_masks(tenths, ScaleSchedule.of([1, (1, 3)]))[1].tolist() == [[False, False, True]]


def test_cover_in_a_mask_per_image() -> None:
    masks = cover_masks(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]), ScaleSchedule.of([1, 2, 4]))
    assert [mask.shape for mask in masks] == [(2, 1, 1), (2, 2, 2), (2, 4, 4)]
    assert not any(mask[0].any() or not mask[1].all() for mask in masks)


@pytest.mark.parametrize("rule", RULES)
def test_all_kept_is_the_reconstruction(model: NextScaleModel, rule: str) -> None:
    kept = given(model, torch.zeros(8, 8), rule)
    last = drawn(model, kept)[-1].canvas
    if isinstance(kept, GivenTokens):
        wanted = makers.tokenizer_of(model).follow(kept.tokens).canvas.latent
    else:
        wanted = kept.latents[-1]
    assert torch.equal(last.latent, wanted)


@pytest.mark.parametrize("rule", ["cover", "canvases"])
def test_nothing_kept_is_a_plain_generation(model: NextScaleModel, rule: str) -> None:
    events = zip(drawn(model, given(model, torch.ones(8, 8), rule)), drawn(model), strict=True)
    assert all(torch.equal(a.tokens, b.tokens) and torch.equal(a.canvas.latent, b.canvas.latent) for a, b in events)


def test_the_official_rule_keeps_the_coarsest_token_always(model: NextScaleModel) -> None:
    kept, plain = given(model, torch.ones(8, 8), "official"), drawn(model)
    assert [bool(mask.any()) for mask in kept.masks] == [True, False, False, False]
    assert torch.equal(drawn(model, kept)[0].tokens, kept.tokens[0])
    assert not torch.equal(plain[0].tokens, kept.tokens[0])


@pytest.mark.parametrize("rule", RULES)
def test_what_is_drawn_differs_from_the_picture_where_it_is_repainted(model: NextScaleModel, rule: str) -> None:
    repaint = torch.zeros(8, 8)
    repaint[:, 4:] = 1
    part, whole = given(model, repaint, rule), drawn(model, given(model, torch.zeros(8, 8), rule))
    last, wanted = drawn(model, part)[-1], whole[-1]
    assert not torch.equal(last.canvas.latent, wanted.canvas.latent)
    if isinstance(part, GivenTokens):
        assert torch.equal(last.tokens[:, :, :2], part.tokens[-1][:, :, :2])
    else:
        assert torch.equal(last.canvas.latent[..., :2], part.latents[-1][..., :2])


@pytest.mark.skipif("NEXTSCALE_GOLDEN" not in os.environ, reason="the files of CoDe are not in the repository")
@pytest.mark.parametrize(("case", "name"), [("nol2", "inpaint_n1"), ("l2", "inpaint_n3")])
def test_the_canvases_of_the_picture_are_those_of_collaborative_painting(case: str, name: str) -> None:
    """CoDe's official painting, with a drafter for the first scales and a refiner that takes over."""
    file = read_vectors(Path(os.environ["NEXTSCALE_GOLDEN"], "code", f"collaborative_{case}.safetensors"))
    run = file.section("runs")[name]
    parts: dict[str, Any] = {"tokenizer": tokenizer_of(file.section("vae"), file.model_state("vae"))}
    parts |= {one: model_of(file.section(one), file.model_state(one)) for one in ("drafter", "refiner")}
    schedule = parts["tokenizer"].schedule
    plan = default_plan(parts["drafter"], guidance_scale=1 + run["cfg"], top_k=run["top_k"])
    rows = (replace(row, model="drafter" if k < run["draft_steps"] else "refiner") for k, row in enumerate(plan.rows))
    plan = paint(Plan(tuple(rows), plan.branches, {"drafter": MemoryPlan(), "refiner": MemoryPlan()}))
    repaint = 1 - F.interpolate(file.input("mask_in"), schedule.grid)[0, 0]
    parts["given"] = given_of(parts["tokenizer"], file.input("image"), repaint, rule="canvases")
    labels, close = class_features(file.input("label_B")), partial(torch.allclose, atol=file.tolerance)
    for event in generate(plan, parts, labels, IndependentNoise([0] * labels.images)):
        expected = {one: file.outputs[f"{name}/{one}_{event.k}"] for one in ("source_f_hat", "idx", "f_hat")}
        assert close(parts["given"].latents[event.k], expected["source_f_hat"])
        assert torch.equal(event.tokens.flatten(1), expected["idx"])
        assert close(event.canvas.latent, expected["f_hat"])


@pytest.mark.parametrize("run", ["class_edit", "edit_smooth"])
def test_the_official_rule_keeps_what_the_official_procedure_keeps(run: str) -> None:
    """VAR's editing runs: masks of every scale, and tokens; verification carries the runs out."""
    file = read_vectors(golden("var_shared_l2"))
    settings = file.section("sampling")[run]
    tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"))
    kept = edit_mask(tokenizer.schedule.grid, tuple(settings["box_y0_x0_y1_x1"]), settings["inpainting"])
    found = given_of(tokenizer, file.input("image")[: settings["B"]], ~kept, rule="official")
    assert isinstance(found, GivenTokens)
    for k, (tokens, mask) in enumerate(zip(found.tokens, found.masks, strict=True)):
        assert torch.equal(mask.expand(settings["B"], *mask.shape), file.outputs[f"{run}/keep_{k}"].bool())
        assert torch.equal(tokens.flatten(1), file.outputs[f"tf/idx_{k}"][: settings["B"]].flatten(1))


def test_masks_and_rules_that_are_none_are_refused() -> None:
    images = torch.zeros(1, 3, 16, 16)
    with pytest.raises(InputError, match="rule is 'soft'; expected one of cover, official, canvases"):
        given_of(tiny_tokenizer(), images, torch.ones(4, 4), rule="soft")
    for shape in ((4,), (0, 4), (1, 1, 4, 4)):
        with pytest.raises(InputError, match=r"the mask has the shape \(.*\); expected \(h, w\) or \(B, h, w\)"):
            given_of(tiny_tokenizer(), images, torch.ones(shape))
