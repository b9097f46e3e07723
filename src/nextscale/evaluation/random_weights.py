"""Networks of a published size with random weights: what they draw says nothing, what it costs does."""

from __future__ import annotations

import torch
from torch import nn

from nextscale.errors import InputError
from nextscale.memory.scalekv_calibration import Calibration, Statistics
from nextscale.models.base import NextScaleModel
from nextscale.models.weights_hash import weights_hash
from nextscale.scales import ScaleSchedule

SPREAD = 0.02
"""Of the weights: small enough that nothing overflows."""
ROLES = "by index and not measured, in the published proportions: ScaleKV's drafters are the first blocks"


def with_random_weights(module: nn.Module, device: torch.device, dtype: torch.dtype, seed: int = 0) -> nn.Module:
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
    """A calibration of a model that no picture can calibrate: earlier blocks look back more widely than later ones.

    Raises ``InputError`` for a method that has no roles.
    """
    if method != "scalekv":
        raise InputError(f"{method} has no roles that could be given by index; expected scalekv")
    count = len(model.blocks)
    stay = tuple((i + 1) / (count + 1) for i in range(count))
    rows, look_back = (stay,) * (len(schedule) - 1), (tuple((1 - one) / 2 for one in stay),) * (len(schedule) - 1)
    about = {"model": "random weights", "weights": weights_hash(model) or "none", "sizes": schedule.sizes}
    return Statistics(**about, share=0.1, pictures=1, current=rows, history=look_back)  # type: ignore[arg-type]
