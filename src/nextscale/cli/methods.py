"""Methods that the command line adds to a plan: what ``--methods`` and ``--calibration`` say.

A method is one entry of ``METHODS``. Torch is imported where a plan is changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from nextscale.errors import InputError, quoted

if TYPE_CHECKING:
    from nextscale.plan import Plan

CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        "--calibration", metavar="FILE", help="What nextscale calibrate wrote, or an official budget file of ScaleKV."
    ),
]


class Method(NamedTuple):
    """expected: how it is written, for people; read: what stands behind its colon ("" for nothing) as a value, or
    ``ValueError``; change: the plan, that value and the calibration, or, unless it is ``calibrated``, the model, to a
    plan.
    """

    expected: str
    read: Callable[[str], Any]
    change: Callable[[Plan, Any, Any], Plan]
    calibrated: bool = False


def _scalekv(plan: Plan, budget: float | None, calibration: Any) -> Plan:
    from nextscale.methods.scalekv import scalekv

    return scalekv(plan, calibration, budget)


def _hack(plan: Plan, budget: float, calibration: Any) -> Plan:
    from nextscale.methods.hack import hack

    return hack(plan, budget)


def _baseline(name: str) -> Method:
    """A method that takes a budget alone."""

    def change(plan: Plan, budget: float, calibration: Any) -> Plan:
        from nextscale.methods.baselines import BASELINES

        return BASELINES[name](plan, budget)

    return Method(f"{name}:X, a share such as 0.5, or a number of tokens", float, change)


def _variant(plan: Plan, numbers: list[int], model: Any) -> Plan:
    from nextscale.methods.variant import variant

    return variant(plan, model, numbers[0], numbers[1:]) if numbers else variant(plan, model)


def _numbers(text: str) -> list[int]:
    """Two or more, with strokes in between; none of nothing."""
    found = [int(one) for one in text.split("/")] if text else []
    if len(found) == 1:
        raise ValueError
    return found


METHODS = {
    "scalekv": Method(
        "scalekv:X, a share such as 0.1, or a number of tokens",
        lambda text: float(text) if text else None,
        _scalekv,
        calibrated=True,
    ),
    "hack": Method("hack:X, a share such as 0.5, or a number of tokens", float, _hack, calibrated=True),
    "window": _baseline("window"),
    "streaming": _baseline("streaming"),
    "h2o": _baseline("h2o"),
    "snapkv": _baseline("snapkv"),
    "pyramidkv": _baseline("pyramidkv"),
    "variant": Method(
        "variant:N/D, such as 4/3 for four full scales and then three blocks, or variant alone for a model that was "
        "taught so",
        _numbers,
        _variant,
    ),
}
"""By name. They are carried out in the order in which they are written."""
Methods = Annotated[
    str | None,
    typer.Option(
        metavar="NAME:X,...",
        help="How the model runs, joined by commas and carried out in this order. scalekv:0.1 keeps a tenth of the "
        "earlier tokens, scalekv:650 that many a layer, as --calibration says; hack:0.5 half of all tokens, those at "
        "hand included, likewise; window, streaming, h2o, snapkv and pyramidkv as scalekv, without a calibration; "
        "variant:4/3 runs all blocks at four scales, then three.",
    ),
]


def handed_over(methods: str | None, file: Path | None, repeats: bool = False) -> dict[str, Any]:
    """The parts that a plan with these methods needs. repeats: a recipe names the methods.

    Raises ``InputError`` where one is missing, or would be ignored, and for methods that cannot be read.
    """
    from nextscale.memory.calibration import read_calibration
    from nextscale.methods.remember import CALIBRATION

    named = calibrated(methods)
    if named and file is None:
        raise InputError(f"--methods {named[0]} needs --calibration FILE, which nextscale calibrate writes")
    if not named and file is not None and not repeats:
        known = " or ".join(name for name, method in METHODS.items() if method.calibrated)
        raise InputError(f"--calibration is for --methods {known}, which was not given; expected both")
    return {} if file is None else {CALIBRATION: read_calibration(file)}


def calibrated(methods: str | None) -> list[str]:
    """The names of those methods that need a calibration."""
    return [name for name, _ in _parsed(methods) if METHODS[name].calibrated]


def calibration_for(methods: str, files: Sequence[Path]) -> Path | None:
    """The file among several that is of a method in ``methods``; None where none of these needs one.

    Raises ``InputError`` where there is none, or more than one.
    """
    from nextscale.memory.calibration import read_calibration

    for name in calibrated(methods):
        found = [file for file in files if read_calibration(file).method == name]
        if len(found) != 1:
            raise InputError(
                f"--methods {methods} needs a calibration of {name}, and {len(found)} were given; expected one "
                "--calibration FILE for each method, as nextscale calibrate writes it"
            )
        return found[0]
    return None


def with_methods(plan: Plan, methods: str | None, parts: dict[str, Any]) -> Plan:
    """The plan with these methods. parts: those that :func:`handed_over` gave, and the model."""
    from nextscale.methods.remember import CALIBRATION

    for name, value in _parsed(methods):
        method = METHODS[name]
        plan = method.change(plan, value, parts.get(CALIBRATION if method.calibrated else "model"))
    return plan


def _parsed(methods: str | None) -> list[tuple[str, Any]]:
    """The names of methods and what they were given, in order."""
    found = []
    for said in [] if methods is None else methods.split(","):
        name, _, text = said.strip().partition(":")
        if name not in METHODS:
            raise InputError(f"--methods has {quoted(name)}; expected some of {', '.join(METHODS)}, joined by commas")
        try:
            found.append((name, METHODS[name].read(text)))
        except ValueError:
            raise InputError(f"--methods has {quoted(said.strip())}; expected {METHODS[name].expected}") from None
    return found
