"""Methods that the command line adds to a plan: what ``--methods`` and ``--calibration`` say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.errors import InputError

if TYPE_CHECKING:
    from nextscale.plan import Plan

Methods = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[:X]",
        help="How the model runs: scalekv:0.1 keeps a tenth of the earlier tokens, scalekv:650 that many a layer, as "
        "--calibration says.",
    ),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration", metavar="FILE", help="What nextscale calibrate wrote, or an official budget file of ScaleKV."
    ),
]


def handed_over(methods: str | None, file: Path | None, repeats: bool = False) -> dict[str, Any]:
    """The parts that a plan with these methods needs. repeats: a recipe names the methods.

    Raises ``InputError`` where one is missing, or would be ignored.
    """
    from nextscale.memory.scalekv_calibration import read_calibration
    from nextscale.methods.scalekv import CALIBRATION

    if methods is not None:
        name, _, number = methods.partition(":")
        if name != "scalekv" or (number and _number(number) is None):
            raise InputError(
                f"--methods is {methods!r}; expected scalekv:X, a share such as 0.1, or a number of tokens"
            )
        if file is None:
            raise InputError("--methods scalekv needs --calibration FILE, which nextscale calibrate writes")
    elif file is not None and not repeats:
        raise InputError("--calibration is for --methods scalekv:X, which was not given; expected both")
    return {} if file is None else {CALIBRATION: read_calibration(file)}


def with_methods(plan: Plan, methods: str | None, parts: dict[str, Any]) -> Plan:
    """The plan with these methods, by the parts that :func:`handed_over` gave."""
    if methods is None:
        return plan
    from nextscale.methods.scalekv import CALIBRATION, scalekv

    number = methods.partition(":")[2]
    return scalekv(plan, parts[CALIBRATION], _number(number) if number else None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
