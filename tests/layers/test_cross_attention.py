"""Attention to a text is softmax(q k / sqrt(D)) v over the tokens that are there, and the rest is not seen."""

from __future__ import annotations

import pytest
import torch

from nextscale.layers.cross_attention import CrossAttention, Pool
from tests.makers import randomise

MASK = torch.arange(5) < torch.tensor([3, 5])[:, None]


def text() -> torch.Tensor:
    return torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def test_tokens_look_at_the_text_that_is_there() -> None:
    look = CrossAttention(8, 2)
    randomise(look)
    x, states = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)), text()
    found = look(x, *look.text(states), MASK)
    keys, values = look.text.kv.weight.chunk(2)
    for i, count in enumerate((3, 5)):
        k, v = states[i, :count] @ keys.T, states[i, :count] @ values.T + look.text.v_bias
        q, heads = look.q(x[i]), []
        for part in (slice(0, 4), slice(4, 8)):
            heads.append((q[:, part] @ k[:, part].T / 2).softmax(-1) @ v[:, part])
        torch.testing.assert_close(found[i], look.proj(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 4])
def test_a_text_is_summed_up_by_one_learned_query(heads: int) -> None:
    pool = Pool(8, 12, heads)
    randomise(pool)
    found, states = pool(text(), MASK), text()
    keys, values = pool.text.kv.weight.chunk(2)
    for i, count in enumerate((3, 5)):
        k, v = states[i, :count] @ keys.T, states[i, :count] @ values.T + pool.text.v_bias
        parts = zip(pool.query, k.chunk(heads, 1), v.chunk(heads, 1), strict=True)
        summed = [(k @ q / (12 // heads) ** 0.5).softmax(0) @ v for q, k, v in parts]
        torch.testing.assert_close(found[i], pool.proj(torch.cat(summed)), atol=1e-5, rtol=1e-5)
    states[0, 3:] = 9.0
    assert torch.equal(pool(states, MASK), found)
    states[0, 2] = 9.0
    assert not torch.equal(pool(states, MASK)[0], found[0])
