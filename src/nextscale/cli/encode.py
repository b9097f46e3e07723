"""``nextscale encode``: the tokens of pictures, in a file that ``nextscale decode`` draws again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.console import DEFAULT_MODEL, AsJson, Device, Dtype, answer, answer_json, load_pipeline, remarks
from nextscale.cli.outputs import Overwrite
from nextscale.files import check_new


def encode(
    pictures: Annotated[
        list[Path], typer.Argument(help="Picture files; their centres are cropped to the model's shape and resized.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")] = Path("tokens.safetensors"),
    model: Annotated[str, typer.Option(help="A bundled model or a checkpoint folder.")] = DEFAULT_MODEL,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Write the tokens of pictures, one map per scale, to a safetensors file."""
    from nextscale.pictures import open_picture

    check_new(out, overwrite)
    with remarks():
        images = [open_picture(path) for path in pictures]

    from nextscale.tokenfile import save_tokens

    pipe = load_pipeline(model, device, dtype)
    tokens = pipe.encode(images)
    save_tokens(out, tokens, [path.stem for path in pictures], pipe.name, pipe.tokenizer, overwrite)
    scales = [f"{one.shape[1]}x{one.shape[2]}" for one in tokens]
    count = sum(one.shape[1] * one.shape[2] for one in tokens)
    if as_json:
        answer_json({"tokens": str(out), "pictures": [str(path) for path in pictures], "scales": scales})
    else:
        counted = "1 picture" if len(images) == 1 else f"{len(images)} pictures"
        answer(f"{out}: {counted}, {count} tokens each, on the scales {' '.join(scales)}")
