"""``nextscale decode``: the pictures of tokens that ``nextscale encode`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import DEFAULT_MODEL, AsJson, Device, Dtype, answer, answer_json, load_pipeline
from nextscale.cli.outputs import Overwrite, Pictures


def decode(
    tokens: Annotated[Path, typer.Argument(help="A file that nextscale encode wrote.")],
    out: Annotated[
        Path, typer.Option("-o", "--out", help="Folder for the pictures, or a file for one, as in cat.png.")
    ] = Path("out"),
    model: Annotated[
        str, typer.Option(help="A bundled model or a checkpoint folder, with the tokenizer of the file.")
    ] = DEFAULT_MODEL,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw the pictures of tokens; a picture takes the next free name in the folder."""
    place = Pictures(out, overwrite)
    place.check()

    from nextscale.results import file_name
    from nextscale.tokenfile import load_tokens

    pipe = load_pipeline(model, device, dtype)
    found = load_tokens(tokens, pipe.tokenizer, pipe.shapes)
    place.check_count(len(found.names))
    images = zip(found.names, pipe.decode(found.maps), strict=True)
    written = [str(place.save(image, file_name(name, "picture"))) for name, image in images]
    place.tell_moved()
    if as_json:
        answer_json({"pictures": written})
    else:
        answer("\n".join(written))
