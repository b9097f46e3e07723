"""``nextscale data``: build a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import AsJson, answer, answer_json, progress

data = typer.Typer(name="data", no_args_is_help=True, help="Build data sets to train on.")


@data.callback()
def _group() -> None:
    """Build data sets to train on."""


@data.command()
def emoji(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to build the data set in.")],
    styles: Annotated[
        str, typer.Option(help="Drawing styles, separated by commas: noto, twemoji, openmoji, fluent-emoji, ...")
    ] = "noto",
    resolution: Annotated[int, typer.Option(help="Height and width of the images in pixels.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Draw the emoji set from pinned npm packages; a folder that already holds it is left as it is."""
    from nextscale.data.emoji import build_emoji

    names = [style.strip() for style in styles.split(",") if style.strip()]
    with progress("drawing", "images") as step:
        built = build_emoji(out, names, resolution, progress=step)
    if as_json:
        answer_json(
            {
                "folder": str(built.folder),
                "images": built.images,
                "classes": built.classes,
                "train": built.train,
                "heldout": built.heldout,
                "hash": built.hash,
                "fresh": built.fresh,
            }
        )
        return
    answer(
        f"{built.folder}: {built.images} images in {built.classes} classes, {built.train} to train on and "
        f"{built.heldout} held out{'' if built.fresh else ' (it was built before)'}"
    )
