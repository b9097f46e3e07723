"""Infinity's tokenizer: its codes, its packing, and what training sees. Exactness against the official numbers is
``tests/verification``'s affair."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nextscale.errors import InputError
from nextscale.scales import ScaleSchedule, Size
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer, bits_of, flipped, packed, unpacked
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
    with pytest.raises(InputError, match="bits is 1; expected 2 or more"):
        BitwiseConfig(bits=1)
    with pytest.raises(InputError, match="a width of 40 channels cannot be split into 24 norm groups"):
        AutoencoderConfig(ch=40, groups=None)


def test_the_published_tokenizer_has_its_published_size() -> None:
    with torch.device("meta"):
        tokenizer = BitwiseTokenizer(BitwiseConfig())
    assert sum(p.numel() for p in tokenizer.parameters()) == 110_118_051


# Self-correction


def slowly(f: list[list[list[float]]], sizes: Sequence[Size], flips: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Bits and the last canvas of a latent (d, H, W), number by number: areas are averaged, codes are enlarged
    bilinearly; bits (h, w, d) are flipped after they were noted.
    """
    d, height, width = len(f), len(f[0]), len(f[0][0])
    canvas, bits = torch.zeros(d, height, width, dtype=torch.float64), []
    for k, (h, w) in enumerate(sizes):
        found = torch.zeros(h, w, d, dtype=torch.int64)
        for c, i, j in product(range(d), range(h), range(w)):
            rows = range(i * height // h, -(-(i + 1) * height // h))
            columns = range(j * width // w, -(-(j + 1) * width // w))
            lacking = [f[c][y][x] - float(canvas[c, y, x]) for y in rows for x in columns]
            found[i, j, c] = int(sum(lacking) / len(lacking) > 0)
        bits.append(found)
        code = (2 * (found ^ flips[k].long()) - 1) / d**0.5
        for y, x in product(range(height), range(width)):
            at = [max(0.0, (p + 0.5) * n / whole - 0.5) for p, n, whole in ((y, h, height), (x, w, width))]
            (i, u), (j, v) = ((int(a), a - int(a)) for a in at)
            below, right = min(i + 1, h - 1), min(j + 1, w - 1)
            canvas[:, y, x] += (1 - u) * ((1 - v) * code[i, j] + v * code[i, right])
            canvas[:, y, x] += u * ((1 - v) * code[below, j] + v * code[below, right])
    return bits, canvas


@pytest.mark.parametrize("sizes", [((1, 1), (2, 3), (4, 5)), ((2, 1), (3, 1), (7, 2)), ((1, 2), (1, 5), (3, 5))])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_slow_computation_agrees(sizes: tuple[Size, ...], share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    tokenizer, latent = tiny_bitwise(sizes), torch.randn(1, 3, *sizes[-1], generator=generator)
    flips = [torch.rand(1, h, w, 3, generator=generator) < share for h, w in sizes]
    found = tokenizer.encode(latent, hook=flipped(flips))
    bits, canvas = slowly(latent[0].tolist(), sizes, [one[0] for one in flips])
    assert all(torch.equal(a[0], b) for a, b in zip(found.tokens, bits, strict=True))
    torch.testing.assert_close(found.canvas.latent[0], canvas.float(), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("patchify", "shape"), [(False, (1, 3, 2, 2)), (True, (1, 3, 4, 4)), (True, (1, 3, 3, 3)), (False, (2, 2, 3))]
)
def test_bits_in_another_layout_are_refused(patchify: bool, shape: tuple[int, ...]) -> None:
    """Channels first, an odd side where a token is 2x2 positions, no batch."""
    wanted = r"\(B, 2 h, 2 w, 3\)" if patchify else r"\(B, h, w, 3\)"
    with pytest.raises(InputError, match=f"the bits of a scale have the shape .*; expected {wanted}"):
        tiny_bitwise(patchify=patchify).gather(torch.ones(shape))


@pytest.mark.parametrize("patchify", [False, True])
def test_without_flips_teaching_sees_what_the_loop_will_see(patchify: bool) -> None:
    """Bits are the quantiser's, inputs those of the loop, and the canvas is the sum of the enlarged codes."""
    tokenizer = tiny_bitwise(patchify=patchify)
    latent = tokenizer.latent(torch.rand(2, 3, *tokenizer.pixels()) * 2 - 1)
    none = [torch.zeros(2, h, w, tokenizer.draws, dtype=torch.bool) for h, w in tokenizer.schedule]
    taught, plain = tokenizer.encode(latent, hook=flipped(none)), tokenizer.encode(latent)
    canvas, total = tokenizer.start(2), torch.zeros_like(latent)
    for k, tokens in enumerate(plain.tokens):
        assert torch.equal(taught.tokens[k], tokens)
        if k:
            assert torch.equal(taught.inputs[k - 1], tokenizer.next_input(canvas, k))
        codes = torch.pixel_shuffle(tokenizer.codes(tokens), tokenizer.patch)
        total += F.interpolate(codes, latent.shape[2:], mode="bilinear", align_corners=False)
        canvas = tokenizer.accumulate(canvas, tokenizer.codes(tokens), k)
    torch.testing.assert_close(taught.canvas.latent, total, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(tokenizer.straight_through(latent)[0], total, atol=1e-6, rtol=1e-6)
    packs = [unpacked(packed(tokens), tokenizer.draws) for tokens in plain.tokens]
    again = tokenizer.follow([tokenizer.gather(tokenizer.spread(tokens)) for tokens in packs])
    assert torch.equal(tokenizer.decode(again.canvas), tokenizer.decode(plain.canvas))


@pytest.mark.parametrize("patchify", [False, True])
@pytest.mark.parametrize("scale", [0, 1, 2, 3])
def test_labels_depend_on_flips_of_earlier_scales_alone(scale: int, patchify: bool) -> None:
    tokenizer = tiny_bitwise(patchify=patchify)
    latent = torch.randn(2, 3, *(side * tokenizer.patch for side in tokenizer.schedule.grid))
    flips = [torch.zeros(2, h, w, tokenizer.draws, dtype=torch.bool) for h, w in tokenizer.schedule]
    plain = tokenizer.encode(latent, hook=flipped(flips))
    flips[scale][0] = True
    other = tokenizer.encode(latent, hook=flipped(flips))
    assert all(torch.equal(a, b) for a, b in zip(plain.tokens[: scale + 1], other.tokens[: scale + 1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(plain.inputs[:scale], other.inputs[:scale], strict=True))
    for a, b in zip(plain.tokens, other.tokens, strict=True):
        assert torch.equal(a[1], b[1])
    if scale < 3:
        assert not torch.equal(plain.tokens[scale + 1][0], other.tokens[scale + 1][0])
        assert not torch.equal(plain.inputs[scale][0], other.inputs[scale][0])
    else:  # a flip in the last scale changes the canvas alone
        assert not torch.equal(plain.canvas.latent, other.canvas.latent)
    assert torch.equal(tokenizer.encode(latent, hook=flipped(flips[:scale])).canvas.latent, plain.canvas.latent)


def test_maps_of_another_layout_are_refused_both_ways() -> None:
    tokenizer = tiny_bitwise(patchify=True)
    tokens = torch.randint(2, (1, 2, 3, 12))
    assert torch.equal(tokenizer.gather(tokenizer.spread(tokens)), tokens)
    with pytest.raises(InputError, match=r"have the shape \(1, 4, 6, 3\); expected \(B, h, w, 12\)"):
        tokenizer.spread(tokenizer.spread(tokens))
    with pytest.raises(InputError, match=r"have the shape \(1, 2, 3, 12\); expected \(B, 2 h, 2 w, 3\)"):
        tokenizer.gather(tokens)
