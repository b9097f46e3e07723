"""``nextscale calibrate``: measure what a memory policy has to know of a model, and write it to a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.asked import LONGEST_PROMPT, MOST_PICTURES, prompts_in
from nextscale.cli.console import (
    MODEL,
    AsJson,
    Device,
    Dtype,
    Pixels,
    Ratio,
    Scales,
    answer,
    answer_json,
    given,
    load_pipeline,
    progress,
    remarks,
)
from nextscale.cli.outputs import Overwrite
from nextscale.errors import InputError, quoted
from nextscale.files import check_new

if TYPE_CHECKING:
    from nextscale.pipeline import Pipeline

METHODS = ("scalekv", "hack")


def calibrate(
    model: Annotated[str, typer.Argument(help=MODEL)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The file to write, as in model.json.")],
    method: Annotated[str, typer.Option(help="Which method it is for: scalekv or hack.")] = "scalekv",
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text file of prompts, one a line; models of classes need none."),
    ] = None,
    num_images: Annotated[
        int | None, typer.Option("-n", "--num-images", min=1, max=MOST_PICTURES, help="Pictures to draw; 10.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Seed of the first picture; the others count up.")] = 0,
    ratio: Ratio = None,
    pixels: Pixels = None,
    scales: Scales = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Draw some pictures and measure where the model's attention goes, for --methods of generate and plan."""
    if method not in METHODS:
        raise InputError(f"--method is {method!r}; expected {' or '.join(METHODS)}")
    check_new(out, overwrite)
    lines = None if prompts is None else prompts_in(prompts)
    pipe, start = load_pipeline(model, device, dtype), time.perf_counter()

    from nextscale.calibrate import MEASURES
    from nextscale.memory.make import check_serves

    check_serves(method, pipe.model.slots)
    shown = _shown(pipe, lines, num_images)
    sampling = given(ratio=ratio, pixels=pixels, scales=scales)
    with remarks(), progress("calibrating", "pictures") as step:
        found = MEASURES[method](pipe, shown, seed=seed, step=step, **sampling)
    found.save(out, overwrite)
    told: dict[str, Any] = {"calibration": str(out), "method": method, "model": model, "weights": found.weights}
    told |= {"pictures": found.pictures, "scales": len(found.sizes), "blocks": found.depth, "digest": found.digest}
    if as_json:
        answer_json({**told, "seconds": round(time.perf_counter() - start, 3)})
    else:
        answer(
            f"{out}: the attention of {found.depth} blocks on {len(found.sizes)} scales, in {found.pictures} pictures "
            f"({time.perf_counter() - start:.1f} s)"
        )


def _shown(pipe: Pipeline, lines: list[str] | None, count: int | None) -> list[dict[str, Any]]:
    """What the pictures show: the prompts over and over, or classes from all over a list."""
    from nextscale.calibrate import PICTURES, spread_labels
    from nextscale.conditions.classes import ClassVocabulary

    if lines is None:
        if not isinstance(pipe.conditioner, ClassVocabulary):
            raise InputError(f"{pipe.name} reads {pipe.conditioner.about}; expected --prompts FILE, to draw some")
        return spread_labels(pipe, PICTURES if count is None else count)
    for line in lines:
        if len(line) > LONGEST_PROMPT:
            raise InputError(f"{quoted(line)} has {len(line):,} letters; expected at most {LONGEST_PROMPT:,}")
    many = len(lines) if count is None else count
    return [{"prompt": lines[i % len(lines)]} for i in range(many)]
