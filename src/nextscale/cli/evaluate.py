"""``nextscale evaluate``: how well a tokenizer keeps pictures, and how well a generator predicts their tokens."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextscale.cli.console import AsJson, Device, Dtype, answer, answer_json, progress, remark

if TYPE_CHECKING:
    from nextscale.evaluation.report import Report, Subject


def evaluate(
    data: Annotated[Path, typer.Option(help="An emoji set, or a folder of images.")],
    model: Annotated[str, typer.Argument(help="A bundled model, or a checkpoint folder.")] = "emoji",
    split: Annotated[str, typer.Option(help="Images to measure on: heldout, train or all.")] = "heldout",
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a model on images: PSNR and use of the codebook; loss and accuracy of the generator per scale."""
    from nextscale.data.images import check_split, existing_folder
    from nextscale.evaluation.table import text

    check_split(split)
    existing_folder(data)
    report = _measure(_load(model, device, dtype), data, split)
    if as_json:
        answer_json(report.to_dict())
    else:
        answer(text(report))


def _load(name: str, device: str, dtype: str) -> Subject:
    """The model, or the tokenizer alone where a checkpoint holds no more; says where it computes, and how precisely."""
    import torch

    import nextscale
    from nextscale.checkpoints.store import load_component, read_config
    from nextscale.device import choose_device, choose_dtype
    from nextscale.evaluation.report import Subject
    from nextscale.pipeline import checkpoint_folder, revision
    from nextscale.tokenizers.base import Tokenizer

    folder = checkpoint_folder(name)
    config = read_config(folder)
    where, where_reason = choose_device(device)
    number, number_reason = choose_dtype(dtype, where)
    if "model" in config.get("components", {}):
        pipe = nextscale.load(name, device=where, dtype=number)
        subject = Subject(pipe.name, pipe.revision, pipe.tokenizer, pipe.model, pipe.vocabulary.names)
    else:
        tokenizer = load_component(folder, "tokenizer", where, number)
        assert isinstance(tokenizer, Tokenizer)
        tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        subject = Subject(config.get("name", str(folder)), revision(folder), tokenizer)
    kind = "" if subject.model is not None else " (a tokenizer alone)"
    in_number = str(number).removeprefix("torch.")
    remark(f"{subject.name}{kind} on {where} ({where_reason}) in {in_number} ({number_reason})")
    return subject


def _measure(subject: Subject, data: Path, split: str) -> Report:
    """The report; what the reader of the data warns about becomes remarks."""
    from nextscale.evaluation.report import evaluate as measure

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        report = measure(subject, data, split, progress)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        remark(message)
    return report
