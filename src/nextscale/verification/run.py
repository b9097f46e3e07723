"""Verify vector files of any system: read, compute with the system's own module, compare."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path

from nextscale import systems
from nextscale.errors import NextscaleError
from nextscale.verification.report import Checks, FileReport
from nextscale.verification.vectors import UnknownFile, VectorFile, read_vectors

Computation = Callable[[VectorFile, Checks], None]


def verify_files(paths: Iterable[Path]) -> list[FileReport]:
    """Verify every file, and every ``.safetensors`` file below every folder; what cannot be read, is unknown or fails
    on the way becomes a report that is not ok, with the reason."""
    return [verify_file(file) for path in paths for file in vector_files(Path(path))]


def vector_files(path: Path) -> list[Path]:
    """The file itself, or the ``.safetensors`` files below a folder; a folder without any stands for itself."""
    return (sorted(path.rglob("*.safetensors")) if path.is_dir() else []) or [path]


def verify_file(path: Path) -> FileReport:
    """Verify one vector file."""
    report = FileReport(str(path))
    try:
        file = read_vectors(path)
    except NextscaleError as error:
        report.reason, report.known = str(error), not isinstance(error, UnknownFile)
        return report
    report.system, report.kind, report.case = file.system, file.kind, file.case
    checks = Checks(file.outputs, file.tolerance)
    try:
        compute = _computation(file)
    except UnknownFile as error:
        report.reason, report.known = str(error), False
        return report
    report.reason = _carry_out(compute, file, checks)
    report.rows, report.absent, report.notes = checks.rows, checks.absent, checks.notes
    report.unchecked = [f"out/{name}" for name in checks.unchecked] + list(file.strays)
    if not file.outputs and not report.reason:
        report.reason = "the file has no outputs to check"
    return report


def _computation(file: VectorFile) -> Computation:
    """What computes and checks the outputs of this file. Raises ``UnknownFile`` if there is nothing."""
    system = systems.named(file.system)
    if system is None:
        known = ", ".join(system.name for system in systems.SYSTEMS)
        raise UnknownFile(f"unknown system {file.system[:40]!r}; this version knows {known}")
    kinds: dict[str, Computation] = import_module(system.verification).KINDS
    if file.kind not in kinds:
        raise UnknownFile(f"unknown kind {file.kind[:40]!r} of {file.system}; this version knows {', '.join(kinds)}")
    return kinds[file.kind]


def _carry_out(compute: Computation, file: VectorFile, checks: Checks) -> str:
    """Compute and compare everything; returns why that was not possible, or nothing."""
    try:
        compute(file, checks)
    except NextscaleError as error:
        return str(error)
    # A damaged file can break any computation, and the files after it are still to be verified.
    except Exception as error:
        text = " ".join(str(error).split())
        return f"the computation broke off: {type(error).__name__}: {text[:300]}"
    return ""
