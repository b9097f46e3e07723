"""What painting left is measured outside the mask alone, steps have their closed forms, and errors count families."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextscale.measures.painting import Mean, psnr_outside, steps
from nextscale.measures.tokenizer import psnr


def noise(count: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def box(top: int, left: int, height: int, width: int, count: int = 2) -> Tensor:
    mask = torch.zeros(count, 8, 8, dtype=torch.bool)
    mask[:, top : top + height, left : left + width] = True
    return mask


def test_what_lies_inside_the_mask_does_not_count() -> None:
    original, image, mask = noise(), noise(seed=1), box(0, 0, 8, 3)
    expected = psnr(image[..., 3:] / 255, original[..., 3:] / 255)
    assert torch.allclose(psnr_outside(image, original, mask), expected)
    assert not torch.allclose(psnr(image / 255, original / 255), expected)
    assert psnr_outside(torch.where(mask[:, None], image, original), original, mask).tolist() == [100, 100]


def test_steps_are_counted_where_the_border_is_and_inside() -> None:
    image, mask = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), box(2, 2, 4, 4)
    image[:, :, 2:6, 2:6] = 255
    assert [one.tolist() for one in steps(image, mask)] == [[1, 1], [0, 0]]  # a white box, whose border is all there is
    image[0, :, 2:6, 4:6] = 0  # its right half goes, which moves a step from the border to the inside
    across, inside = steps(image, mask)
    assert across.tolist() == [0.5, 1]  # 8 of 16 pairs
    assert inside.tolist() == pytest.approx([4 / 24, 0])
    assert [one.tolist() for one in steps(image, box(6, 6, 2, 2))] == [[0, 0], [0, 0]]  # both steps lie elsewhere
    red = torch.zeros_like(image)
    red[:, 0, 2:6, 2:6] = 255
    assert steps(red, mask)[0].tolist() == pytest.approx([3**-0.5] * 2)  # black to white is 1


@pytest.mark.parametrize("mask", [torch.zeros(1, 8, 8, dtype=torch.bool), torch.ones(1, 8, 8, dtype=torch.bool)])
def test_without_a_border_there_are_no_steps_across(mask: Tensor) -> None:
    across, inside = steps(noise(1), mask)
    assert across.tolist() == [0]
    assert (inside > 0).tolist() == [bool(mask.all())]


def test_errors_count_families() -> None:
    values = torch.tensor([0.0, 1, 0, 1])
    assert Mean.of(values, list("abcd")) == Mean(0.5, 0.25, 4)
    assert Mean.of(values, list("abab")).error == pytest.approx(0.125**0.5)
    assert Mean.of(values, list("aabb")).error == 0


def test_a_ratio_is_that_of_the_means() -> None:
    above, below = torch.tensor([1.0, 3, 2]), torch.tensor([2.0, 6, 4])
    assert Mean.ratio(above, below, list("abc")) == Mean(0.5, 0, 3)  # every picture has it
    found = Mean.ratio(above, torch.tensor([3.0, 3, 6]), list("abc"))
    assert found.value == 0.5
    assert found.error == pytest.approx((0.25 + 2.25 + 1) ** 0.5 / 12)
    assert Mean.ratio(above, torch.zeros(3), list("abc")).value > 1e9
