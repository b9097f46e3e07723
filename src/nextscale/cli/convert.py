"""``nextscale convert``: official weight files to a checkpoint folder, and parts of one back to official files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextscale.checkpoints.published import PUBLISHED, published
from nextscale.cli.console import AsJson, answer, answer_json
from nextscale.errors import InputError

if TYPE_CHECKING:
    import torch

SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def convert(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Official files, such as var_d16.pth and vae_ch160v4096z32.pth, in any order; or the name of a "
            f"published model, whose files are fetched: {', '.join(PUBLISHED)}."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The checkpoint folder (or exported file) to write.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="Write weights in float32, bf16 (half the size) or fp16; by default as given."),
    ] = None,
    scales: Annotated[
        str | None, typer.Option(help='Scale schedule, such as "1 2 3 4", where the files do not show it.')
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a published model's repository.")
    ] = None,
    export: Annotated[
        str | None, typer.Option(help="The way back: write this part (tokenizer or model) of a checkpoint folder.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn official weight files into a checkpoint folder; their configuration is read off their tensors."""
    from nextscale.checkpoints.convert import convert_files, export_file

    if export is not None:
        if len(files) != 1 or scales is not None or dtype is not None:
            raise InputError(
                f"--export takes one checkpoint folder and no --scales or --dtype, but got {len(files)} paths"
            )
        export_file(files[0], export, out)
        if as_json:
            answer_json({"file": str(out), "component": export})
        else:
            answer(f"{export} of {files[0]} written to {out} under official names")
        return
    number = None if dtype is None else _number(dtype)
    sizes = None if scales is None else _sizes(scales)
    report = convert_files(_files(files, revision), out, number, sizes)
    if as_json:
        answer_json(report.to_dict())
    else:
        answer(str(report))


def _files(given: list[Path], revision: str | None) -> list[Path]:
    """The files themselves, or those of the one published model that was named."""
    model = published(str(given[0])) if len(given) == 1 and not given[0].exists() else None
    if model is None:
        if revision is not None:
            raise InputError(f"--revision is {revision!r}, but no published model was named; expected one for it")
        if len(given) == 1 and not given[0].exists():
            raise InputError(
                f"there is no file {given[0]}, and no published model of that name: {', '.join(PUBLISHED)}"
            )
        return given
    from nextscale.checkpoints.hub import official_files

    return [path for path, _ in official_files(model, revision)]


def _number(text: str) -> torch.dtype:
    from nextscale.device import DTYPES

    name = SHORT.get(text, text)
    if name not in DTYPES:
        raise InputError(f"--dtype is {text!r}; expected one of {', '.join([*DTYPES, *SHORT])}")
    return DTYPES[name]


def _sizes(text: str) -> list[int]:
    sides = text.replace(",", " ").split()
    if not sides or not all(side.isdecimal() for side in sides):
        raise InputError(f'--scales is {text!r}; expected sides such as "1 2 3 4"')
    return [int(side) for side in sides]
