"""``nextscale data``: build a data set, and look through one before it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import AsJson, SkipSmall, answer, answer_json, progress, remark, remarks
from nextscale.errors import quoted

SHOWN = 60
"""Classes that a check lists for people."""

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
    skip_small: SkipSmall = False,
    captions: Annotated[bool, typer.Option("--captions", help="Read captions, as for a text model.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look through a data set as training does: the classes and their images, the split, what is passed over, and which
    files are damaged.

    Of a set that is larger than memory the result is kept, so that training need not look again.
    """
    from nextscale.data.captions import require_captions
    from nextscale.data.emoji_cells import held_out
    from nextscale.data.emoji_reader import holds_emoji, read_metadata
    from nextscale.data.folder import load_data

    found = {}
    for split in ("train", "heldout"):
        with remarks(), progress(f"reading {split}", "images") as step:
            found[split] = load_data(folder, resolution, split, None, step, skip_small, captions)
    words = [one for side in found.values() for one in require_captions(side.captions, str(folder))] if captions else []
    long = sum(one.long is not None for one in words)
    train, heldout = found.values()
    unreadable = [*train.unreadable, *heldout.unreadable]
    too_small = [*train.too_small, *heldout.too_small]
    notes = list(dict.fromkeys([*train.notes, *heldout.notes]))
    counts = dict(zip(train.classes, zip(train.counts, heldout.counts, strict=True), strict=True))
    if as_json:
        told = {"train": len(train), "heldout": len(heldout), "classes": train.classes, "styles": train.styles}
        sides = {name: {"train": first, "heldout": second} for name, (first, second) in counts.items()}
        told |= {"images": sides, "split": train.split_by, "passed_over": train.passed_over.counts, "notes": notes}
        if captions:
            told["captions"] = {"hash": train.caption_hash, "long": long}
            told |= {"held_out": held_out(read_metadata(folder))} if holds_emoji(folder) else {}
        answer_json(
            {"folder": str(folder), **told, "hash": train.hash, "unreadable": unreadable, "too_small": too_small}
        )
        return
    for file in unreadable:
        remark(f"damaged: {file}")
    for note in notes:
        remark(note)
    answer(f"{folder}: split: {train.split_by}")
    answer(f"passed over: {train.passed_over}")
    answer(f"{'class':40} {'to train on':>12} {'held out':>9}")
    for name, (first, second) in list(counts.items())[:SHOWN]:
        answer(f"{name[:40]:40} {first:12} {second:9}")
    if len(counts) > SHOWN:
        answer(f"and {len(counts) - SHOWN} classes more, which --json lists")
    if captions:
        answer(f"captions: one for each image, {long} with a long one; for instance {quoted(words[0].text)}")
    left_out = f", {len(too_small)} smaller than {resolution} pixels left out" if too_small else ""
    answer(
        f"{folder}: {len(train)} images to train on and {len(heldout)} held out{left_out}, "
        f"{len(train.classes)} classes, {len(unreadable)} damaged files left out"
    )
