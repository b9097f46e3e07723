"""The attention call is softmax(q k^T + mask) v whatever kernel computes it, and so are its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextscale.layers.attention import attend

MASK = torch.ones(7, 7, dtype=torch.bool).tril(2)


def plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    scores = q @ k.mT
    return (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).softmax(-1) @ v


def draw(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, 7, 8).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("mask", [None, MASK])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_training_and_generation_compute_the_same(mask: Tensor | None, dtype: torch.dtype, close: float) -> None:
    """With gradients another kernel runs on a CPU; result, number type and gradients are those of the formula."""
    drawn = draw(dtype)
    expected_leaves = [x.double().requires_grad_() for x in drawn]
    expected = plain(expected_leaves[0], expected_leaves[1], expected_leaves[2], mask)
    expected.square().sum().backward()
    leaves = [x.clone().requires_grad_() for x in drawn]
    found = attend(leaves[0], leaves[1], leaves[2], mask)
    found.square().sum().backward()
    with torch.no_grad():
        without = attend(drawn[0], drawn[1], drawn[2], mask)
    assert found.dtype == without.dtype == dtype
    for one in (found, without):
        torch.testing.assert_close(one.double(), expected, atol=close, rtol=close)
    for leaf, wanted in zip(leaves, expected_leaves, strict=True):
        assert leaf.grad is not None
        assert leaf.grad.dtype == dtype
        assert wanted.grad is not None
        torch.testing.assert_close(leaf.grad.double(), wanted.grad, atol=5 * close, rtol=close)


def test_under_autocast_training_keeps_float32_inside() -> None:
    """Scores of 100 (the largest temperature) lose nothing to bfloat16's three digits."""
    q, k, v = draw(torch.float32)
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    q = (q * 100).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v, MASK)
    torch.testing.assert_close(found.float(), plain(q, k, v, MASK), atol=1e-5, rtol=1e-5)


def test_a_mask_matters() -> None:
    q, k, v = draw(torch.float32)
    assert not torch.allclose(attend(q, k, v, MASK), attend(q, k, v))
