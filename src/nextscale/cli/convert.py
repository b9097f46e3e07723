"""``nextscale convert``: official weight files to a checkpoint folder, and parts of one back to official files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.checkpoints.published import PUBLISHED, Published, published
from nextscale.cli.console import AsJson, answer, answer_json
from nextscale.errors import InputError, quoted

if TYPE_CHECKING:
    import torch

MOST_SCALES = 256
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def convert(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Official files, such as var_d16.pth and vae_ch160v4096z32.pth, in any order (of a model in several "
            "files their folder, or the index in it); or the name of a "
            f"published model, whose files are fetched: {', '.join(PUBLISHED)}."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The checkpoint folder (or exported file) to write.")],
    dtype: Annotated[
        str | None,
        typer.Option(help="Write weights in float32, bf16 (half the size) or fp16; by default as given."),
    ] = None,
    scales: Annotated[
        str | None, typer.Option(help='Scale schedule, such as "1 2 3 4" or "1 2x1 4x2", where files do not show it.')
    ] = None,
    ema: Annotated[
        bool | None,
        typer.Option(
            "--ema/--no-ema", help="Averaged weights or plain ones, where a file has both: averaged by default."
        ),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(
            help="What the classes are called: a text file with a name a line (classnames.txt, synset_words.txt), JSON "
            "(imagenet_class_index.json), a folder with a folder per class, or imagenet-1k; published models have it."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="Whose transformer it is, where files do not show it.")] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a published model's repository.")
    ] = None,
    export: Annotated[
        str | None, typer.Option(help="The way back: write this part (tokenizer or model) of a checkpoint folder.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint or file of that name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn official weight files into a checkpoint folder; their configuration is read off their tensors."""
    from nextscale.checkpoints.class_names import imagenet, read_class_names
    from nextscale.checkpoints.convert import check_folder, convert_files, export_file

    if export is not None:
        given = {
            "--scales": scales,
            "--dtype": dtype,
            "--ema": ema,
            "--class-names": class_names,
            "--system": system,
            "--revision": revision,
        }
        unfit = [name for name, value in given.items() if value is not None]
        if len(files) != 1:
            raise InputError(f"--export takes one checkpoint folder, but got {len(files)} paths")
        if unfit:
            raise InputError(f"--export takes one checkpoint folder and no {unfit[0]}; leave it out")
        export_file(files[0], export, out, overwrite)
        if as_json:
            answer_json({"file": str(out), "component": export})
        else:
            answer(f"{export} of {files[0]} written to {out} under official names")
        return
    number = None if dtype is None else _number(dtype)
    model = _published(files)
    sizes = _sizes(scales) if scales is not None else model.sizes if model is not None else None
    if model is not None and system not in (None, model.system):
        raise InputError(
            f"--system is {quoted(system)}, but {model.name} is of the system {model.system}; leave it out"
        )
    check_folder(out.absolute(), overwrite)  # before anything is fetched
    by_default = imagenet() if model is not None and model.reads_classes else None
    names = by_default if class_names is None else read_class_names(class_names)
    told: dict[str, Any] = {"ema": ema, "class_names": names, "system": system if model is None else model.system}
    report = convert_files(_files(files, revision), out, number, sizes, **told, overwrite=overwrite)
    if as_json:
        answer_json(report.to_dict())
    else:
        answer(str(report))


def _files(given: list[Path], revision: str | None) -> list[Path]:
    """The files themselves, or those of the one published model that was named."""
    model = _published(given)
    if model is None:
        if revision is not None:
            raise InputError(f"--revision is {revision!r}, but no published model was named; expected one for it")
        if len(given) == 1 and not given[0].exists():
            raise InputError(
                f"there is no file {given[0]}, and no published model of that name: {', '.join(PUBLISHED)}"
            )
        return given
    from nextscale.checkpoints.hub import official_files

    return [path for path, _ in official_files(model, revision)]


def _published(given: list[Path]) -> Published | None:
    """The published model that was named instead of files."""
    return published(str(given[0])) if len(given) == 1 and not given[0].exists() else None


def _number(text: str) -> torch.dtype:
    from nextscale.device import DTYPES

    name = SHORT.get(text, text)
    if name not in DTYPES:
        raise InputError(f"--dtype is {text!r}; expected one of {', '.join([*DTYPES, *SHORT])}")
    return DTYPES[name]


def _sizes(text: str) -> list[tuple[int, ...]]:
    sides = text.replace(",", " ").split()
    if not 0 < len(sides) <= MOST_SCALES or not all(re.fullmatch("[0-9]{1,4}(x[0-9]{1,4})?", side) for side in sides):
        raise InputError(
            f'--scales is {text!r:.80}; expected sides such as "1 2 3 4", or height x width such as "1 2x1 4x2", at '
            f"most {MOST_SCALES} of at most 9999"
        )
    return [(*map(int, side.split("x")),) * (1 if "x" in side else 2) for side in sides]
