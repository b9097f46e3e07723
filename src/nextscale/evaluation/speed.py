"""What a machine's number of images per second is worth: the share of its own matrix-product speed that was reached."""

from __future__ import annotations

import time

import torch

from nextscale.models.base import NextScaleModel

SIDE, TRIALS = 1024, 5


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of five products of 1024x1024 matrices; takes a tenth of a second on two cores."""
    a = torch.ones(SIDE, SIDE, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(TRIALS + 1):  # the first one only warms up, if it is slow
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # reading one number waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best


def forward_flops(model: NextScaleModel) -> int:
    """FLOPs of predicting all tokens of one image, one branch, as the model prices itself."""
    schedule = model.schedule
    steps = sum(model.step_flops(schedule, k, 1, 1, None) for k in range(len(schedule)))
    return model.condition_flops(1) + steps + model.head_flops(schedule.tokens, 1)
