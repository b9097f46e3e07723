"""Comparison by the rule of the format, and when a report is ok."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nextscale.verification.report import Checks, FileReport, compare

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("ours", "stored", "ok", "error"),
    [
        ([1.0, 2.0], [1.0, 2.0], True, 0),
        ([10.0009], [10.0], True, 9e-4),  # t + t * 10 = 1.1e-3
        ([10.002], [10.0], False, 2e-3),
        ([0.00009], [0.0], True, 9e-5),
        ([0.0002], [0.0], False, 2e-4),
        ([INF, -INF], [INF, -INF], True, 0),
        ([INF], [-INF], False, INF),
        ([1e30], [INF], False, INF),
        ([NAN], [NAN], False, INF),
        ([NAN], [0.0], False, INF),
    ],
)
def test_floats(ours: list[float], stored: list[float], ok: bool, error: float) -> None:
    row = compare("x", torch.tensor(ours), torch.tensor(stored), 1e-4)
    assert (row.kind, row.ok, row.differing > 0) == ("float", ok, not ok)
    assert row.max_error == pytest.approx(error, rel=1e-2)


def test_ints_and_bools_must_be_identical() -> None:
    row = compare("x", torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4]), 1e3)
    assert (row.kind, row.ok, row.differing, row.max_error, row.tolerance) == ("int", False, 1, 1, 0)
    assert not compare("x", torch.tensor([True]), torch.tensor([False]), 1.0).ok
    assert compare("x", torch.tensor([True]), torch.tensor([True]), 0.0).kind == "bool"


@pytest.mark.parametrize(
    ("ours", "stored"),
    [
        (torch.ones(2, 1), torch.ones(2)),
        (torch.ones(2), torch.ones(2, dtype=torch.int64)),
        (torch.ones(2, dtype=torch.int64), torch.ones(2)),
        (torch.ones(2, dtype=torch.int64), torch.ones(2, dtype=torch.bool)),
    ],
)
def test_another_shape_or_kind_never_passes(ours: Tensor, stored: Tensor) -> None:
    row = compare("x", ours, stored, 1e-4)
    assert not row.ok
    assert row.note


def test_checks_go_on_with_the_stored_tensor_where_ours_differs() -> None:
    checks = Checks({"a": torch.tensor([1.0]), "b": torch.tensor([1.0]), "c": torch.tensor([1.0])}, 1e-4)
    close, far = torch.tensor([1.00001]), torch.tensor([2.0])
    assert checks.check("a", close) is close
    assert torch.equal(checks.check("b", far), torch.tensor([1.0]))
    assert checks.check("nowhere", far) is far
    assert [row.ok for row in checks.rows] == [True, False]
    assert checks.unchecked == ["c"]


def test_ok_needs_rows_all_good_nothing_unchecked_and_no_reason() -> None:
    good = compare("x", torch.ones(1), torch.ones(1), 1e-4)
    bad = compare("x", torch.ones(1), torch.zeros(1), 1e-4)
    assert FileReport("f", rows=[good]).ok
    assert not FileReport("f").ok
    assert not FileReport("f", rows=[good, bad]).ok
    assert not FileReport("f", rows=[good], unchecked=["out/y"]).ok
    assert not FileReport("f", rows=[good], reason="broken").ok
