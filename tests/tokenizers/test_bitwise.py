"""Infinity's tokenizer: its codes, its packing, and what training sees. Exactness against the official numbers is
``tests/verification``'s affair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.errors import InputError
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer, bits_of, packed, unpacked
from tests.makers import tiny_bitwise


@given(st.integers(1, 70), st.integers(0, 2**32))
def test_packing_loses_no_bit(bits: int, seed: int) -> None:
    tokens = torch.randint(2, (2, 3, bits), generator=torch.Generator().manual_seed(seed))
    packs = packed(tokens)
    assert packs.dtype == torch.uint8
    assert packs.shape == (2, 3, -(-bits // 8))
    assert torch.equal(unpacked(packs, bits), tokens)


@given(st.integers(0, 2**40 - 1))
def test_bits_of_a_label_stand_most_significant_first(label: int) -> None:
    assert bits_of(torch.tensor(label), 40).tolist() == [int(digit) for digit in f"{label:040b}"]


@pytest.mark.parametrize("patchify", [False, True])
def test_codes_are_unit_vectors_and_a_bit_moves_one_coordinate(patchify: bool) -> None:
    tokenizer = tiny_bitwise(patchify=patchify)
    tokens = torch.randint(2, (1, 2, 2, tokenizer.draws))
    fine = torch.pixel_shuffle(tokenizer.codes(tokens), tokenizer.patch)
    torch.testing.assert_close(fine.norm(dim=1), torch.ones(1, *fine.shape[-2:]))
    flipped = tokens.clone()
    flipped[0, 1, 0, 2] = 1 - flipped[0, 1, 0, 2]
    moved = (tokenizer.codes(flipped) - tokenizer.codes(tokens)).abs()
    assert int((moved > 0).sum()) == 1
    assert float(moved.max()) == pytest.approx(2 / 3**0.5)


def test_a_scale_that_is_left_out_changes_the_canvas_of_its_image_alone() -> None:
    tokenizer, latent = tiny_bitwise(), torch.randn(2, 3, 4, 4)
    whole, units, _ = tokenizer.straight_through(latent)
    without, _, tokens = tokenizer.straight_through(latent, keep=torch.arange(8).view(2, 4) != 4)
    torch.testing.assert_close(without[0], whole[0], atol=0, rtol=0)
    assert not torch.equal(without[1], whole[1])
    assert [tuple(t.shape) for t in tokens] == [(2, h, w, 3) for h, w in tokenizer.schedule]
    torch.testing.assert_close(units[0].norm(dim=1), torch.ones(2, 1, 1))


def test_gradients_reach_the_latent_through_every_scale_that_is_kept() -> None:
    tokenizer, latent = tiny_bitwise(), torch.randn(1, 3, 4, 4, requires_grad=True)
    none = tokenizer.straight_through(latent, keep=torch.zeros(1, 4, dtype=torch.bool))[0]
    assert not torch.autograd.grad(none.sum(), latent)[0].any()
    some = tokenizer.straight_through(latent)[0]
    assert torch.autograd.grad((some * torch.randn_like(some)).sum(), latent)[0].all()


def test_one_tokenizer_draws_any_schedule() -> None:
    tokenizer = tiny_bitwise()
    schedule = ScaleSchedule.of([(1, 1), (2, 3), (3, 5)])
    images = torch.rand(1, 3, 12, 20) * 2 - 1
    found = tokenizer.encode(tokenizer.latent(images), schedule)
    assert tokenizer.decode(found.canvas).shape == images.shape
    assert tokenizer.pixels(schedule) == (12, 20)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="the latent has 32 channels but a code 4 bits"):
        BitwiseConfig(bits=4)
    with pytest.raises(InputError, match="a width of 40 channels cannot be split into 24 norm groups"):
        AutoencoderConfig(ch=40, groups=0)


def test_the_published_tokenizer_has_its_published_size() -> None:
    with torch.device("meta"):
        tokenizer = BitwiseTokenizer(BitwiseConfig())
    assert sum(p.numel() for p in tokenizer.parameters()) == 110_118_051
