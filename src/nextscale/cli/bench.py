"""``nextscale bench``: what methods do to a model's pictures and what they save, in one run, beside the plain model."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
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
    Pixels,
    Ratio,
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
from nextscale.cli.methods import calibrated, calibration_for, handed_over, with_methods
from nextscale.cli.outputs import Overwrite, Pictures
from nextscale.errors import InputError
from nextscale.files import check_new, write_text

if TYPE_CHECKING:
    from nextscale.evaluation.contest import Contest, Entrant, Sheet
    from nextscale.evaluation.subject import Judge, Subject

SECOND = "classifier-second"
"""The bundled classifier that nothing is trained or chosen by."""
PICTURES, MOST_PICTURES, MOST_BATCH, MOST_ROUNDS = 200, 100_000, 1024, 1000


def bench(
    model: Annotated[
        str, typer.Argument(help=f"{MODEL} With --random a published size, as of nextscale plan.")
    ] = DEFAULT_MODEL,
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
    random: Annotated[
        bool, typer.Option("--random", help="Random weights: time, FLOPs and memory alone, of sizes that are not here.")
    ] = False,
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
        int | None,
        typer.Option(
            "-n", "--num-images", min=2, max=MOST_PICTURES, help=f"Pictures that every row draws; {PICTURES}."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=MOST_BATCH, help="Pictures at once where time is taken.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, max=MOST_ROUNDS, help="Rounds in which the rows take turns.")] = 7,
    ratio: Ratio = None,
    pixels: Pixels = None,
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
    from nextscale.evaluation.contest_table import contest_text

    if out is None:
        raise InputError("-o FOLDER was not given; expected a folder for bench.json and pictures")
    others = [("model", name) for name in against or []] + [("control", name) for name in control or []]
    _check_rows([*(methods or []), model, *(name for _, name in others)])
    place = _place(out, overwrite)
    sampling = given(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p)
    shape, drawn = given(ratio=ratio, pixels=pixels), given(data=data, classifier=classifier, num_images=pictures)
    _check_options(random, shape, drawn, calibration or [])
    get = partial(_random if random else _loaded, sampling=sampling | shape, device=device, dtype=dtype)
    with remarks():
        entrants = _methods_of(get(model), methods or [], calibration or [], random)
        for kind, name in others:
            entrant = _plain(name, kind, get(name))
            short = entrant.subject.name
            entrants.append(entrant if short in [one.name for one in entrants] else replace(entrant, name=short))
        found, sheets = _held(entrants, drawn, batch, rounds)
    _save(found, sheets, place)
    answer_json(found.to_dict()) if as_json else answer(contest_text(found))


def _place(out: Path, overwrite: bool) -> Pictures:
    """Where to write. Raises ``InputError`` where that cannot be."""
    place = Pictures(out, overwrite)
    place.check_count(2)
    place.check()
    check_new(out / "bench.json", overwrite)
    return place


def _held(entrants: list[Entrant], drawn: dict[str, Any], batch: int, rounds: int) -> tuple[Contest, dict[str, Sheet]]:
    """The contest, with pictures where there are data; drawn: the options that are about pictures."""
    from nextscale.evaluation.contest import contest, contest_of_costs

    if "data" not in drawn:
        return contest_of_costs(entrants, batch, rounds, progress), {}
    judge, count = _judge(drawn.get("classifier"), entrants[0].subject), drawn.get("num_images", PICTURES)
    return contest(entrants, drawn["data"], judge, count, batch, rounds, progress)


def _check_rows(names: list[str]) -> None:
    """Refuse a row that was asked for twice."""
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} was given twice; expected every row once")


def _check_options(random: bool, shape: dict[str, Any], drawn: dict[str, Any], calibrations: list[Path]) -> None:
    """Refuse what would be ignored, and ask for what is missing."""
    from nextscale.data.images import existing_folder
    from nextscale.evaluation.curves import check_curves

    if random:
        idle = [*drawn, *(["calibration"] if calibrations else [])]
        if idle:
            raise InputError(f"--{idle[0].replace('_', '-')} is for models with weights; leave it out with --random")
        return
    if shape:
        raise InputError(f"--{next(iter(shape))} is for --random; the data have the size that the model draws")
    if "data" not in drawn:
        raise InputError("--data FOLDER was not given; expected a set whose held-out images lend their labels")
    existing_folder(drawn["data"])
    check_curves()


def _loaded(name: str, sampling: dict[str, Any], device: str, dtype: str) -> Subject:
    from nextscale.evaluation.subject import Subject

    pipe = load_pipeline(name, device, dtype)
    parts = (pipe.tokenizer, pipe.model, pipe.conditioner)
    return Subject(pipe.name, pipe.revision, *parts, pipe.defaults | sampling)


def _random(name: str, sampling: dict[str, Any], device: str, dtype: str) -> Subject:
    from nextscale.cli.plan import networks
    from nextscale.device import choose_device, choose_dtype
    from nextscale.evaluation.random_weights import with_random_weights
    from nextscale.evaluation.subject import Subject

    where, _ = choose_device(device)
    number, _ = choose_dtype(dtype, where)
    parts, defaults = networks(name)
    tokenizer, model = (with_random_weights(parts[part], where, number) for part in ("tokenizer", "model"))
    return Subject(name, "random weights", tokenizer, model, defaults=defaults | sampling)


def _plain(name: str, kind: str, subject: Subject) -> Entrant:
    """A model as it is."""
    from nextscale.evaluation.contest import Entrant
    from nextscale.methods.refine import refined_plan
    from nextscale.plan import default_plan

    assert subject.model is not None
    plan = refined_plan(subject.model, subject.tokenizer.stride, **subject.defaults)
    return Entrant(name, kind, subject, plan, default_plan(subject.model, schedule=plan.schedule))


def _methods_of(subject: Subject, methods: list[str], files: list[Path], random: bool) -> list[Entrant]:
    """The plain model, and a row for every list of methods."""
    from nextscale.evaluation.random_weights import calibration_by_index
    from nextscale.methods.remember import CALIBRATION

    plain, used = _plain("plain", "plain", subject), set[Path | None]()
    entrants = [plain]
    for said in methods:
        beside: dict[str, Any] = {}
        if random:
            for name in calibrated(said):
                beside = {CALIBRATION: calibration_by_index(name, plain.parts["model"], plain.plan.schedule)}
        else:
            used.add(file := calibration_for(said, files))
            beside = handed_over(said, file)
        parts = plain.parts | beside
        plan, told = (with_methods(one, said, parts) for one in (plain.plan, plain.told))
        entrants.append(replace(plain, name=said, kind="method", plan=plan, told=told, beside=beside))
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
    if "data" not in found.settings:
        return
    remark(f"quality against time and memory: {place.save(pareto(found), 'pareto')}")
    for name, pictures in sheets.items():
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-")
        remark(f"pictures of {name} beside the plain model's: {place.save(sheet(name, pictures), stem)}")
