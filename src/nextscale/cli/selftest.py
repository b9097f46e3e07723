"""``nextscale selftest``: is a checkpoint what it should be, from its files to a picture; a report to paste."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from nextscale.checkpoints.published import PUBLISHED
from nextscale.cli.console import AsJson, Device, Dtype, Revision, answer, answer_json, check_writable, remark


def selftest(
    model: Annotated[
        str,
        typer.Argument(
            help=f"A published model, fetched if it is not here ({', '.join(PUBLISHED)}), a checkpoint folder, a "
            "repository on the hub, or a bundled model."
        ),
    ],
    revision: Revision = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the picture that is drawn.")] = Path("out"),
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Check files, sizes, reconstruction, prediction, one picture, time and memory; exit code 1 if one is wrong."""
    check_writable(out)

    from nextscale.pictures import save_png
    from nextscale.verification.selftest import selftest as carry_out

    found = carry_out(model, revision=revision, device=device, dtype=dtype)
    stem = re.sub(r"[^\w.-]+", "-", found.model).strip("-.") or "model"
    picture = save_png(found.picture, out / f"selftest-{stem}.png", found.recipe)
    if as_json:
        answer_json(found.to_dict() | {"picture": str(picture)})
    else:
        answer(str(found))
        remark(f"the picture: {picture}")
    if not found.ok:
        raise typer.Exit(1)
