"""``nextscale encode``: the tokens of pictures, in a file that ``nextscale decode`` draws again; or the features of
prompts, in a file that spares those who draw or train with them the text encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextscale.cli.asked import prompts_in
from nextscale.cli.console import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    answer,
    answer_json,
    load_pipeline,
    progress,
    remark,
    remarks,
)
from nextscale.cli.outputs import Overwrite
from nextscale.errors import InputError
from nextscale.files import check_new


def encode(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PICTURES|PROMPTS.txt",
            help="Picture files, of which the centre is taken in the model's shape. Or a file of prompts, one a line.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The file to write; tokens.safetensors, or features.safetensors of prompts."),
    ] = None,
    model: Annotated[str, typer.Option(help="A bundled model or a checkpoint folder.")] = DEFAULT_MODEL,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Write the tokens of pictures, one map per scale, or the features of prompts, to a safetensors file."""
    if any(path.suffix.lower() == ".txt" for path in inputs):
        if len(inputs) > 1:
            raise InputError(f"{len(inputs)} files were given with a text among them; expected one file of prompts")
        _encode_prompts(inputs[0], out or Path("features.safetensors"), model, overwrite, device, dtype, as_json)
    else:
        _encode_pictures(inputs, out or Path("tokens.safetensors"), model, overwrite, device, dtype, as_json)


def _encode_pictures(
    pictures: list[Path], out: Path, model: str, overwrite: bool, device: str, dtype: str, as_json: bool
) -> None:
    from nextscale.pictures import open_picture

    check_new(out, overwrite)
    try:
        with remarks():
            images = [open_picture(path) for path in pictures]
    except InputError as error:
        error.add_note("a file of prompts is told by its ending, .txt")
        raise

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


def _encode_prompts(file: Path, out: Path, model: str, overwrite: bool, device: str, dtype: str, as_json: bool) -> None:
    """The text encoder alone is loaded, and no weights of the model that reads it."""
    check_new(out, overwrite)
    prompts = prompts_in(file)
    if again := len(prompts) - len(set(prompts)):
        remark(f"{file} has lines that stand there before, whose prompts are encoded once: {again:,}")

    from nextscale.checkpoints.find import model_folder
    from nextscale.checkpoints.load import saved_conditioner
    from nextscale.checkpoints.published import published
    from nextscale.conditions.encoder import bundled_encoders
    from nextscale.conditions.text import TextConditioner
    from nextscale.device import choose_device, choose_dtype

    row = published(model)
    conditioner = saved_conditioner(model_folder(model)) if row is None else row.conditioner()
    if not isinstance(conditioner, TextConditioner):
        reads = "nothing" if conditioner is None else conditioner.about
        raise InputError(f"{model} reads {reads}, so no prompts are encoded for it; expected a model of text")
    chosen, why = choose_device(device)
    number, reason = choose_dtype(dtype, chosen)
    conditioner.to(chosen, number)
    encoder = conditioner.reference.encoder
    if encoder in bundled_encoders():  # a table, which computes nothing
        remark(f"{encoder}, which is bundled, in float32")
    else:
        remark(f"{encoder} on {chosen} ({why}) in {str(number).removeprefix('torch.')} ({reason})")
    with remarks(), progress("encoding", "prompts") as step:
        features = conditioner.save_features(out, prompts, overwrite, step)
    count = len(features.prompts)
    counted = "1 prompt" if count == 1 else f"{count:,} prompts"
    if as_json:
        about = {"encoder": features.reference.encoder, "sha256": features.reference.sha256}
        answer_json({"features": str(out), "prompts": count, "tokens": features.tokens, **about})
    else:
        answer(f"{out}: {counted}, {features.tokens:,} tokens of {features.reference.encoder}")
