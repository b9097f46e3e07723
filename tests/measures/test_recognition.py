"""Rates and ratios obey their closed forms; labels weigh the same on both sides; errors count families."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextscale.measures.recognition import Rate, recognition, wide_classes


def bools(text: str) -> Tensor:
    return torch.tensor([c == "1" for c in text])


def ids(text: str) -> Tensor:
    return torch.tensor([int(c) for c in text])


def own(count: int) -> list[str]:
    """Every image is a family of its own."""
    return [str(i) for i in range(count)]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4)), min_size=1, max_size=30))
def test_real_images_as_generated_ones_have_the_ratio_one(images: list[tuple[bool, int]]) -> None:
    hits, labels = torch.tensor([hit for hit, _ in images]), torch.tensor([label for _, label in images])
    ratio = recognition(hits, labels, hits, labels, own(len(images)))
    if not hits.any():
        assert ratio is None
    else:
        assert ratio is not None
        assert ratio.value == pytest.approx(1)
        assert ratio.generated.value == pytest.approx(ratio.real.value)


def test_a_rate_and_its_error() -> None:
    assert Rate.of(bools("1100")) == Rate(0.5, 0.25, 4)
    assert Rate.of(bools("111")) == Rate(1.0, 0.0, 3)


def test_real_images_weigh_as_the_labels_of_the_generated_ones() -> None:
    """Class 0 is always recognised, class 1 never, class 2 was not asked for; three of four were asked for class 0."""
    ratio = recognition(bools("1100"), ids("0001"), bools("1011"), ids("0122"), own(4))
    assert ratio is not None
    assert ratio.real.value == pytest.approx(0.75)
    assert ratio.real.images == 2
    assert ratio.value == pytest.approx(0.5 / 0.75)


def test_errors_count_families_and_not_images() -> None:
    """Ten drawings of each thing say no more about things than one does."""
    hits, labels, real = bools("110"), ids("000"), bools("1101")
    once = recognition(hits, labels, real, ids("0000"), own(4))
    often = recognition(hits, labels, real.repeat(10), ids("0000").repeat(10), own(4) * 10)
    alone = recognition(hits, labels, real.repeat(10), ids("0000").repeat(10), own(40))
    assert once is not None
    assert often is not None
    assert alone is not None
    assert once.real.error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert often.real.error == pytest.approx(once.real.error)
    assert alone.real.error == pytest.approx(once.real.error / 10**0.5)
    assert alone.error < often.error


def test_the_error_of_a_ratio_is_that_of_both_rates() -> None:
    ratio = recognition(bools("1100"), ids("0000"), bools("11111110"), ids("0" * 8), own(8))
    assert ratio is not None
    relative = (ratio.generated.error / ratio.generated.value) ** 2 + (ratio.real.error / ratio.real.value) ** 2
    assert ratio.error == pytest.approx(ratio.value * relative**0.5)


def test_nothing_to_compare_is_no_ratio() -> None:
    assert recognition(bools(""), ids(""), bools("1"), ids("0"), own(1)) is None
    assert recognition(bools("1"), ids("0"), bools("0"), ids("0"), own(1)) is None


def test_a_generated_label_that_no_real_image_has_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="no real image"):
        recognition(bools("1"), ids("1"), bools("1"), ids("0"), own(1))


def test_wide_classes_have_three_families() -> None:
    families = ["cat", "cat", "dog", "cow", "rose", "lily", "oak", "oak", "oak"]
    assert wide_classes(ids("000011222"), families).tolist() == [0]
    assert wide_classes(ids("000011222"), own(9)).tolist() == [0, 2]
