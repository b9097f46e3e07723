"""``nextscale decode``: the pictures of tokens that ``nextscale encode`` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import DEFAULT_MODEL, AsJson, Device, Dtype, answer, answer_json, load_pipeline
from nextscale.files import check_writable, free_name


def decode(
    tokens: Annotated[Path, typer.Argument(help="A file that nextscale encode wrote.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder for the pictures.")] = Path("out"),
    model: Annotated[
        str, typer.Option(help="A bundled model or a checkpoint folder, with the tokenizer of the file.")
    ] = DEFAULT_MODEL,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw the pictures of tokens; a picture takes the next free name in the folder."""
    check_writable(out)

    from nextscale.pictures import save_png
    from nextscale.results import file_name
    from nextscale.tokenfile import load_tokens

    pipe = load_pipeline(model, device, dtype)
    found = load_tokens(tokens, pipe.tokenizer)
    written = [
        str(save_png(image, free_name(out / f"{file_name(name, 'picture')}.png")))
        for name, image in zip(found.names, pipe.decode(found.maps), strict=True)
    ]
    if as_json:
        answer_json({"pictures": written})
    else:
        answer("\n".join(written))
