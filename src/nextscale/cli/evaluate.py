"""``nextscale evaluate``: how well a tokenizer keeps pictures, how well a generator predicts their tokens, what a
classifier says of what it draws, how it paints in pictures; several models side by side.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.console import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    GuidanceScale,
    PictureSize,
    Refine,
    Scales,
    SkipSmall,
    Steps,
    Temperature,
    TopK,
    TopP,
    answer,
    answer_json,
    given,
    progress,
    remark,
    remarks,
)
from nextscale.cli.outputs import Overwrite, Pictures

if TYPE_CHECKING:
    from nextscale.evaluation.report import Report
    from nextscale.evaluation.subject import Judge, Subject

BUNDLED = "classifier"
"""The classifier that ships with the package."""
MOST_GENERATED = 100_000


def evaluate(
    data: Annotated[Path, typer.Option(help="An emoji set, or a folder of images.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Bundled models, or checkpoint folders; several are compared. By default {DEFAULT_MODEL}."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Images to measure on: heldout, train or all.")] = "heldout",
    classifier: Annotated[
        str | None, typer.Option(help="A classifier's checkpoint folder; by default the bundled one, if there is one.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Another tokenizer (a bundled model or a checkpoint) to measure beside it.")
    ] = None,
    generated: Annotated[
        int | None,
        typer.Option(
            help="Images to generate and have judged by the classifier; 0 by default, for emoji drawn from text 400 "
            "for each bar."
        ),
    ] = None,
    painting: Annotated[
        bool, typer.Option("--painting", help="Paint a box of 200 drawings anew, and hold them against what they were.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures: generated images beside the real ones nearest to them, and painting."),
    ] = None,
    overwrite: Overwrite = False,
    size: PictureSize = None,
    scales: Scales = None,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    refine: Refine = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    skip_small: SkipSmall = False,
    as_json: AsJson = False,
) -> None:
    """Measure a model on images: PSNR and use of the codebook, or of the bits; loss and accuracy of the generator per
    scale; and with a classifier how generated images compare with held-out and with training images.

    Several models are compared: one table with their sizes, FLOPs, losses and speeds, and the ratios to the first.
    """
    from nextscale.data.images import check_split, existing_folder
    from nextscale.evaluation.compare import compare, comparison_text
    from nextscale.evaluation.report import evaluate as measure
    from nextscale.evaluation.report import images_to_draw
    from nextscale.evaluation.table import text

    check_split(split)
    existing_folder(data)
    names = models or [DEFAULT_MODEL]
    sampling = given(size=size, scales=scales, steps=steps, guidance_scale=guidance_scale, temperature=temperature)
    sampling |= given(top_k=top_k, top_p=top_p, refine=refine)
    place = None if out is None else Pictures(out, overwrite)
    _check_options(names, classifier, against, generated, painting, place)
    subjects = [_load(name, device, dtype) for name in names]
    with remarks():
        if len(subjects) > 1:
            comparison = compare(subjects, data, split, progress, skip_small)
            told, shown = comparison.to_dict(), comparison_text(comparison)
        else:
            other = None if against is None else _load(against, device, dtype, alone=True)
            subject = replace(subjects[0], defaults={**subjects[0].defaults, **sampling})
            judge = _judge(classifier, subject)
            count = images_to_draw(subject, data, split, judge, generated)
            _check_drawn(subject, count, painting, place, sampling)
            asked: dict[str, Any] = {"generated": count, "painting": painting, "skip_small": skip_small}
            report = measure(subject, data, split, progress, judge=judge, against=other, **asked)
            told, shown = report.to_dict(), text(report)
            if place is not None:
                _save_pictures(report, place)
    answer_json(told) if as_json else answer(shown)


def _check_options(
    names: list[str],
    classifier: str | None,
    against: str | None,
    generated: int | None,
    painting: bool,
    place: Pictures | None,
) -> None:
    """Refuse options that would be ignored, before any work is done."""
    from nextscale.errors import InputError

    alone: dict[str, Any] = {"--classifier": classifier, "--against": against, "--generated": generated}
    alone |= {"--painting": painting, "--out": place}
    named = [option for option, value in alone.items() if value]
    if len(names) > 1 and named:
        raise InputError(f"{named[0]} is for one model, and {len(names)} were named; expected one, or no {named[0]}")
    if generated is not None and not 0 <= generated <= MOST_GENERATED:
        raise InputError(
            f"--generated is {generated}; expected a number of images up to {MOST_GENERATED:,}, 0 for none"
        )


def _check_drawn(
    subject: Subject, images: int, painting: bool, place: Pictures | None, sampling: dict[str, Any]
) -> None:
    """Refuse what is for generated images where there are none, settings that the model cannot draw by, and a place
    where nothing can be written.
    """
    from nextscale.errors import InputError
    from nextscale.methods.refine import refined_plan

    if sampling and not (images or painting):
        option = next(iter(sampling)).replace("_", "-")
        raise InputError(f"--{option} is for generated images; expected --generated with their number, or --painting")
    if sampling and subject.model is not None:
        refined_plan(subject.model, subject.tokenizer.stride, **subject.defaults)
    if place is not None:
        from nextscale.evaluation.curves import check_curves

        if not (images or painting):
            raise InputError(
                f"--out {place.out} is for pictures of generated images; expected --generated with their number, or "
                "--painting"
            )
        if images:
            check_curves()
        place.check_count(2)
        place.check()


def _load(name: str, device: str, dtype: str, alone: bool = False) -> Subject:
    """The model, or the tokenizer ``alone``, also where a checkpoint holds no more; says where it computes, and how
    precisely.
    """
    import torch

    import nextscale
    from nextscale.checkpoints.store import load_component, read_config
    from nextscale.device import choose_device, choose_dtype
    from nextscale.evaluation.subject import Subject
    from nextscale.pipeline import checkpoint_folder, revision
    from nextscale.tokenizers.base import Tokenizer

    folder = checkpoint_folder(name)
    config = read_config(folder)
    where, where_reason = choose_device(device)
    number, number_reason = choose_dtype(dtype, where)
    if "model" in config.get("components", {}) and not alone:
        pipe = nextscale.load(name, device=where, dtype=number)
        subject = Subject(pipe.name, pipe.revision, pipe.tokenizer, pipe.model, pipe.conditioner, pipe.defaults)
    else:
        tokenizer = load_component(folder, "tokenizer", where, number)
        assert isinstance(tokenizer, Tokenizer)
        tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        subject = Subject(config.get("name", str(folder)), revision(folder), tokenizer)
    kind = "" if subject.model is not None else " (a tokenizer alone)"
    in_number = str(number).removeprefix("torch.")
    remark(f"{subject.name}{kind} on {where} ({where_reason}) in {in_number} ({number_reason})")
    return subject


def _judge(name: str | None, subject: Subject) -> Judge | None:
    """The classifier that was named, else the bundled one where there is one and the images are large enough for it."""
    from nextscale.checkpoints.load import bundled_names, checkpoint_folder, revision
    from nextscale.checkpoints.store import load_component
    from nextscale.evaluation.subject import Judge, square_resolution
    from nextscale.features.classifier import Classifier

    if name is None and BUNDLED not in bundled_names("classifier"):
        return None
    folder = checkpoint_folder(name or BUNDLED)
    network = load_component(folder, "classifier", next(subject.tokenizer.parameters()).device)
    assert isinstance(network, Classifier)
    if name is None and square_resolution(subject.tokenizer) < 2 * network.stride:
        return None
    judge = Judge(name or BUNDLED, revision(folder), network)
    remark(f"classifier: {judge.name}, revision {judge.revision}, in float32")
    return judge


def _save_pictures(report: Report, place: Pictures) -> None:
    """Generated images beside their nearest training images, and the curves of nearest distances; emoji drawn from text
    beside their own drawings; drawings before and after they were painted in.
    """
    pictures = {name: sheet.picture() for name, sheet in report.sheets.items()}
    pictures |= {} if report.painted is None else report.painted.sheets()
    if report.neighbours is not None:
        pictures |= {"nearest": report.neighbours.picture(), "distances": report.neighbours.curve()}
    for name, picture in pictures.items():
        remark(f"{name}: {place.save(picture, name)}")
