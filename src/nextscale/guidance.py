"""Classifier-free guidance: mixing the branches of one generation, and how the guidance scale runs over the scales.

``guidance_scale`` is w in uncond + w (cond - uncond) = w cond + (1 - w) uncond; 1 is off. VAR's published ``cfg`` t
means w = 1 + t; Infinity's is w already.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nextscale.scales import ScaleSchedule


def ramp(guidance_scale: float, schedule: ScaleSchedule) -> list[float]:
    """VAR's linear ramp (arXiv 2404.02905, official sampler): off at the first scale, ``guidance_scale`` at the
    last.
    """
    return [1 + (guidance_scale - 1) * schedule.progress(k) for k in range(len(schedule))]


def constant(guidance_scale: float, schedule: ScaleSchedule) -> list[float]:
    """The same guidance at every scale."""
    return [guidance_scale] * len(schedule)


SCHEDULES: dict[str, Callable[[float, ScaleSchedule], list[float]]] = {"ramp": ramp, "constant": constant}


def mix(rows: Tensor, weights: tuple[float, ...]) -> Tensor:
    """sum_b weights[b] rows_b, for rows (branches x B, ...) standing branch-major; returns (B, ...)."""
    if len(weights) == 1:
        return rows * weights[0] if weights[0] != 1 else rows
    branches = rows.unflatten(0, (len(weights), -1))
    mixed = branches[0] * weights[0]
    for branch, weight in zip(branches[1:], weights[1:], strict=True):
        mixed = mixed + branch * weight
    return mixed
