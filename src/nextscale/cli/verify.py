"""``nextscale verify``: hold our implementation against files of official numbers."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.console import AsJson, answer, answer_json, remark

if TYPE_CHECKING:
    from nextscale.verification import FileReport


def verify(
    files: Annotated[
        list[Path], typer.Argument(help="Vector files (.safetensors: weights, inputs, outputs), or folders of them.")
    ],
    as_json: AsJson = False,
) -> None:
    """Compute what each file holds and compare: a row per output; exit code 1 unless all of them agree."""
    from nextscale.verification.run import vector_files, verify_file

    reports = []
    for path in (file for given in files for file in vector_files(given)):
        report = verify_file(path)
        reports.append(report)
        if report.reason and not report.rows and not as_json:
            remark(f"nextscale: {report.reason}")
        elif not as_json:
            answer(_table(report))
    agreeing = sum(report.ok for report in reports)
    if as_json:
        answer_json([_as_dict(report) for report in reports])
    else:
        answer(f"{agreeing} of {len(reports)} files agree")
    if agreeing < len(reports):
        raise typer.Exit(1)


def _table(report: FileReport) -> str:
    """A heading, a line per output, then what was not checked and why."""
    what = " ".join(filter(None, (report.system, report.kind, report.case)))
    lines = [f"{report.path}  {what}".rstrip()]
    width = max((len(row.name) for row in report.rows), default=0)
    for row in report.rows:
        verdict = "ok" if row.ok else f"OUT OF TOLERANCE {row.note}".rstrip()
        lines.append(
            f"  {row.name:<{width}}  {row.kind:<5}  largest error {row.max_error:<9.3g}  "
            f"differing {row.differing} of {row.entries}  tolerance {row.tolerance:g}  {verdict}"
        )
    lines += [f"  {name}  NOT CHECKED" for name in report.unchecked]
    lines += [f"  note: {note}" for note in report.notes]
    lines += [f"  FAILED: {report.reason}"] if report.reason else []
    good = sum(row.ok for row in report.rows)
    lines.append(f"  {'agrees' if report.ok else 'DOES NOT AGREE'}: {good} of {len(report.rows)} rows within tolerance")
    return "\n".join(lines)


def _as_dict(report: FileReport) -> dict[str, Any]:
    """Plain data; an infinite error, which JSON has no number for, becomes null."""
    rows = [asdict(row) | {"max_error": row.max_error if math.isfinite(row.max_error) else None} for row in report.rows]
    return asdict(report) | {"rows": rows, "ok": report.ok}
