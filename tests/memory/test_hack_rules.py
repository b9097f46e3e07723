"""HACK's rules, each on its own: which heads are of which kind, what each may hold, and which tokens stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nextscale.memory.baselines import attention_given
from nextscale.memory.cut import kept_tokens
from nextscale.memory.hack_calibration import HeadStatistics
from nextscale.memory.hack_rules import (
    attention_variance,
    budgets,
    grid_of,
    left_out,
    merged,
    observers,
)


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def variance_of(attention: Tensor) -> float:
    """Of one head whose attention is (l, N), by queries and keys that give it."""
    return float(attention_variance(attention.log()[None, None], torch.eye(attention.shape[1])[None, None]))


def test_equal_queries_vary_not_at_all_and_a_diagonal_varies_most() -> None:
    stripes = torch.tensor([0.5, 0.1, 0.3, 0.1]).expand(6, 4)
    diagonal = torch.eye(6) * 0.999994 + 1e-6
    assert variance_of(stripes) < 1e-12
    assert variance_of(torch.full((6, 4), 0.25)) < 1e-12
    assert variance_of(diagonal) == pytest.approx(1 - 1 / 6, abs=1e-4)
    for seed in range(4):
        assert variance_of((3 * some(6, 6, seed=seed)).softmax(-1)) < variance_of(diagonal)


def test_the_variance_is_that_of_the_whole_matrix_whatever_chunks_and_order() -> None:
    q, keys = some(3, 2, 11, 4), some(3, 2, 9, 4, seed=1)
    expected = (q @ keys.mT).softmax(-1).var(2, correction=0).sum(-1).mean(0)
    for queries in (q, q[:, :, torch.randperm(11)]):
        for chunk in (1, 4, 256):
            torch.testing.assert_close(attention_variance(queries, keys, chunk), expected, atol=1e-7, rtol=1e-5)


def heads(*variance: tuple[float, ...]) -> HeadStatistics:
    sizes = ((1, 1), (2, 2))
    return HeadStatistics(model="tiny", weights="", sizes=sizes, pictures=1, variance=variance)


def chosen(measured: HeadStatistics, alpha: float) -> list[list[int]]:
    return [sorted(block) for block in measured.contextual(alpha)]


def test_the_heads_that_vary_least_are_contextual_in_whatever_layer() -> None:
    measured = heads((0.1, 0.2, 0.3), (0.05, 0.9, 0.06))
    assert chosen(measured, 0.5) == [[0], [0, 2]]
    assert chosen(measured, 0) == [[], []]
    assert chosen(measured, 1) == [[0, 1, 2], [0, 1, 2]]
    assert chosen(heads((0.2, 0.2), (0.2, 0.2)), 0.5) == [[0, 1], []]


@pytest.mark.parametrize("share", [0.05, 1 / 3, 1.0])
@pytest.mark.parametrize("contextual", [0, 1, 240, 479, 480])
def test_all_heads_hold_the_budget_on_average(contextual: int, share: float) -> None:
    for mean in (6, 68, 204, 476, 679, 680, 5000):
        structural = 480 - contextual
        least, most = budgets(mean, 680, contextual, structural, share)
        spent = contextual * least + structural * most
        assert 0 <= min(mean, 680) - spent / 480 < 1
        assert most <= 680
        assert least >= 1
        if contextual and structural:
            assert least <= most or contextual * structural < 480  # what one head is left over may be much


def test_a_third_of_the_budget_is_what_the_paper_says_heads_tolerate() -> None:
    """At 70 %, contextual heads lose 90 % and structural ones half; at 30 % these have all, and those the remainder."""
    assert budgets(204, 680, 240, 240, 1 / 3) == (68, 340)
    assert budgets(476, 680, 240, 240, 1 / 3) == (272, 680)


def test_queries_are_asked_from_all_over_a_map() -> None:
    assert observers(5, 32) == (0, 1, 2, 3, 4)
    asked = observers(4096, 32)
    assert (len(asked), asked[0], asked[-1]) == (32, 0, 4095)
    assert len({place % 64 for place in asked}) > 8
    assert observers(9, 1) == (0,)


def test_scores_of_all_queries_are_the_sums_of_the_columns() -> None:
    q, keys = some(2, 3, 9, 4), some(2, 3, 14, 4, seed=1)
    asked = torch.tensor(observers(9, 32))
    torch.testing.assert_close(attention_given(q[:, :, asked], keys), (q @ keys.mT).softmax(-1).sum(2))


def test_what_does_not_stay_is_left_out() -> None:
    stay = torch.tensor([[[0, 2, 3], [1, 4, 5]]])
    assert left_out(stay, 6).tolist() == [[[1, 4, 5], [0, 2, 3]]]
    assert left_out(stay, 6).shape == (1, 2, 3)
    everything = kept_tokens(some(1, 2, 4), torch.tensor([], dtype=torch.int64), 4)
    assert left_out(everything, 4).shape == (1, 2, 0)


@pytest.mark.parametrize(
    ("size", "count", "places"),
    [
        ((4, 4), 20, list(range(16))),
        ((4, 4), 5, [5, 7, 13, 15]),
        ((3, 3), 1, [4]),
        ((1, 6), 3, [1, 3, 5]),
        ((6, 1), 2, [1, 4]),
        ((2, 8), 6, [8, 10, 11, 12, 14, 15]),
    ],
)
def test_a_part_of_a_map_is_a_regular_grid(size: tuple[int, int], count: int, places: list[int]) -> None:
    assert list(grid_of(size, count)) == places


def test_every_grid_is_spread_and_no_larger_than_asked() -> None:
    for size in ((16, 16), (5, 7), (64, 64), (1, 9), (12, 3)):
        for count in range(1, size[0] * size[1], 7):
            grid = grid_of(size, count)
            assert len(set(grid)) == len(grid) <= count
            assert list(grid) == sorted(grid)
            assert len(grid) > count - max(size) - 1
            assert max(grid) < size[0] * size[1]


def test_nothing_dropped_changes_nothing_and_unit_keys_stay_unit_keys() -> None:
    kept = some(2, 2, 3, 5, 4)
    torch.testing.assert_close(merged(kept, kept[:, :, :, :0]), kept)
    unit = torch.nn.functional.normalize(some(2, 2, 3, 30, 4), dim=-1)
    for chunk in (3, 256):
        found = merged(unit[:, :, :, :8], unit[:, :, :, 8:], chunk)
        torch.testing.assert_close(found[0].norm(dim=-1), torch.ones(2, 3, 8))
        torch.testing.assert_close(found, merged(unit[:, :, :, :8], unit[:, :, :, 8:]))
    assert merged(unit[:, :, :, :8].bfloat16(), unit[:, :, :, 8:].bfloat16()).dtype == torch.bfloat16


def test_a_dropped_token_goes_to_the_nearest_key_as_much_as_it_is_like_it() -> None:
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0], [0.8, 0.6]])
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 1.0]])
    both = torch.stack([keys, values])[:, None, None]
    found = merged(both[:, :, :, :2], both[:, :, :, 2:])[:, 0, 0]
    wanted = torch.stack([(values[0] + 0.8 * values[4]) / 1.8, (values[1] + 0.8 * values[2]) / 1.8])
    torch.testing.assert_close(found[1], wanted)  # the one that points away from all of them weighs nothing
    mixed = keys[0] + 0.8 * keys[4]
    torch.testing.assert_close(found[0, 0], mixed / mixed.norm())
