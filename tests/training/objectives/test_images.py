"""What is done to training images keeps them images; the sample picture shows them where it says."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.training.objectives.images import mirror, picture, recolour, shift, to_signed
from nextscale.training.order import SampleNoise


def batch(count: int = 64, side: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def noise(batch: int, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, 0, batch, slice(None))


def test_signed_pixels_cover_minus_one_to_one() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    signed = to_signed(images, torch.device("cpu"))
    assert (float(signed.min()), float(signed.max())) == (-1.0, 1.0)
    assert torch.equal(((signed + 1) * 127.5).round().byte(), images)


def test_mirroring_turns_about_the_share_it_is_told() -> None:
    images = batch(400)
    turned = mirror(images, 0.25, noise(400))
    kept = (turned == images).flatten(1).all(1)
    assert 0.15 < 1 - kept.float().mean() < 0.35
    assert torch.equal(turned[~kept], images[~kept].flip(-1))
    assert torch.equal(mirror(images, 0.0, noise(400)), images)
    assert torch.equal(mirror(images, 1.0, noise(400)), images.flip(-1))


@given(st.integers(1, 4), st.integers(0, 20))
def test_shifting_moves_every_image_as_a_whole_and_lets_white_in(pixels: int, seed: int) -> None:
    images = batch(6)
    moved = shift(images, pixels, noise(6, seed))
    assert moved.shape == images.shape
    height, width = images.shape[-2:]
    for before, after in zip(images, moved, strict=True):
        white = torch.ones(3, height + 2 * pixels, width + 2 * pixels)
        white[:, pixels:-pixels, pixels:-pixels] = before
        steps = range(2 * pixels + 1)
        windows = [white[:, y : y + height, x : x + width] for y in steps for x in steps]
        assert any(torch.equal(window, after) for window in windows)


def test_no_shift_and_no_recolouring_change_nothing() -> None:
    images = batch()
    assert shift(images, 0, noise(64)) is images
    assert recolour(images, 0.0, noise(64)) is images


def test_recolouring_exchanges_whole_channels_and_keeps_greys() -> None:
    images = batch(300)
    coloured = recolour(images, 0.5, noise(300))
    assert torch.equal(coloured.sort(1).values, images.sort(1).values)
    changed = (coloured != images).flatten(1).any(1).float().mean()
    assert 0.3 < changed < 0.55  # one order in six is the old one
    grey = images.mean(1, keepdim=True).expand_as(images)
    assert torch.equal(recolour(grey, 1.0, noise(300)), grey)


def test_a_picture_of_rows() -> None:
    first, second = torch.full((3, 3, 4, 4), -1.0), torch.zeros(1, 3, 4, 4)
    pixels = np.asarray(picture([first, second]))
    assert pixels.shape == (8, 12, 3)
    assert (pixels[:4] == 0).all()
    assert (pixels[4:, :4] == 128).all()
    assert (pixels[4:, 4:] == 255).all()
