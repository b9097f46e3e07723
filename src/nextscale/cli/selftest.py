"""``nextscale selftest``: is a checkpoint what it should be, from its files to a picture; a report to paste."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.checkpoints.published import PUBLISHED
from nextscale.cli.console import AsJson, Device, Dtype, Revision, answer, answer_json, remark
from nextscale.cli.outputs import Overwrite, Pictures


def selftest(
    model: Annotated[
        str,
        typer.Argument(
            help=f"A published model, fetched if it is not here ({', '.join(PUBLISHED)}), a checkpoint folder, a "
            "repository on the hub, or a bundled model."
        ),
    ],
    revision: Revision = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder or file for the picture that is drawn.")] = Path(
        "out"
    ),
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Check files, sizes, reconstruction, prediction, one picture, time and memory; exit code 1 if one is wrong."""
    place = Pictures(out, overwrite)
    place.check()

    from nextscale.results import file_name
    from nextscale.verification.selftest import selftest as carry_out

    found = carry_out(model, revision=revision, device=device, dtype=dtype)
    picture = place.save(found.picture, f"selftest-{file_name(found.model, 'model')}", found.recipe)
    if as_json:
        answer_json(found.to_dict() | {"picture": str(picture)})
    else:
        answer(str(found))
        remark(f"the picture: {picture}")
    if not found.ok:
        raise typer.Exit(1)
