"""Networks of a published size with random weights: what they draw says nothing, what it costs does."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from nextscale.errors import InputError
from nextscale.memory.calibration import Calibration
from nextscale.memory.hack_calibration import HeadStatistics
from nextscale.memory.scalekv_calibration import Statistics
from nextscale.models.base import NextScaleModel
from nextscale.models.weights_hash import weights_hash
from nextscale.scales import ScaleSchedule

Module = TypeVar("Module", bound=nn.Module)
SPREAD = 0.02
"""Of the weights: small enough that nothing overflows."""
ROLES = "by index and not measured: the first blocks are ScaleKV's drafters, 1/16 of all pairs of a scale and a block, "
ROLES += "as published; the first half of the heads of every block are HACK's contextual ones, whose share is not"


def with_random_weights(module: Module, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Module:
    """A module that was made on the meta device, with normal weights, in evaluation mode."""
    noise = torch.Generator(device).manual_seed(seed)
    state = {
        name: torch.empty(t.shape, dtype=dtype, device=device).normal_(0, SPREAD, generator=noise)
        if t.is_floating_point()
        else torch.zeros(t.shape, dtype=t.dtype, device=device)
        for name, t in module.state_dict().items()
    }
    module.load_state_dict(state, assign=True)
    return module.to(device).eval().requires_grad_(False)


def calibration_by_index(method: str, model: NextScaleModel, schedule: ScaleSchedule) -> Calibration:
    """A calibration of a model that no picture can calibrate: the first blocks look back the most, and the first heads
    of every block are the most alike from everywhere.

    Raises ``InputError`` for a method that has no roles.
    """
    about: dict[str, Any] = {"model": "random weights", "weights": weights_hash(model) or "none", "pictures": 1}
    about["sizes"] = schedule.sizes
    if method == "scalekv":
        stay = _rising(len(model.blocks))
        look_back, scales = tuple((1 - one) / 2 for one in stay), len(schedule) - 1
        return Statistics(**about, share=0.1, current=(stay,) * scales, history=(look_back,) * scales)
    if method == "hack":
        heads = {spec.block: spec.heads for spec in model.slots}
        return HeadStatistics(**about, variance=tuple(_rising(heads[i]) for i in range(len(model.blocks))))
    raise InputError(f"{method} has no roles that could be given by index; expected scalekv or hack")


def _rising(count: int) -> tuple[float, ...]:
    return tuple((i + 1) / (count + 1) for i in range(count))
