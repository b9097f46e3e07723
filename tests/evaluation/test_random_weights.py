"""Networks with random weights are whole, and their calibrations give every role its share, by index."""

from __future__ import annotations

import torch

from nextscale.checkpoints.shapes import without_values
from nextscale.evaluation.random_weights import calibration_by_index, with_random_weights
from nextscale.memory.hack_calibration import HeadStatistics
from nextscale.memory.scalekv_calibration import Statistics
from nextscale.models.var import VAR
from tests.makers import tiny_var


def test_every_weight_is_a_number_and_roles_go_by_index() -> None:
    config = tiny_var().config
    model = with_random_weights(without_values(lambda: VAR(config)), torch.device("cpu"), torch.float32)
    assert isinstance(model, VAR)
    assert {(t.device.type, bool(t.isfinite().all())) for t in model.state_dict().values()} == {("cpu", True)}
    assert not any(p.requires_grad for p in model.parameters())
    found, blocks, scales = calibration_by_index("scalekv", model, model.schedule), len(model.blocks), 2
    assert isinstance(found, Statistics)
    budget = model.schedule.offsets[-3] - 1  # the last scales are compressed
    table = found.table(budget, 1, 1 / blocks)
    assert [one.drafters for one in table.allotments.values()] == [frozenset({0})] * scales
    heads = calibration_by_index("hack", model, model.schedule)
    assert isinstance(heads, HeadStatistics)
    assert heads.contextual(0.5) == (frozenset(range(model.config.heads // 2)),) * blocks
