"""``nextscale reconstruct``: encode and decode a picture, and show what each scale adds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextscale.cli.console import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    answer,
    answer_json,
    load_pipeline,
    remarks,
)
from nextscale.cli.outputs import Overwrite, Pictures

if TYPE_CHECKING:
    from PIL import Image


def reconstruct(
    picture: Annotated[
        Path, typer.Argument(help="A picture file; its centre is cropped to the model's shape and resized.")
    ],
    model: Annotated[str, typer.Option(help="A bundled model or a checkpoint folder.")] = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the strip, or a file for it.")] = Path("out"),
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Encode and decode a picture, and show what each scale adds."""
    from PIL.Image import Resampling

    from nextscale.pictures import factor_for, open_picture, strip

    with remarks():
        image = open_picture(picture)
    place = Pictures(out, overwrite)
    place.check()

    import nextscale
    from nextscale.pipeline import fit
    from nextscale.results import file_name

    pipe = load_pipeline(model, device, dtype)
    schedule = pipe.schedule_for(image)
    wanted = fit(image, pipe.tokenizer.pixels(schedule))
    drawn = pipe.reconstruct(image)  # of some tokenizers the coarser ones are smaller
    stages = [one if one.size == wanted.size else one.resize(wanted.size, Resampling.BICUBIC) for one in drawn]
    sizes = [f"{h}x{w}" for h, w in schedule]
    quality = [psnr(wanted, stage) for stage in stages]
    labels = [*(f"{size}  {db:.1f} dB" for size, db in zip(sizes, quality, strict=True)), "original"]
    recipe = {
        "nextscale": nextscale.__version__,
        "model": pipe.name,
        "revision": pipe.revision,
        "picture": picture.name,
    }
    page = strip([[*stages, wanted]], labels, scale=factor_for(wanted))
    path = place.save(page, f"{file_name(picture.stem, 'picture')}-scales", recipe)
    place.tell_moved()
    if as_json:
        answer_json({"strip": str(path), "scales": sizes, "psnr": [round(db, 3) for db in quality]})
        return
    for size, db in zip(sizes, quality, strict=True):
        answer(f"up to scale {size:>7}  PSNR {db:6.2f} dB")
    answer(f"{path}")


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size in dB, pixels in [0, 1]; at most 100 (equal pictures)."""
    import numpy as np

    difference = np.asarray(a, np.float64) / 255 - np.asarray(b, np.float64) / 255
    return min(100.0, -10 * math.log10(max(1e-10, float((difference**2).mean()))))
