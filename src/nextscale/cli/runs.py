"""``nextscale runs``: the curves of training runs in one picture, and what they have reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import answer, remark
from nextscale.cli.outputs import Overwrite, check_picture
from nextscale.errors import InputError
from nextscale.files import check_new, check_writable, write_text


def runs(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, as nextscale train names.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Picture to write the curves to (PNG); runs.png here, or a free name."),
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write every logged number to this file.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare training runs: their curves in one picture, and a table of steps, speeds and best held-out numbers."""
    from nextscale.evaluation.curves import check_curves, curves
    from nextscale.evaluation.runs import read_runs, runs_csv, runs_table
    from nextscale.pictures import save_beside, save_png

    if output is None:
        check_writable(Path())
    else:
        check_picture(output, overwrite)
    if csv is not None:
        check_new(csv, overwrite)
    if output is not None and csv is not None and output.resolve() == csv.resolve():
        raise InputError(f"--output and --csv both name {csv}; expected two files")
    check_curves()
    found = read_runs(folders)
    picture = curves(found)
    answer(runs_table(found))
    if csv is not None:
        write_text(csv, runs_csv(found), overwrite)
        remark(f"numbers: {csv}")
    written = save_beside(picture, "runs.png") if output is None else save_png(picture, output, overwrite=overwrite)
    remark(f"curves: {written}")
