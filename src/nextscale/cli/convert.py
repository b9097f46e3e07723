"""``nextscale convert``: official weight files to a checkpoint folder, and parts of one back to official files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import AsJson, answer, answer_json
from nextscale.errors import InputError


def convert(
    files: Annotated[
        list[Path], typer.Argument(help="Official files, such as var_d16.pth and vae_ch160v4096z32.pth, in any order.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The checkpoint folder (or exported file) to write.")],
    scales: Annotated[
        str | None, typer.Option(help='Scale schedule, such as "1 2 3 4", where the files do not show it.')
    ] = None,
    export: Annotated[
        str | None, typer.Option(help="The way back: write this part (tokenizer or model) of a checkpoint folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn official weight files into a checkpoint folder; their configuration is read off their tensors."""
    from nextscale.checkpoints.convert import convert_files, export_file

    if export is not None:
        if len(files) != 1 or scales is not None:
            raise InputError(f"--export takes one checkpoint folder and no --scales, but got {len(files)} paths")
        export_file(files[0], export, out)
        if as_json:
            answer_json({"file": str(out), "component": export})
        else:
            answer(f"{export} of {files[0]} written to {out} under official names")
        return
    report = convert_files(files, out, sizes=None if scales is None else _sizes(scales))
    if as_json:
        answer_json(report.to_dict())
    else:
        answer(str(report))


def _sizes(text: str) -> list[int]:
    sides = text.replace(",", " ").split()
    if not sides or not all(side.isdecimal() for side in sides):
        raise InputError(f'--scales is {text!r}; expected sides such as "1 2 3 4"')
    return [int(side) for side in sides]
