"""FlexVAR: positions of any map, the schedules of a size, its guidance, and the rule of greedy sides."""

from __future__ import annotations

import pytest
import torch

from nextscale.checkpoints.shapes import without_values
from nextscale.models.flexvar import DRAWN, TABLE, FlexVAR, FlexVARConfig
from nextscale.plan import default_plan
from nextscale.scales import ScaleSchedule
from tests.makers import features_of, tiny_flexvar


@pytest.fixture(scope="module")
def published() -> FlexVAR:
    return without_values(lambda: FlexVAR(FlexVARConfig.published(16)))


def test_positions_of_the_largest_map_are_the_parameter_and_of_others_its_averages() -> None:
    model = tiny_flexvar()
    whole, one, wide = (model.positions(0, ScaleSchedule.of([size])) for size in (8, 1, (2, 4)))
    assert torch.equal(whole, model.pos_embedding.flatten(1).T)
    torch.testing.assert_close(one[0], model.pos_embedding.mean((1, 2)))
    torch.testing.assert_close(wide[5], model.pos_embedding[:, 4:, 2:4].mean((1, 2)))


def test_logits_depend_on_the_map_before_and_not_on_how_many_scales_there_are() -> None:
    """A scale has no number: the same map at another place of the schedule has the same positions."""
    model, features = tiny_flexvar(), features_of(tiny_flexvar())
    one, two = ScaleSchedule.of([2, 3]), ScaleSchedule.of([2, 3, 4])
    x = torch.randn(2, model.code_dim, 3, 3, generator=torch.Generator().manual_seed(0))
    shorter, longer = (model([x], model.condition(features), schedule) for schedule in (one, two))
    assert torch.equal(shorter, longer)


def test_initial_positions_are_waves_of_rows_and_columns() -> None:
    model = FlexVAR(FlexVARConfig(depth=1, width=16, heads=1, codes=4, places=6))
    model.init_weights()
    even, odd = model.pos_embedding[0::2], model.pos_embedding[1::2]
    assert torch.equal(even, even[:, :, :1].expand_as(even))
    assert torch.equal(odd, odd[:, :1].expand_as(odd))
    assert model.pos_embedding[0, :, 0].tolist() == pytest.approx(torch.arange(6.0).sin().tolist())
    assert model.pos_start.abs().max() > 0


@pytest.mark.parametrize("side", TABLE)
def test_published_schedules_are_drawn_at_their_sizes(published: FlexVAR, side: int) -> None:
    for row in TABLE[side]:
        assert published.schedule_of((side, side), len(row)) == ScaleSchedule.of(row)
    assert published.schedule_of((side, side)) == ScaleSchedule.of(TABLE[side][0])
    assert len({len(row) for row in TABLE[side]}) == len(TABLE[side])


@pytest.mark.parametrize(
    ("grid", "steps", "scales"),
    [
        ((16, 32), None, "1x2 2x4 3x6 4x8 5x10 6x12 8x16 10x20 13x26 16x32"),
        ((12, 16), None, "1 1x2 2x3 3x4 3x5 4x6 6x8 7x10 9x13 12x16"),
        ((8, 8), 6, "1 2 3 4 5 8"),
        ((12, 8), 6, "1 2x1 3x2 5x3 8x5 12x8"),
        ((32, 24), 6, "2 4x3 8x6 12x9 20x15 32x24"),
        ((24, 24), 10, "2 3 5 6 8 9 12 15 20 24"),
        ((32, 32), 3, "2 10 32"),
        ((16, 16), 1, "16"),
        ((16, 16), 15, "1 2 3 4 5 6 7 8 9 10 11 12 13 14 16"),
        ((3, 5), 5, "1 1x2 2x3 2x4 3x5"),
    ],
)
def test_schedules_of_other_sizes(published: FlexVAR, grid: tuple[int, int], steps: int | None, scales: str) -> None:
    found = published.schedule_of(grid, steps)
    assert str(found) == scales
    assert published.schedule_of(grid[::-1], steps).sizes == tuple((w, h) for h, w in found)


def test_what_was_trained_is_drawn_where_nobody_says_how_many_scales() -> None:
    model = tiny_flexvar()
    assert model.schedule_of((4, 4)) == model.schedule_of((4, 4), 4) == model.schedule
    assert str(model.schedule_of((4, 4), 3)) == "1 2 4"
    for sizes in ([7], [(1, 2), (9, 4)], [1] * 30):
        model.check(ScaleSchedule.of(sizes))


def test_the_official_rule_takes_the_likeliest_token_at_sides_that_were_not_trained(published: FlexVAR) -> None:
    greedy = {
        (side, steps): [row.size[0] for row in plan.rows if row.top_k == 1]
        for side, steps in ((16, 6), (16, 7), (16, 9), (16, 12), (16, 13), (24, 11), (32, 15))
        for plan in [default_plan(published, schedule=published.schedule_of((side, side), steps), top_k=900)]
    }
    assert greedy == {
        (16, 6): [],
        (16, 7): [11],
        (16, 9): [7],
        (16, 12): [7, 12, 14],
        (16, 13): [7, 9, 12, 14],
        (24, 11): [24],
        (32, 15): [7, 9, 12, 14, 23, 32],
    }
    assert {23, 32} < DRAWN


def test_our_own_models_draw_at_every_side() -> None:
    rows = default_plan(tiny_flexvar(), schedule=ScaleSchedule.of([1, 7, 20]), top_k=5).rows
    assert [row.top_k for row in rows] == [5, 5, 5]


def test_guidance_reaches_its_scale_at_the_tenth_map_goes_beyond_and_is_whole_above_the_trained_size(
    published: FlexVAR,
) -> None:
    def weights(*sides: int) -> list[float]:
        plan = default_plan(published, schedule=ScaleSchedule.of(sides), guidance_scale=3.5)
        return [round(row.guidance[0], 4) for row in plan.rows]

    assert weights(1, 4, 16) == [1.0, 2.25, 3.5]
    thirteen = weights(*TABLE[16][7])
    assert (thirteen[0], thirteen[9], thirteen[12]) == (1.0, 3.5, round(1 + 2.5 * 12 / 9, 4))
    assert weights(*TABLE[32][1])[-3:] == [3.5, 3.5, 3.5]
    assert weights(16) == [1.0]
