"""``nextscale runs``: the curves of training runs in one picture, and what they have reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import answer, remark


def runs(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, as nextscale train names.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write the curves to (PNG).")] = Path(
        "runs.png"
    ),
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write every logged number to this file.")] = None,
) -> None:
    """Compare training runs: their curves in one picture, and a table of steps, speeds and best held-out numbers."""
    from nextscale.evaluation.curves import check_curves, curves
    from nextscale.evaluation.runs import read_runs, runs_csv, runs_table
    from nextscale.pictures import save_png
    from nextscale.training.runfolder import write_text

    check_curves()
    found = read_runs(folders)
    picture = curves(found)
    answer(runs_table(found))
    if csv is not None:
        csv.parent.mkdir(parents=True, exist_ok=True)
        write_text(csv, runs_csv(found))
        remark(f"numbers: {csv}")
    remark(f"curves: {save_png(picture, output)}")
