"""Classifier-free guidance: mixing the branches of one generation, and how the guidance scale runs over the scales.

``guidance_scale`` is w in uncond + w (cond - uncond) = w cond + (1 - w) uncond; 1 is off. VAR's published ``cfg`` t
means w = 1 + t; Infinity's is w already.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nextscale.scales import ScaleSchedule


def ramp(guidance_scale: float, schedule: ScaleSchedule, trained: ScaleSchedule) -> list[float]:
    """VAR's linear ramp (arXiv 2404.02905, official sampler): off at the first scale, ``guidance_scale`` at the
    last.
    """
    return [1 + (guidance_scale - 1) * schedule.progress(k) for k in range(len(schedule))]


def ramp_of_ten(guidance_scale: float, schedule: ScaleSchedule, trained: ScaleSchedule) -> list[float]:
    """FlexVAR's ramp (arXiv 2502.20313, official sampler): as VAR's up to ten scales; with more of them the tenth
    reaches ``guidance_scale``, and those behind it go beyond. Maps that are larger than the trained ones have it in
    full, and nothing more.
    """
    largest, last = max(trained.grid), max(1, min(len(schedule) - 1, 9))
    shares = (k / last if max(size) <= largest else 1.0 for k, size in enumerate(schedule))
    return [1 + (guidance_scale - 1) * share for share in shares]


def constant(guidance_scale: float, schedule: ScaleSchedule, trained: ScaleSchedule) -> list[float]:
    """The same guidance at every scale."""
    return [guidance_scale] * len(schedule)


SCHEDULES: dict[str, Callable[[float, ScaleSchedule, ScaleSchedule], list[float]]] = {
    "ramp": ramp,
    "ramp-of-ten": ramp_of_ten,
    "constant": constant,
}
"""By name, functions of the guidance scale, of the schedule that is drawn and of the one that the model was trained on;
they give the weight of the first branch at every scale.
"""


def mix(rows: Tensor, weights: tuple[float, ...]) -> Tensor:
    """sum_b weights[b] rows_b, for rows (branches x B, ...) standing branch-major; returns (B, ...)."""
    if len(weights) == 1:
        return rows * weights[0] if weights[0] != 1 else rows
    branches = rows.unflatten(0, (len(weights), -1))
    mixed = branches[0] * weights[0]
    for branch, weight in zip(branches[1:], weights[1:], strict=True):
        mixed = mixed + branch * weight
    return mixed
