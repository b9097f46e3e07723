"""Rotary positions: what they turn keeps its length, coarse maps lie on the finest one, and scores know distances
alone. An independent computation with complex numbers is what they are held against.
"""

from __future__ import annotations

import cmath

import pytest
import torch
from torch import Tensor

from nextscale.layers.rope import Positions, rotary_table, rotate
from nextscale.scales import ScaleSchedule, Size

CPU = torch.device("cpu")
TALL = ScaleSchedule.of([(1, 1), (2, 2), (3, 2), (6, 4), (9, 6), (15, 10), (21, 14), (27, 18), (33, 22), (39, 26)])
"""The published schedule for heights of 1.5 widths at 0.25M; at 1M three more scales follow, to 78 x 52."""
WHOLE = ScaleSchedule((*TALL.sizes, (48, 32), (63, 42), (78, 52)))


def slowly(x: Tensor, schedule: ScaleSchedule, reference: Size) -> Tensor:
    """Queries (L, D) turned pair by pair, as complex numbers."""
    width, turned, i = x.shape[1], x.clone(), 0
    for h, w in schedule:
        for row in range(h):
            for column in range(w):
                places = (round(row * reference[0] / h), round(column * reference[1] / w))
                for pair in range(width // 2):
                    axis, j = divmod(pair, width // 4)
                    angle = places[axis] * 10_000 ** (-2 * j / (width / 2))
                    a, b = x[i, 2 * pair].item(), x[i, 2 * pair + 1].item()
                    there = complex(a, b) * cmath.exp(1j * angle)
                    turned[i, 2 * pair], turned[i, 2 * pair + 1] = there.real, there.imag
                i += 1
    return turned


@pytest.mark.parametrize(
    ("sizes", "reference", "width"),
    [
        ([1, 2, 3], (64, 64), 8),
        ([(1, 1), (2, 3), (4, 6)], (5, 9), 12),
        ([(2, 3), (3, 4)], (3, 4), 4),  # a first scale of several tokens, and a finest map that is drawn
    ],
)
def test_a_slow_computation_agrees(sizes: list[int | tuple[int, int]], reference: Size, width: int) -> None:
    schedule = ScaleSchedule.of(sizes)
    x = torch.randn(schedule.tokens, width, generator=torch.Generator().manual_seed(0))
    table = rotary_table(schedule, reference, width, CPU)
    torch.testing.assert_close(rotate(x[None, None], table)[0, 0], slowly(x, schedule, reference), atol=1e-5, rtol=1e-5)
    other = rotary_table(schedule, (reference[0] + 9, reference[1]), width, CPU)
    assert (rotate(x[None, None], other)[0, 0] - slowly(x, schedule, reference)).abs().max() > 1e-2


def test_halves_are_rounded_to_even_places() -> None:
    """Six rows on 64 places, as the authors' code has them: 10.67, 21.3, 32, 42.67, 53.3; and of 2.5 and 7.5 on 5."""
    rows = rotary_table(ScaleSchedule.of([(6, 1)]), (64, 1), 4, CPU)[:, 0]
    wanted = torch.tensor([0.0, 11, 21, 32, 43, 53])
    torch.testing.assert_close(rows, torch.stack([wanted.cos(), wanted.sin()], -1), atol=1e-5, rtol=1e-5)
    halves = rotary_table(ScaleSchedule.of([(4, 1)]), (10, 1), 4, CPU)[:, 0]  # 0, 2.5, 5, 7.5
    wanted = torch.tensor([0.0, 2, 5, 8])
    torch.testing.assert_close(halves, torch.stack([wanted.cos(), wanted.sin()], -1), atol=1e-5, rtol=1e-5)


def test_fewer_scales_stand_where_they_stood_among_all() -> None:
    """0.25M is the first ten scales of 1M, and one scale alone has the rows that it has in the sequence."""
    whole, few = (rotary_table(schedule, (78, 52), 16, CPU) for schedule in (WHOLE, TALL))
    assert torch.equal(few, whole[: TALL.tokens])
    alone = rotary_table(ScaleSchedule.of([TALL[5]]), (78, 52), 16, CPU)
    assert torch.equal(alone, whole[TALL.slice(5)])
    assert not torch.equal(rotary_table(TALL, TALL.grid, 16, CPU), few)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lengths_stay_and_scores_know_distances_alone(dtype: torch.dtype) -> None:
    x, y = torch.randn(2, 1, 2, 16, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    table = rotary_table(ScaleSchedule.of([4]), (4, 4), 8, CPU)
    q, k = rotate(x, table), rotate(y, table)
    assert q.dtype == dtype
    close = 1e-5 if dtype == torch.float32 else 4e-2
    torch.testing.assert_close(q.float().norm(dim=-1), x.float().norm(dim=-1), atol=close, rtol=close)
    scores = rotate(x[:, :, :1].expand_as(x), table) @ rotate(y[:, :, :1].expand_as(y), table).mT
    for near, far in ((0, 5), (1, 6), (9, 14)):  # one row and one column further
        torch.testing.assert_close(scores[..., near, far], scores[..., 0, 5], atol=5 * close, rtol=5 * close)
    assert (scores[..., 0, 5] - scores[..., 0, 4]).abs().max() > 1e-2
    same = (rotate(x, table).float() * rotate(y, table).float()).sum(-1)
    torch.testing.assert_close(same, (x.float() * y.float()).sum(-1), atol=5 * close, rtol=5 * close)
    assert k.shape == y.shape


@pytest.mark.parametrize("positions", ["raw", "resampled"])
def test_other_positions_are_other_tables(positions: Positions) -> None:
    schedule = ScaleSchedule.of([(1, 1), (3, 2), (5, 4)])
    table = rotary_table(schedule, (10, 7), 8, CPU, positions)
    assert table.shape == (27, 4, 2)
    assert (table - rotary_table(schedule, (10, 7), 8, CPU)).abs().max() > 1e-2


def test_a_table_that_drawing_made_serves_training() -> None:
    """Tables are kept; one of inference mode could not be saved for a gradient."""
    schedule = ScaleSchedule.of([1, 5])
    with torch.inference_mode():
        table = rotary_table(schedule, (11, 11), 8, CPU)
    x = torch.randn(1, 1, schedule.tokens, 8, requires_grad=True)
    kept = rotary_table(schedule, (11, 11), 8, CPU)
    assert kept is table
    rotate(x, kept).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach(), atol=1e-5, rtol=1e-5)
