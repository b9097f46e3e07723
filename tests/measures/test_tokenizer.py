"""PSNR and codebook use obey their closed forms, and are those of the tokenizer's own encoding and decoding."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextscale.measures.tokenizer import BATCH, Spread, code_use, encode_all, psnr, reconstruction_psnr
from tests.makers import CODES, SIZES, tiny_tokenizer


def some_images(count: int = 5) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@given(st.floats(1e-3, 1.0), st.integers(1, 3))
def test_a_known_shift_has_the_psnr_of_its_closed_form(error: float, count: int) -> None:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count)) * (1 - error)
    assert psnr(images, images + error).tolist() == pytest.approx([-20 * math.log10(error)] * count, abs=1e-3)


def test_equal_images_have_100_db_and_not_infinity() -> None:
    images = some_images() / 255
    assert psnr(images, images).tolist() == [100.0] * 5


def test_each_image_is_measured_alone() -> None:
    images = some_images() / 255
    other = images.clone()
    other[2] = 1 - other[2]
    measured = psnr(other, images)
    assert measured[2] < 20
    assert measured[[0, 1, 3, 4]].tolist() == [100.0] * 4


def test_the_spread_of_known_values() -> None:
    spread = Spread.of(torch.arange(101, dtype=torch.float32))
    assert (spread.mean, spread.p5) == pytest.approx((50, 5))
    assert spread.std == pytest.approx(math.sqrt((101**2 - 1) / 12))
    assert spread.error == pytest.approx(spread.std / math.sqrt(101))
    assert Spread.of(torch.tensor([3.0])) == Spread(3, 0, 3, 1)


@pytest.mark.parametrize("codes", [1, 7, 64])
def test_uniform_use_has_a_perplexity_of_all_codes(codes: int) -> None:
    maps = [torch.arange(codes).view(1, 1, codes), torch.arange(codes).repeat(2, 1, 3)]
    use, by_scale = code_use(maps, codes)
    assert use.share == 1
    assert [u.perplexity for u in (use, *by_scale)] == pytest.approx([codes] * 3)


@given(st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=30), min_size=1, max_size=4))
def test_share_and_perplexity_are_bounded_by_the_codes_in_use(scales: list[list[int]]) -> None:
    use, by_scale = code_use([torch.tensor(tokens).view(1, 1, -1) for tokens in scales], 16)
    seen = [set(tokens) for tokens in scales]
    assert use.share * 16 == len(set().union(*seen))
    assert [u.share * 16 for u in by_scale] == [len(tokens) for tokens in seen]
    for u in (use, *by_scale):
        assert 1 - 1e-9 <= u.perplexity <= u.share * 16 + 1e-9


def test_one_code_has_a_perplexity_of_one() -> None:
    use, _ = code_use([torch.full((3, 2, 2), 5)], 8)
    assert use.share == 1 / 8
    assert use.perplexity == pytest.approx(1)


def test_images_are_encoded_as_the_tokenizer_does_whatever_the_batch() -> None:
    tokenizer, images = tiny_tokenizer(), some_images(BATCH + 3)
    expected = tokenizer.encode(tokenizer.latent(images / 127.5 - 1)).tokens
    found = encode_all(tokenizer, images)
    assert [tuple(maps.shape) for maps in found] == [(BATCH + 3, *size) for size in SIZES]
    agree = sum(int((f == e).sum()) for f, e in zip(found, expected, strict=True))
    assert agree >= 0.999 * sum(maps.numel() for maps in expected)  # a near tie may fall the other way in another batch


def test_psnr_is_that_of_the_picture_drawn_from_the_first_scales() -> None:
    tokenizer, images = tiny_tokenizer(), some_images(BATCH + 3)
    tokens = encode_all(tokenizer, images)
    measured = reconstruction_psnr(tokenizer, images, tokens, range(len(tokens)))
    assert list(measured) == [0, 1, 2, 3]
    for k, found in measured.items():
        pixels = (tokenizer.decode(tokenizer.follow(tokens[: k + 1]).canvas) + 1) / 2
        assert found.tolist() == pytest.approx(psnr(pixels, images / 255).tolist(), abs=1e-4)
    assert not torch.allclose(measured[0], measured[3])


def test_only_the_scales_asked_for_are_decoded() -> None:
    tokenizer, images = tiny_tokenizer(), some_images()
    tokens = encode_all(tokenizer, images)
    every = reconstruction_psnr(tokenizer, images, tokens, range(4))
    last = reconstruction_psnr(tokenizer, images, tokens, [3])
    assert list(last) == [3]
    assert torch.equal(last[3], every[3])


def test_quantising_stays_in_float32_under_autocast() -> None:
    """Training validates under autocast; distances in bfloat16 would choose other codes."""
    tokenizer, images = tiny_tokenizer(), some_images(BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        found = encode_all(tokenizer, images)
        latent = tokenizer.latent((images / 127.5 - 1).to(memory_format=torch.channels_last))
    expected = tokenizer.encode(latent).tokens
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


def test_progress_ends_at_the_number_of_images() -> None:
    tokenizer, images = tiny_tokenizer(), some_images(BATCH + 3)
    seen: list[tuple[int, int]] = []
    tokens = encode_all(tokenizer, images, lambda done, total: seen.append((done, total)))
    reconstruction_psnr(tokenizer, images, tokens, [0], lambda done, total: seen.append((done, total)))
    assert seen == [(BATCH, BATCH + 3), (BATCH + 3, BATCH + 3)] * 2
    assert max(int(maps.max()) for maps in tokens) < CODES
