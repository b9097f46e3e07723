"""What comes of verifying a file: one row per output, what was not checked, and whether all of it agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["float", "int", "bool"]


@dataclass(frozen=True)
class Row:
    """One output, compared.

    max_error: largest absolute difference of finite entries, infinite where the comparison is impossible; differing:
    entries out of tolerance (int and bool: unequal), of ``entries``; tolerance: t in |a - b| <= t + t |b|, 0 for int
    and bool; note: what else is to be said, e.g. shapes that differ.
    """

    name: str
    kind: Kind
    max_error: float
    differing: int
    entries: int
    tolerance: float
    ok: bool
    note: str = ""


@dataclass
class FileReport:
    """One vector file, verified.

    unchecked: names of outputs that nothing was computed for; absent: names of what was computed and files of this kind
    store, but this one does not; reason: why the file could not be read or carried through, empty if it could; known:
    False for a file that is for another program or version; notes: remarks that change nothing.
    """

    path: str
    system: str = ""
    kind: str = ""
    case: str = ""
    rows: list[Row] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reason: str = ""
    known: bool = True

    @property
    def ok(self) -> bool:
        """Every output was checked, at least one, and all agree."""
        return bool(self.rows) and all(row.ok for row in self.rows) and not self.unchecked and not self.reason


class Checks:
    """Collects the rows of one file.

    >>> checks = Checks({"x": torch.tensor([1.0])}, 1e-4)
    >>> checks.check("x", torch.tensor([2.0]))
    tensor([1.])
    >>> checks.rows[0].ok, checks.unchecked
    (False, [])
    """

    def __init__(self, outputs: Mapping[str, Tensor], tolerance: float) -> None:
        self.outputs, self.tolerance = outputs, tolerance
        self.rows: list[Row] = []
        self.absent: list[str] = []
        self.notes: list[str] = []
        self._checked: set[str] = set()

    def check(
        self, name: str, ours: Tensor, label: str = "", *, optional: bool = False, restart: bool = False
    ) -> Tensor:
        """Compare ``ours`` with the output ``name`` and return the tensor to go on with, so that later rows stay
        meaningful: ours where it agrees or the file has no such output, else the stored one.

        label: sets apart a second row of one output; optional: whether files of this kind may leave the output out;
        restart: go on with the stored one in any case, where the steps that follow would multiply rounding.
        """
        if name not in self.outputs:
            if not optional and name not in self.absent:
                self.absent.append(name)
            return ours
        stored = self.outputs[name]
        row = compare(name + label, ours.detach(), stored, self.tolerance)
        self._checked.add(name)
        self.rows.append(row)
        alike = ours.shape == stored.shape and ours.dtype == stored.dtype
        return stored if alike and (restart or not row.ok) else ours

    def check_value(self, name: str, ours: Tensor, stored: Tensor) -> None:
        """Compare two values of which the second stands elsewhere in the file than among its outputs."""
        self.rows.append(compare(name, ours, stored, self.tolerance))

    @property
    def unchecked(self) -> list[str]:
        """Outputs that have no row."""
        return sorted(set(self.outputs) - self._checked)


def compare(name: str, ours: Tensor, stored: Tensor, tolerance: float) -> Row:
    """A row: floats within ``tolerance``, elementwise, and infinities in the same places; ints and bools identical."""
    kind = kind_of(stored)
    allowed = tolerance if kind == "float" else 0.0
    if kind_of(ours) != kind or ours.shape != stored.shape:
        note = f"computed {kind_of(ours)} {tuple(ours.shape)}, stored {kind} {tuple(stored.shape)}"
        return Row(name, kind, float("inf"), stored.numel(), stored.numel(), allowed, False, note)
    a, b = ours.double(), stored.double()
    none = [f"{int(x.isnan().sum())} NaN {where}" for x, where in ((a, "computed"), (b, "stored")) if x.isnan().any()]
    finite = a.isfinite() & b.isfinite()
    error = torch.where(finite, (a - b).abs(), 0.0)
    agree = (a == b) | (finite & (error <= allowed + allowed * b.abs()))
    differing = int((~agree).sum())
    # Where infinities stand in other places, or a number is none, no difference can be named.
    largest = float("inf") if bool((~agree & ~finite).any()) else float(error.max()) if error.numel() else 0.0
    return Row(name, kind, largest, differing, stored.numel(), allowed, differing == 0, ", ".join(none))


def kind_of(tensor: Tensor) -> Kind:
    """float, int or bool."""
    if tensor.is_floating_point():
        return "float"
    return "bool" if tensor.dtype == torch.bool else "int"
