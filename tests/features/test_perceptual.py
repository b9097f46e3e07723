"""Perceptual distance: nothing between equal images, more the more is changed, blind to brightness of features."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextscale.errors import InputError
from nextscale.features.perceptual import Perceptual, PerceptualConfig, layer_distance, unit


def network() -> Perceptual:
    torch.manual_seed(0)
    return Perceptual(PerceptualConfig(("a", "b"), ("x",), (6, 8, 12))).eval().requires_grad_(False)


def smooth_images(count: int = 4, seed: int = 1) -> torch.Tensor:
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=32, mode="bilinear")


def test_layers_are_one_per_stage_each_half_as_wide() -> None:
    shapes = [tuple(layer.shape) for layer in network().layers(smooth_images())]
    assert shapes == [(4, 6, 32, 32), (4, 8, 16, 16), (4, 12, 8, 8)]


def test_distance_is_zero_symmetric_and_grows_with_the_change() -> None:
    a, b = smooth_images(), smooth_images(seed=2)
    distance = network().distance
    assert torch.equal(distance(a, a), torch.zeros(4))
    assert torch.equal(distance(a, b), distance(b, a))
    near, far = (distance(a, a.lerp(b, share)) for share in (0.1, 0.5))
    assert (near > 0).all()
    assert (far > 2 * near).all()


def test_distance_is_the_written_sum() -> None:
    """Against the formula of LPIPS with every weight 1, written with PyTorch's own normalisation."""
    a, b = smooth_images(), smooth_images(seed=2)
    pairs = zip(network().layers(a), network().layers(b), strict=True)
    expected = sum((F.normalize(x) - F.normalize(y)).square().sum(1).mean((1, 2)) for x, y in pairs)
    assert torch.allclose(network().distance(a, b), torch.as_tensor(expected), rtol=1e-3)


def test_a_layer_twice_as_strong_is_the_same_layer() -> None:
    x = torch.rand((2, 5, 3, 3), generator=torch.Generator().manual_seed(0)) + 0.1
    assert layer_distance(x, 2 * x).max() < 1e-6
    assert layer_distance(x, x.flip(1)).min() > 1e-3


def test_the_gradient_leads_back_and_is_finite_where_all_channels_are_silent() -> None:
    target, image = smooth_images(1), smooth_images(1, seed=2).requires_grad_()
    before = network().distance(image, target)
    before.sum().backward()
    assert image.grad is not None
    stepped = image.detach() - 0.05 * image.grad / image.grad.abs().max()
    assert network().distance(stepped, target) < before
    silent = torch.zeros((1, 4, 2, 2), requires_grad=True)
    unit(silent).sum().backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="expected one or more numbers of channels"):
        PerceptualConfig(("a",), widths=())
    with pytest.raises(InputError, match=r"expected \(B, 3, H, W\) with sides of at least 8"):
        network().layers(torch.zeros((1, 3, 7, 7)))
