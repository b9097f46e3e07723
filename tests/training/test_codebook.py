"""A codebook starts on the data and does not die."""

from __future__ import annotations

import torch

from nextscale.tokenizers.residual import ResidualConfig, ResidualQuantizer, codebook_use
from nextscale.training.codebook import MEMORY, CodeUse, draw_codebook, residual_vectors
from tests.makers import CODE_DIM, SIZES, tiny_tokenizer


def quantizer() -> ResidualQuantizer:
    return tiny_tokenizer().quantizer


def latent(scale: float = 1.0) -> torch.Tensor:
    return torch.randn(16, CODE_DIM, *SIZES[-1], generator=torch.Generator().manual_seed(0)) * scale


def test_residual_vectors_are_what_encoding_looks_up() -> None:
    q, z = quantizer(), latent()
    vectors = residual_vectors(q, z)
    assert vectors.shape == (16 * sum(h * w for h, w in SIZES), CODE_DIM)
    tokens, _ = q.encode(z, q.schedule)
    looked_up = q.nearest(vectors.T[None, :, :, None]).flatten()
    assert torch.equal(looked_up, torch.cat([t.flatten() for t in tokens]))


def test_a_codebook_drawn_from_data_is_used_where_a_random_one_is_not() -> None:
    q, z = quantizer(), latent(scale=0.02)  # latents far smaller than the random codes
    before = codebook_use(q.encode(z, q.schedule)[0], len(q.codebook.weight))[0]
    draw_codebook(q, z, torch.Generator().manual_seed(0))
    after = codebook_use(q.encode(z, q.schedule)[0], len(q.codebook.weight))[0]
    assert before < 0.3
    assert after > 0.8


def test_rare_codes_are_found_and_moved_onto_the_data() -> None:
    q, z = quantizer(), latent()
    codes = CodeUse(len(q.codebook.weight), z.device)
    assert len(codes.rare(0.1)) == 0
    for _ in range(200):
        codes.count([torch.tensor([[[0, 1]]]), torch.tensor([[[5]]])])
    rare = codes.rare(0.1)
    assert rare.tolist() == [i for i in range(len(q.codebook.weight)) if i not in (0, 1, 5)]
    kept, vectors = q.codebook.weight[[0, 1, 5]].clone(), residual_vectors(q, z)
    moved = codes.restart(q, rare, z, torch.Generator().manual_seed(0))
    assert torch.equal(q.codebook.weight[rare], moved)
    assert torch.equal(q.codebook.weight[[0, 1, 5]], kept)
    assert all((vectors == row).all(1).any() for row in moved)
    assert len(codes.rare(0.1)) == 0


def test_shares_are_of_even_use() -> None:
    codes = CodeUse(4, torch.device("cpu"))
    for _ in range(600):
        codes.count([torch.tensor([0, 0, 0, 1])])
    torch.testing.assert_close(codes.share, torch.tensor([3.0, 1.0, 0.0, 0.0]), atol=1e-5, rtol=1e-5)
    assert codes.rare(0).tolist() == []


def test_moving_rare_codes_evens_out_their_use() -> None:
    q, z = quantizer(), latent(scale=0.3)  # smaller than the codes: most of them lie outside
    codes, generator = CodeUse(len(q.codebook.weight), z.device), torch.Generator().manual_seed(0)
    before = codebook_use(q.encode(z, q.schedule)[0], len(q.codebook.weight))[1]
    for _ in range(3):
        for _ in range(3 * MEMORY):
            codes.count(q.encode(z, q.schedule)[0])
        codes.restart(q, codes.rare(0.25), z, generator)
    after = codebook_use(q.encode(z, q.schedule)[0], len(q.codebook.weight))[1]
    assert after > 1.5 * before


def test_more_codes_than_vectors() -> None:
    q = ResidualQuantizer(ResidualConfig(codes=500, sizes=((1, 1),)))
    draw_codebook(q, torch.randn(3, 32, 1, 1), torch.Generator().manual_seed(0))
    assert len(q.codebook.weight.unique(dim=0)) == 3
