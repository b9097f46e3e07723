"""``nextscale verify``: hold our implementation against files of official numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.console import AsJson, answer, answer_json, remark

if TYPE_CHECKING:
    from nextscale.verification import FileReport, Row

SHOWN = 8
"""Rows or names that are listed without --all."""


def verify(
    files: Annotated[
        list[Path], typer.Argument(help="Vector files (.safetensors: weights, inputs, outputs), or folders of them.")
    ],
    every: Annotated[bool, typer.Option("--all", help="Show every row, not only those that do not agree.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compute what each file holds and compare it, output by output; exit code 1 unless all files agree.

    Files of a folder that are for another system or version are named and passed over.
    """
    from nextscale.verification.run import vector_files, verify_file

    reports: list[FileReport] = []
    passed_over: list[FileReport] = []
    for given, path in [(named, path) for named in files for path in vector_files(named)]:
        report = verify_file(path)
        if not report.known and path != given:
            passed_over.append(report)
            continue
        reports.append(report)
        if report.reason and not report.rows and not as_json:
            remark(f"nextscale: {_reason(report)}")
        elif not as_json:
            answer(_table(report, every))
    if as_json:
        answer_json([_as_dict(report) for report in [*reports, *passed_over]])
    else:
        answer(_summary(reports, passed_over, every))
    if not reports or not all(report.ok for report in reports):
        raise typer.Exit(1)


def _table(report: FileReport, every: bool) -> str:
    """A heading, the rows that do not agree (or all), what was not checked and why, and the verdict."""
    heading = "  ".join(filter(None, (report.path, _what(report))))
    rows = [row for row in report.rows if every or not row.ok]
    width = max((len(row.name) for row in rows), default=0)
    lines = _cut([_line(row, width) for row in rows], every)
    lines += _cut([f"{name}  NOT CHECKED" for name in report.unchecked], every)
    lines += _cut([f"{name}  NOT STORED in the file, so not compared" for name in report.absent], every)
    lines += [f"note: {note}" for note in report.notes]
    lines += [f"FAILED: {report.reason}"] if report.reason else []
    good = sum(row.ok for row in report.rows)
    verdict = f"{'agrees' if report.ok else 'DOES NOT AGREE'}: {good} of {len(report.rows)} rows within tolerance"
    return "\n  ".join([heading, *lines, verdict]) if lines else f"{heading}  {verdict}"


def _line(row: Row, width: int) -> str:
    verdict = "ok" if row.ok else f"OUT OF TOLERANCE {row.note}".rstrip()
    return (
        f"{row.name:<{width}}  {row.kind:<5}  largest error {row.max_error:<9.3g}  "
        f"differing {row.differing} of {row.entries}  tolerance {row.tolerance:g}  {verdict}"
    )


def _summary(reports: Sequence[FileReport], passed_over: Sequence[FileReport], every: bool) -> str:
    """Which files were passed over, how many of the others agree, and where the rest do not."""
    lines = []
    if passed_over:
        lines.append(f"passed over {len(passed_over)} files of systems or versions that this version does not know:")
        systems: dict[str, list[str]] = {}
        for report in passed_over:
            named = report.path if every else Path(report.path).name
            systems.setdefault(report.system or "no system named", []).append(named)
        lines += [f"  {system}: {', '.join(_cut(names, every))}" for system, names in systems.items()]
    nothing = "" if reports else ": there was none to verify"
    lines.append(f"{sum(report.ok for report in reports)} of {len(reports)} files agree{nothing}")
    for report in (report for report in reports if not report.ok):
        wrong = [report.reason.removeprefix(f"{report.path} ")] if report.reason else []
        wrong += [row.name for row in report.rows if not row.ok]
        wrong += [] if report.reason else [f"{name} (not checked)" for name in report.unchecked]
        lines.append(f"  not {report.path}: {', '.join(_cut(wrong, every))}")
    return "\n".join(lines)


def _what(report: FileReport) -> str:
    return " ".join(filter(None, (report.system, report.kind, report.case)))


def _reason(report: FileReport) -> str:
    return report.reason if report.reason.startswith(report.path) else f"{report.path}: {report.reason}"


def _cut(lines: list[str], every: bool) -> list[str]:
    more = len(lines) - SHOWN
    return lines if every or more < 2 else [*lines[:SHOWN], f"and {more} more (--all shows them)"]


def _as_dict(report: FileReport) -> dict[str, Any]:
    """Plain data; an infinite error, which JSON has no number for, becomes null."""
    rows = [asdict(row) | {"max_error": row.max_error if math.isfinite(row.max_error) else None} for row in report.rows]
    return asdict(report) | {"rows": rows, "ok": report.ok}
