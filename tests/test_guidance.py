"""Guidance: the two conventions, and what mixing branches must leave alone."""

from __future__ import annotations

import torch

from nextscale.guidance import constant, mix, ramp
from nextscale.scales import ScaleSchedule

SCHEDULE = ScaleSchedule.preset("256")


def test_the_ramp_is_the_official_one() -> None:
    """VAR's cfg t mixes (1 + t rho) cond - t rho uncond, and guidance_scale is 1 + t."""
    t, cond, uncond = 1.5, torch.randn(2, 3), torch.randn(2, 3)
    for k, w in enumerate(ramp(1 + t, SCHEDULE, SCHEDULE)):
        rho = k / (len(SCHEDULE) - 1)
        official = (1 + t * rho) * cond - t * rho * uncond
        torch.testing.assert_close(mix(torch.cat([cond, uncond]), (w, 1 - w)), official)


def test_the_ramp_starts_off_and_the_constant_does_not() -> None:
    assert ramp(4.0, SCHEDULE, SCHEDULE)[0] == 1
    assert ramp(4.0, SCHEDULE, SCHEDULE)[-1] == 4
    assert set(constant(4.0, SCHEDULE, SCHEDULE)) == {4.0}


def test_equal_branches_make_guidance_irrelevant() -> None:
    x = torch.randn(2, 5)
    torch.testing.assert_close(mix(torch.cat([x, x, x]), (3.0, -1.5, -0.5)), x)


def test_one_branch_is_passed_through() -> None:
    x = torch.randn(2, 5)
    assert mix(x, (1.0,)) is x
