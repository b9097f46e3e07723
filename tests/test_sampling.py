"""Sampling: top-k and top-p with their ties, the draw, and the three sources of noise."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.errors import InputError
from nextscale.sampling import (
    GivenNoise,
    IndependentNoise,
    OfficialNoise,
    filter_logits,
    inverse_cdf,
    smooth_settings,
    smooth_weights,
)

logit_rows = st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=2, max_size=12)


def kept(logits: torch.Tensor) -> list[bool]:
    return logits.isfinite().tolist()


@given(logit_rows, st.integers(1, 12))
def test_top_k_keeps_ties_and_nothing_below_them(row: list[float], k: int) -> None:
    filtered = filter_logits(torch.tensor(row), top_k=k)
    kth = sorted(row, reverse=True)[min(k, len(row)) - 1]
    assert kept(filtered) == [x >= kth for x in row]


@given(logit_rows, st.floats(0.01, 1.0))
def test_top_p_keeps_the_best_and_at_least_p(row: list[float], p: float) -> None:
    logits = torch.tensor(row)
    filtered = filter_logits(logits, top_p=p)
    mass = logits.softmax(-1)[filtered.isfinite()].sum()
    assert filtered.isfinite()[logits.argmax()] or (logits == logits.max()).sum() > 1
    assert mass >= p - 1e-5
    assert filtered.isfinite().any()


def test_off_means_untouched() -> None:
    logits = torch.randn(3, 7)
    assert filter_logits(logits) is logits


def test_the_order_matters_and_is_obeyed() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, 3.0])
    late = filter_logits(logits, temperature=10.0, top_p=0.6, order=("top_k", "top_p", "temperature"))
    early = filter_logits(logits, temperature=10.0, top_p=0.6)
    assert sum(kept(early)) > sum(kept(late))


def test_inverse_cdf_draws_with_the_given_probabilities() -> None:
    probs = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0]).expand(1, 20_000, 6)
    u = (torch.arange(20_000, dtype=torch.float64)[None] + 0.5) / 20_000
    counts = torch.bincount(inverse_cdf(probs, u)[0], minlength=6) / 20_000
    torch.testing.assert_close(counts, probs[0, 0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("u", [1e-300, 1 - 2**-53])
def test_inverse_cdf_never_draws_what_has_no_probability(u: float) -> None:
    probs = torch.tensor([0.0, 1e-30, 0.25, 0.75, 0.0]).expand(1, 1, 5)
    drawn = int(inverse_cdf(probs, torch.tensor([[u]], dtype=torch.float64)))
    assert probs[0, 0, drawn] > 0


def test_official_noise_is_multinomial() -> None:
    probs = torch.rand(3, 5, 11).softmax(-1)
    found = OfficialNoise(torch.Generator().manual_seed(3)).pick(probs, 0)
    multinomial = torch.multinomial(
        probs.flatten(0, 1), 1, replacement=True, generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(found.flatten(), multinomial.flatten())


def test_given_noise_is_a_race() -> None:
    probs = torch.rand(2, 3, 7)
    e = torch.rand(2, 3, 7) + 0.1
    assert torch.equal(GivenNoise({4: e}).pick(probs, 4), (probs / e).argmax(-1))


def test_independent_noise_depends_on_the_image_alone() -> None:
    probs = torch.rand(3, 9, 16).softmax(-1)
    together = IndependentNoise([7, 8, 9])
    alone = IndependentNoise([8])
    for k in range(3):
        assert torch.equal(together.pick(probs, k)[1:2], alone.pick(probs[1:2], k))
        assert torch.equal(together.gumbel(probs, k)[1:2], alone.gumbel(probs[1:2], k))


def test_independent_noise_differs_between_seeds_scales_passes_positions_and_streams() -> None:
    noise = IndependentNoise([0, 1, 2**40])
    keys = itertools.product(range(3), range(2), range(3))  # scale, stream, pass
    streams = [noise._uniform(*key, 64, 1).reshape(3, 64) for key in keys]
    numbers = [tuple(row) for stream in streams for row in stream]
    assert len(set(numbers)) == len(numbers)
    for a, b in itertools.combinations(numbers, 2):
        assert abs(float(torch.corrcoef(torch.tensor([a, b]))[0, 1])) < 0.6


def test_independent_noise_is_uniform_and_gumbel() -> None:
    noise = IndependentNoise(range(50))
    u = torch.from_numpy(noise._uniform(3, 0, 0, 400, 1)).flatten()
    assert abs(float(u.mean()) - 0.5) < 0.01
    assert abs(float(u.var()) - 1 / 12) < 0.003
    assert 0 < float(u.min()) < float(u.max()) < 1
    g = noise.gumbel(torch.empty(50, 20, 20), 1)
    assert abs(float(g.mean()) - 0.5772) < 0.03
    assert abs(float(g.var()) - torch.pi**2 / 6) < 0.06


def test_every_draw_of_a_token_has_noise_of_its_own_and_the_first_that_of_a_token_of_one_draw() -> None:
    probs = torch.rand(2, 50, 8, 2).softmax(-1)
    noise = IndependentNoise([3, 4])
    bits = noise.pick(probs, 1)
    assert bits.shape == (2, 50, 8)
    assert torch.equal(bits[..., 0], noise.pick(probs[:, :, 0], 1))
    alike = noise.pick(probs[:, :, :1].expand_as(probs), 1)
    assert 0 < int((alike[..., 1:] != alike[..., :1]).sum()) < alike[..., 1:].numel()


@pytest.mark.parametrize("p", [0, 1])
def test_bits_are_drawn_with_their_probabilities_in_every_pass(p: int) -> None:
    one = torch.tensor([0.1, 0.5, 0.9])
    probs = torch.stack([1 - one, one], -1).expand(20, 400, 3, 2)
    seen = IndependentNoise(range(20)).pick(probs, 2, p).double().mean((0, 1))
    assert (seen - one).abs().max() < 0.02


def test_a_later_pass_draws_anew() -> None:
    probs = torch.rand(2, 40, 16).softmax(-1)
    noise = IndependentNoise([3, 4])
    first, second = noise.pick(probs, 1), noise.pick(probs, 1, 1)
    assert not torch.equal(first, second)
    assert torch.equal(second, noise.pick(probs, 1, 1))


def test_official_noise_draws_bits_as_multinomial_does() -> None:
    probs = torch.rand(2, 5, 4, 2).softmax(-1)
    ours = OfficialNoise(torch.Generator().manual_seed(3)).pick(probs, 0)
    theirs = torch.multinomial(probs.flatten(0, 2), 1, generator=torch.Generator().manual_seed(3)).view(2, 5, 4)
    assert torch.equal(ours, theirs)


def test_a_repeated_image_draws_anew_and_a_kept_one_does_not() -> None:
    noise = IndependentNoise([5, 6])
    chosen = noise.select(torch.tensor([1, 1, 0]))
    u, v = noise._uniform(2, 0, 0, 30, 1), chosen._uniform(2, 0, 0, 30, 1)
    assert (v[0] == u[1]).all()
    assert (v[2] == u[0]).all()
    assert not (v[1] == v[0]).any()


def test_images_that_are_copied_again_and_again_never_share_their_noise() -> None:
    """A second copy of an image whose first one still lives used to draw what that one draws."""
    noise = _selected([5], [[0, 0], [0, 1, 0], [1, 0, 2, 1, 0, 0]])
    assert len(set(noise.lineage)) == len(noise.lineage) == 6
    others = _selected([9, 5], [[0, 1, 1], [1, 2, 1, 0, 0]])
    assert others.lineage[:3] == _selected([5], [[0, 0], [0, 1, 0]]).lineage  # whatever else is in the batch


def _selected(seeds: list[int], chosen: list[list[int]]) -> IndependentNoise:
    noise = IndependentNoise(seeds)
    for rows in chosen:
        noise = noise.select(torch.tensor(rows))
    return noise


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(InputError, match="out of range"):
        IndependentNoise([seed])


def test_smooth_sampling_sharpens_towards_the_draw() -> None:
    """Late scales have a temperature of 0.0135 and hence nearly one-hot weights; early ones are soft."""
    logits, gumbel = torch.randn(1, 4, 32), IndependentNoise([0]).gumbel(torch.empty(1, 4, 32), 0)
    early = smooth_weights(logits, gumbel, *smooth_settings(0.0)).amax(-1)
    late = smooth_weights(logits, gumbel, *smooth_settings(1.0)).amax(-1)
    assert (late > early).all()
    assert smooth_settings(0.0) == (1.0, 0.27)
    assert smooth_settings(1.0) == pytest.approx((2.0, 0.0135))


def test_smooth_weights_of_a_single_kept_token_are_that_token() -> None:
    filtered = filter_logits(torch.randn(2, 3, 9), top_k=1)
    weights = smooth_weights(filtered, torch.randn(2, 3, 9), 1.5, 0.1)
    torch.testing.assert_close(weights, filtered.isfinite().float())
