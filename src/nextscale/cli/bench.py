"""``nextscale bench``: what methods do to a model's pictures and what they save, in one run, beside the plain model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.console import (
    DEFAULT_MODEL,
    MODEL,
    AsJson,
    Device,
    Dtype,
    GuidanceScale,
    Temperature,
    TopK,
    TopP,
    answer,
    answer_json,
    given,
    load_pipeline,
    progress,
    remark,
    remarks,
)
from nextscale.cli.methods import calibration_for, handed_over, with_methods
from nextscale.cli.outputs import Overwrite, Pictures
from nextscale.errors import InputError
from nextscale.files import check_new, write_text

if TYPE_CHECKING:
    from nextscale.evaluation.contest import Contest, Entrant, Sheet
    from nextscale.evaluation.subject import Judge, Subject

SECOND = "classifier-second"
"""The bundled classifier that nothing is trained or chosen by."""
MOST_PICTURES, MOST_BATCH, MOST_ROUNDS = 100_000, 1024, 1000


def bench(
    model: Annotated[str, typer.Argument(help=MODEL)] = DEFAULT_MODEL,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            metavar="NAME:X,...",
            help="A row: methods joined by commas, as generate takes them; given several times, several rows.",
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option("--calibration", metavar="FILE", help="A calibration for every method that needs one."),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", metavar="MODEL", help="Another model as a row, run plainly.")
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control", metavar="MODEL", help="A smaller plain model: what it draws in the time that a method takes."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="An emoji set, or a folder of images, of which the held-out ones are taken.")
    ] = None,
    classifier: Annotated[
        str | None, typer.Option(help="The checkpoint folder of a classifier that nothing was trained or chosen by.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FOLDER", help="Folder for bench.json and pictures.")
    ] = None,
    pictures: Annotated[
        int, typer.Option("-n", "--num-images", min=2, max=MOST_PICTURES, help="Pictures that every row draws.")
    ] = 200,
    batch: Annotated[int, typer.Option(min=1, max=MOST_BATCH, help="Pictures at once where time is taken.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, max=MOST_ROUNDS, help="Rounds in which the rows take turns.")] = 7,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Hold methods against the plain model, against other models and against one another, on equal seeds and in turns:
    what is in the pictures, held-out loss, time, FLOPs and memory.
    """
    from nextscale.data.images import existing_folder
    from nextscale.evaluation.contest import contest
    from nextscale.evaluation.contest_table import contest_text
    from nextscale.evaluation.curves import check_curves

    if out is None or data is None:
        raise InputError(f"{'-o FOLDER' if out is None else '--data FOLDER'} was not given; expected a folder")
    existing_folder(data)
    _check_rows(model, methods or [], against or [], control or [])
    check_curves()
    place = Pictures(out, overwrite)
    place.check_count(2)
    place.check()
    check_new(out / "bench.json", overwrite)
    sampling = given(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p)
    with remarks():
        entrants = _methods_of(_subject(model, sampling, device, dtype), methods or [], calibration or [])
        for kind, names in (("model", against or []), ("control", control or [])):
            entrants += [_plain(name, kind, _subject(name, sampling, device, dtype)) for name in names]
        judge = _judge(classifier, entrants[0].subject)
        found, sheets = contest(entrants, data, judge, pictures, batch, rounds, progress)
    _save(found, sheets, place)
    answer_json(found.to_dict()) if as_json else answer(contest_text(found))


def _check_rows(model: str, methods: list[str], against: list[str], control: list[str]) -> None:
    """Refuse a row that was asked for twice."""
    names = [*methods, model, *against, *control]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} was given twice; expected every row once")


def _subject(name: str, sampling: dict[str, Any], device: str, dtype: str) -> Subject:
    from nextscale.evaluation.subject import Subject

    pipe = load_pipeline(name, device, dtype)
    parts = (pipe.tokenizer, pipe.model, pipe.conditioner)
    return Subject(pipe.name, pipe.revision, *parts, pipe.defaults | sampling)


def _plain(name: str, kind: str, subject: Subject) -> Entrant:
    """A model as it is."""
    from nextscale.evaluation.contest import Entrant
    from nextscale.methods.refine import refined_plan
    from nextscale.plan import default_plan

    assert subject.model is not None
    plan = refined_plan(subject.model, subject.tokenizer.stride, **subject.defaults)
    return Entrant(name, kind, subject, plan, default_plan(subject.model, schedule=plan.schedule))


def _methods_of(subject: Subject, methods: list[str], files: list[Path]) -> list[Entrant]:
    """The plain model, and a row for every list of methods."""
    plain, used = _plain("plain", "plain", subject), set[Path]()
    entrants = [plain]
    for said in methods:
        file = calibration_for(said, files)
        used |= {file} - {None}
        parts = plain.parts | (beside := handed_over(said, file))
        plans = {"plan": with_methods(plain.plan, said, parts), "told": with_methods(plain.told, said, parts)}
        entrants.append(replace(plain, name=said, kind="method", beside=beside, **plans))
    if idle := [file for file in files if file not in used]:
        raise InputError(f"--calibration {idle[0]} is of no method that was given; leave it out")
    return entrants


def _judge(name: str | None, subject: Subject) -> Judge | None:
    """The classifier that was named, else the bundled second one, where there is one."""
    from nextscale.checkpoints.load import bundled_names, checkpoint_folder, load_classifier, revision
    from nextscale.evaluation.subject import Judge

    if name is None and SECOND not in bundled_names("classifier"):
        remark("no --classifier was given, so nobody says what is in the pictures; docs/bench.md has how to train one")
        return None
    network = load_classifier(name or SECOND, next(subject.tokenizer.parameters()).device)
    return Judge(name or SECOND, revision(checkpoint_folder(name or SECOND)), network)


def _save(found: Contest, sheets: dict[str, Sheet], place: Pictures) -> None:
    from nextscale.evaluation.contest_pictures import pareto, sheet

    text = json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_text(place.out / "bench.json", text, place.overwrite)
    remark(f"numbers: {place.out / 'bench.json'}")
    remark(f"quality against time and memory: {place.save(pareto(found), 'pareto')}")
    for name, pictures in sheets.items():
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-")
        remark(f"pictures of {name} beside the plain model's: {place.save(sheet(name, pictures), stem)}")
