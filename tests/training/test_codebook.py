"""A codebook starts on the data, does not die, and says so when it is about to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextscale.measures.tokenizer import codebook_use
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from nextscale.training.codebook import AT_ONCE, CodebookSection, CodeUse, draw, draw_codebook, pick, residuals
from nextscale.training.collapse import MEMORY
from tests.makers import CODE_DIM, CODES, SIZES, tiny_tokenizer

SCHEDULE = ScaleSchedule(SIZES)
CPU = torch.device("cpu")


def tokenizer() -> ResidualTokenizer:
    return tiny_tokenizer()


def latent(scale: float = 1.0, images: int = 16) -> Tensor:
    return torch.randn(images, CODE_DIM, *SIZES[-1], generator=torch.Generator().manual_seed(0)) * scale


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def use(t: ResidualTokenizer, z: Tensor) -> tuple[float, float]:
    return codebook_use(t.encode(z).tokens, t.choices)


def error(t: ResidualTokenizer, z: Tensor) -> float:
    return float((t.encode(z).canvas.latent - z).square().mean())


def test_residuals_are_what_encoding_looks_up() -> None:
    t, z = tokenizer(), latent(images=AT_ONCE + 3)
    vectors, tokens = residuals(t, z)
    assert vectors.shape == (AT_ONCE + 3, SCHEDULE.tokens, CODE_DIM)
    maps = t.encode(z).tokens
    assert torch.equal(tokens, torch.cat([t.flatten(1) for t in maps], 1))
    assert torch.equal(t.quantizer.nearest(vectors.mT[..., None])[..., 0], tokens)


def test_a_codebook_drawn_from_data_is_used_where_a_random_one_is_not() -> None:
    t, z = tokenizer(), latent(scale=0.02)  # latents far smaller than the random codes
    before = use(t, z)[0]
    draw_codebook(t, z, generator())
    assert before < 0.3
    assert use(t, z)[0] > 0.8


def test_k_means_brings_the_codes_nearer_to_the_data_and_is_the_same_every_time() -> None:
    z, codebooks, errors = latent(), [], []
    for rounds in (0, 8, 8):
        t = tokenizer()
        draw_codebook(t, z, generator(), kmeans=rounds)
        codebooks.append(t.quantizer.codebook.weight)
        errors.append(error(t, z))
        assert use(t, z)[0] > 0.9
    assert torch.equal(codebooks[1], codebooks[2])
    assert errors[1] < 0.9 * errors[0]


def test_more_codes_than_vectors() -> None:
    for rounds in (0, 2):
        small = AutoencoderConfig(ch=8, mult=(1,), groups=4)
        t = ResidualTokenizer(ResidualConfig(codes=500, sizes=((1, 1),), autoencoder=small))
        draw_codebook(t, torch.randn(3, 32, 1, 1), generator(), kmeans=rounds)
        assert len(t.quantizer.codebook.weight.unique(dim=0)) == 3


def test_draws_do_not_repeat_before_they_must() -> None:
    assert sorted(draw(7, 7, generator()).tolist()) == list(range(7))
    assert sorted(draw(3, 7, generator()).unique().tolist()) == [0, 1, 2]
    assert len(draw(5, 0, generator())) == len(draw(0, 0, generator())) == 0
    pairs = pick(4, torch.tensor([2, 5]), 8, generator())
    assert sorted(map(tuple, pairs.tolist())) == [(image, place) for image in range(4) for place in (2, 5)]
    assert pick(4, torch.tensor([]).long(), 0, generator()).shape == (0, 2)


def flat_schedule() -> ScaleSchedule:
    return ScaleSchedule.of([1, 2])


def test_rare_codes_are_found() -> None:
    codes = CodeUse(8, flat_schedule(), CPU)
    assert len(codes.to_move(0.1, 0)) == 0
    for _ in range(200):
        codes.count([torch.tensor([[[0]]]), torch.tensor([[[5, 1], [5, 5]]])])
        codes.end_step()
    assert sorted(codes.to_move(0.1, 0).tolist()) == [2, 3, 4, 6, 7]
    assert codes.to_move(0.0, 0).tolist() == []
    assert sorted(codes.to_move(0.0, 2).tolist()) == [2, 3]  # the least used, though none counts as rare
    assert len(codes.to_move(0.1, 6)) == 6
    codes.moved(codes.to_move(0.1, 0))
    assert len(codes.to_move(0.1, 0)) == 0


def test_use_is_counted_by_parts_and_by_scale() -> None:
    """Shares are of even use, over the tokens of all scales; frequencies are of each scale's own."""
    whole, parts = CodeUse(4, flat_schedule(), CPU), CodeUse(4, flat_schedule(), CPU)
    first, second = torch.tensor([[[0]], [[1]]]), torch.tensor([[[0, 0], [0, 2]], [[2, 2], [2, 2]]])
    for _ in range(600):
        whole.count([first, second])
        for image in (0, 1):
            parts.count([first[image], second[image]])
        whole.end_step()
        parts.end_step()
    assert torch.equal(whole.share, parts.share)
    assert torch.equal(whole.frequency, parts.frequency)
    torch.testing.assert_close(whole.share, torch.tensor([1.6, 0.4, 2.0, 0.0]), atol=1e-4, rtol=0)
    wanted = torch.tensor([[0.5, 0.5, 0, 0], [0.375, 0, 0.625, 0]])
    torch.testing.assert_close(whole.frequency, wanted, atol=1e-4, rtol=0)
    used, perplexity = whole.measure()
    assert used.tolist() == [0.75, 0.5, 0.5]
    assert perplexity[1] == pytest.approx(2, abs=1e-4)
    assert perplexity[0] == pytest.approx(codebook_use([first, second], 4)[1], abs=1e-4)


def test_the_measure_is_fair_from_the_first_step_on_and_moved_codes_do_not_flatter_it() -> None:
    codes = CodeUse(4, flat_schedule(), CPU)
    codes.count([torch.tensor([[[0]]]), torch.tensor([[[0, 1], [0, 1]]])])
    codes.end_step()
    before = codes.measure()
    codes.moved(torch.tensor([2, 3]))
    assert before[1][2] == pytest.approx(2)
    assert all(torch.equal(a, b) for a, b in zip(before, codes.measure(), strict=True))


def test_moving_rare_codes_evens_out_their_use() -> None:
    t, z = tokenizer(), latent(scale=0.3)  # smaller than the codes: most of them lie outside
    codes, before = CodeUse(CODES, SCHEDULE, CPU), use(t, z)[1]
    for _ in range(3):
        for _ in range(3 * MEMORY):
            codes.count(t.encode(z).tokens)
            codes.end_step()
        rare = codes.to_move(0.25, 0)
        vectors = residuals(t, z)[0].flatten(0, 1)
        t.quantizer.codebook.weight[rare] = vectors[draw(len(vectors), len(rare), generator())]
        codes.moved(rare)
    assert use(t, z)[1] > 1.5 * before


@pytest.mark.parametrize(("codes", "limit"), [(1000, 5.0), (100, 2.0), (24, 2.0), (2, 1.0)])
def test_a_small_codebook_has_collapsed_below_two_codes(codes: int, limit: float) -> None:
    assert CodebookSection().limits(codes, 2).tolist() == pytest.approx([max(limit, 0.05 * codes), limit, limit])
