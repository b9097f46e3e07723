"""``nextscale data``: build a data set, and look through one before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import AsJson, answer, answer_json, progress, remark, remarks

data = typer.Typer(name="data", no_args_is_help=True, help="Build and check data sets to train on.")


@data.callback()
def _group() -> None:
    """Build and check data sets to train on."""


@data.command()
def emoji(
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder to build the data set in.")],
    styles: Annotated[
        str, typer.Option(help="Drawing styles, separated by commas, such as noto,twemoji; all five without it.")
    ] = "noto,fluent-emoji-flat,fluent-emoji,twemoji,openmoji",
    resolution: Annotated[int, typer.Option(help="Height and width of the images in pixels.")] = 64,
    as_json: AsJson = False,
) -> None:
    """Draw the emoji set from pinned npm packages. A folder that holds it whole is left as it is; a build that was
    interrupted goes on, and a set with damaged files is built again.
    """
    from nextscale.data.emoji import build_emoji

    names = [style.strip() for style in styles.split(",") if style.strip()]
    try:
        with progress("drawing", "images") as step:
            built = build_emoji(out, names, resolution, progress=step)
    except KeyboardInterrupt:
        remark("interrupted; give the same command again to go on")
        raise typer.Exit(130) from None
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


@data.command()
def check(
    folder: Annotated[Path, typer.Argument(help="An emoji set, a folder of images, or shards like s/{000..010}.tar.")],
    resolution: Annotated[int, typer.Option(min=8, help="Height and width that will be trained on, in pixels.")] = 256,
    as_json: AsJson = False,
) -> None:
    """Look through a data set as training does: how many images and classes, and which files are damaged.

    Of a set that is larger than memory the result is kept, so that training need not look again.
    """
    from nextscale.data.folder import load_data

    found = {}
    for split in ("train", "heldout"):
        with remarks(), progress(f"reading {split}", "images") as step:
            found[split] = load_data(folder, resolution, split, progress=step)
    train, heldout = found.values()
    unreadable = [*train.unreadable, *heldout.unreadable]
    if as_json:
        counts = {"train": len(train), "heldout": len(heldout), "classes": train.classes, "styles": train.styles}
        answer_json({"folder": str(folder), **counts, "hash": train.hash, "unreadable": unreadable})
        return
    for file in unreadable:
        remark(f"damaged: {file}")
    answer(
        f"{folder}: {len(train)} images to train on and {len(heldout)} held out, {len(train.classes)} classes, "
        f"{len(unreadable)} damaged files left out"
    )
