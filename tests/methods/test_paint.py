"""Masks of painting, and what a painted generation keeps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextscale.conditions.classes import class_features
from nextscale.errors import InputError
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.methods.paint import Box, edit_mask, given_of, keep_masks, paint
from nextscale.plan import default_plan
from nextscale.sampling import IndependentNoise
from nextscale.scales import ScaleSchedule
from tests.makers import tiny_tokenizer, tiny_var


def test_borders_round_halves_to_even() -> None:
    mask = edit_mask((4, 6), (0.125, 0.25, 0.625, 0.75), inpainting=False)
    assert mask.nonzero().tolist() == [[y, x] for y in (0, 1) for x in (2, 3)]  # 0.5 -> 0, 2.5 -> 2, 1.5 -> 2, 4.5 -> 4
    assert torch.equal(edit_mask((4, 6), (0.125, 0.25, 0.625, 0.75)), ~mask)


@pytest.mark.parametrize("box", [(0.5, 0, 0.2, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.5), (0, 0.9, 1, 0.1)])
def test_a_box_outside_the_image_is_refused(box: Box) -> None:
    with pytest.raises(InputError, match="expected y0, x0, y1, x1 as fractions"):
        edit_mask((4, 4), box)


def test_the_coarsest_scale_is_kept_whole_and_small_masks_vanish_at_coarse_scales() -> None:
    """The centre box of the published 512 px schedule: nothing is drawn at 2x2, 1 of 9 at 3x3, 4 of 16 at 4x4."""
    schedule = ScaleSchedule.preset("512")
    masks = keep_masks(edit_mask(schedule.grid, (0.25, 0.25, 0.75, 0.75)), schedule)
    assert [int((~mask).sum()) for mask in masks[:4]] == [0, 0, 1, 4]
    nothing = keep_masks(torch.zeros(4, 4), ScaleSchedule.of([1, (1, 2), (1, 3), (2, 3), (4, 4)]))
    assert [bool(mask.all()) for mask in nothing] == [True, True, True, False, False]


def test_one_mask_per_image() -> None:
    masks = keep_masks(torch.stack([torch.ones(4, 4), torch.zeros(4, 4)]), ScaleSchedule.of([1, 2, 4]))
    assert [tuple(mask.shape) for mask in masks] == [(2, 1, 1), (2, 2, 2), (2, 4, 4)]
    assert bool(masks[2][0].all())
    assert not bool(masks[2][1].any())


def test_a_mask_of_another_rank_is_refused() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 1, 4, 4\)"):
        keep_masks(torch.ones(1, 1, 4, 4), ScaleSchedule.of([1, 4]))


def painted(mask: Tensor) -> tuple[list[Tensor], Tensor, GivenTokens]:
    """Accumulated tokens and canvas of a generation that keeps ``mask`` of two images, and what was given."""
    tokenizer, model = tiny_tokenizer(), tiny_var()
    given = given_of(tokenizer, torch.rand(2, 3, 16, 16) * 2 - 1, mask == 0, rule="official")
    assert isinstance(given, GivenTokens)
    plan = paint(default_plan(model, guidance_scale=2.0), "image")
    parts = {"tokenizer": tokenizer, "model": model, "image": given}
    events = list(generate(plan, parts, class_features(torch.tensor([1, 2])), IndependentNoise([3, 4])))
    return [event.tokens for event in events], events[-1].canvas.latent, given


def test_all_kept_is_the_reconstruction() -> None:
    tokens, latent, given = painted(torch.ones(4, 4))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(tokens, given.tokens, strict=True))
    torch.testing.assert_close(latent, tiny_tokenizer().follow(given.tokens).canvas.latent, atol=0, rtol=0)


def test_nothing_kept_keeps_only_the_coarsest_token() -> None:
    tokens, _, given = painted(torch.zeros(4, 4))
    assert torch.equal(tokens[0], given.tokens[0])
    assert not torch.equal(tokens[3], given.tokens[3])


def test_kept_positions_hold_the_given_tokens_and_others_do_not_all() -> None:
    mask = edit_mask((4, 4), (0, 0, 1, 0.5))
    tokens, _, given = painted(mask)
    assert torch.equal(tokens[3][:, mask], given.tokens[3][:, mask])
    assert not torch.equal(tokens[3][:, ~mask], given.tokens[3][:, ~mask])
