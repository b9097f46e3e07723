"""The exceptions a user can cause, and may want to catch.

All of them are ``ValueError``s with one plain sentence: the value seen and the value expected. The command line
prints that sentence and exits with status 2; it never shows a traceback for them.
"""

from __future__ import annotations

import sys
import warnings


class NextscaleError(ValueError):
    """Base of everything below: something the user can put right."""


class InputError(NextscaleError):
    """An argument, file, picture or folder that cannot be used as it is."""


class PlanError(NextscaleError):
    """A generation plan that could not be carried out; raised before anything runs."""


class CheckpointError(NextscaleError):
    """A weight file or checkpoint folder that is truncated, foreign, or made for something else."""


class TrainingError(NextscaleError):
    """A training run that cannot start, or was stopped (a loss that is not finite, say)."""


def quoted(value: object, most: int = 80) -> str:
    """``value`` as a message quotes it: its ``repr``, cut after ``most`` characters.

    >>> quoted("x" * 1_000_000, 8)
    "'xxxxxxx... (1000002 characters)"
    """
    try:
        shown = " ".join(line.strip() for line in repr(value).splitlines())  # arrays are written on several
    except (ValueError, RecursionError):  # an integer of more digits than Python writes out; endless nesting
        kind = "number of thousands of digits" if isinstance(value, int) else f"{type(value).__name__} too long to show"
        return f"a {kind}"
    return shown if len(shown) <= most else f"{shown[:most]}... ({len(shown)} characters)"


def missing(package: str, purpose: str, extra: str = "train") -> str:
    """The sentence about a package of an extra that is not installed, and what installs it, in a clone of the
    repository and without one. purpose: what needs it, as a subject.

    >>> missing("matplotlib", "a plot")
    "matplotlib is not installed, and a plot needs it: run pip install -e '.[train]' in a clone of the repository, \
or pip install 'matplotlib>=3.10'"
    """
    return (
        f"{package} is not installed, and {purpose} needs it: run pip install -e '.[{extra}]' in a clone of the "
        f"repository, or pip install '{_requirement(package)}'"
    )


def _requirement(package: str) -> str:
    """A package with the versions that the installed library asks for."""
    from importlib import metadata

    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in metadata.requires("nextscale") or []]
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        asked = []
    return next((f"{one.name}{one.specifier}" for one in asked if one.name == package), package)


def warn_user(sentence: str) -> None:
    """Warn at the user's line that led here, the first one outside of this package."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "nextscale":
        frame, level = frame.f_back, level + 1
    warnings.warn(sentence, stacklevel=level)


def one_line(text: object, most: int = 200) -> str:
    """What another program or file says, as one short line without control characters."""
    line = "".join(c if c.isprintable() else " " for c in str(text))
    return line if len(line) <= most else f"{line[: most - 4]} ..."
