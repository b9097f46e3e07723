"""``nextscale plan``: the table of a generation and what it will cost, before anything runs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale import systems
from nextscale.checkpoints.published import PUBLISHED
from nextscale.cli.console import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    GuidanceScale,
    PictureSize,
    Pixels,
    Ratio,
    Refine,
    Scales,
    Smooth,
    Steps,
    Temperature,
    TopK,
    TopP,
    answer,
    answer_json,
    given,
    remark,
    remarks,
)
from nextscale.cli.methods import CalibrationFile, Methods, handed_over, with_methods
from nextscale.errors import CheckpointError, InputError

if TYPE_CHECKING:
    import torch

    from nextscale.evaluation.machine import Machine
    from nextscale.plan import Plan
    from nextscale.price import Price
    from nextscale.rehearse import Rehearsal


EXAMPLES = " or ".join({model.system: model.name for model in reversed(PUBLISHED.values())}.values())
Against = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Another model: print parameters and memory of both, for 1 to 32 pictures, and at equal parameters.",
    ),
]
Measure = Annotated[
    bool, typer.Option("--measure", help="Measure this machine's speed anew; else the number kept is taken.")
]
MOST_IMAGES = 1_000_000
"""More bytes than 64 bits can count are no price."""


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help=f"A bundled model, a checkpoint folder, or a published size, such as {EXAMPLES}; class models with "
            "-512 or -1024 behind it for these pixels. A size that there is not lists those there are."
        ),
    ] = DEFAULT_MODEL,
    num_images: Annotated[
        int, typer.Option("-n", "--num-images", min=1, max=MOST_IMAGES, help="Pictures drawn together.")
    ] = 1,
    against: Against = None,
    ratio: Ratio = None,
    pixels: Pixels = None,
    size: PictureSize = None,
    scales: Scales = None,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    smooth: Smooth = False,
    refine: Refine = None,
    methods: Methods = None,
    calibration: CalibrationFile = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    measure: Measure = False,
    as_json: AsJson = False,
) -> None:
    """Print what happens at every scale, with predicted FLOPs, memory bytes, shares and time; no weights are needed."""
    import torch

    from nextscale.device import choose_device, choose_dtype
    from nextscale.price import price, table
    from nextscale.rehearse import rehearse

    where, _ = choose_device(device)
    number, _ = choose_dtype(dtype, where)
    asked = given(ratio=ratio, pixels=pixels, size=size, scales=scales, steps=steps, guidance_scale=guidance_scale)
    asked |= given(temperature=temperature, top_k=top_k, top_p=top_p, smooth=smooth, refine=refine)
    if against is not None and methods is not None:
        raise InputError("--against holds models as they are against each other; leave --methods out")
    parts, defaults = networks(model)
    with remarks():
        beside = handed_over(methods, calibration)
        rows = with_methods(_plan(parts, defaults | asked), methods, parts | beside)
    priced = price(rows, parts | beside, num_images, number.itemsize)
    told: dict[str, Any] = {
        "model": model,
        "images": num_images,
        "dtype": str(number).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
    }
    if against is not None and not as_json:
        text, _ = _side_by_side(model, against, asked, num_images, where, number)
        answer(
            f"drawn together in {told['dtype']}; predicted, beside what Python and PyTorch themselves hold\n\n{text}"
        )
        return
    for part in parts.values():
        part.to(number)
    rehearsed = rehearse(rows, parts | beside, num_images, where)
    speed, seconds, disturbed = _speed(priced, rehearsed, where, number, measure)
    if disturbed is not None:
        remark(disturbed)
    if as_json:
        told |= _as_dict(rows, priced, rehearsed)
        told |= {"flops_per_second": speed.flops_per_second, "seconds": seconds, "busy": disturbed is not None}
        if against is not None:
            told["against"] = _side_by_side(model, against, asked, num_images, where, number)[1]
        return answer_json(told)
    heading = _heading(told, rows, parts["tokenizer"].pixels(rows.schedule))
    answer("\n".join([heading, table(rows, priced), _memory(priced, rehearsed)]))
    if seconds is not None:
        answer(_time(seconds, priced, speed, told["threads"]))


def _speed(
    priced: Price, rehearsed: Rehearsal, where: torch.device, number: torch.dtype, again: bool
) -> tuple[Machine, float | None, str | None]:
    """What the machine does, the seconds that makes (None where no machine was ever held to them), and whether others
    keep it busy now.
    """
    from nextscale.device import busy
    from nextscale.evaluation.machine import machine

    speed = machine(where, number, again)
    if where.type != "cpu":
        return speed, None, None
    return speed, speed.seconds(priced.flops, rehearsed), busy()


def _time(seconds: float, priced: Price, speed: Machine, threads: int) -> str:
    products, peak = priced.flops / speed.flops_per_second, speed.flops_per_second / 1e9
    when = "measured while the machine was busy" if speed.busy else "measured once; --measure does so again"
    return (
        f"time: about {_two_digits(seconds)} s on {threads} thread{'s' if threads > 1 else ''}, of which "
        f"matrix products {_two_digits(products)} s, at {peak:.3g} GFLOP/s ({when})"
    )


def _two_digits(seconds: float) -> str:
    """Two digits that count, without a power of ten where there are more before the point: 0.047, 580."""
    rounded = f"{seconds:.2g}"
    return f"{float(rounded):.0f}" if seconds >= 10 else rounded


def _side_by_side(
    model: str, against: str, asked: dict[str, Any], images: int, where: torch.device, number: torch.dtype
) -> tuple[str, dict[str, Any]]:
    """Memory of two models, and of the second one at the first one's parameters: for people and for programs."""
    from nextscale.evaluation.footprint import BATCHES, fewer_from, footprint, footprint_text, of_equal_size

    named = [(name, *networks(name)) for name in (model, against)]
    (_, first, _), (_, second, defaults) = named
    other = of_equal_size(second["model"], sum(p.numel() for p in first["model"].parameters()))
    if other is not None:
        named.append((f"{against} {other[1]}", second | {"model": other[0]}, defaults))
    found = [footprint(name, _plan(parts, settings | asked), parts, where, number) for name, parts, settings in named]
    batches = sorted({*BATCHES, images})
    verdicts = [fewer_from(found[0], one) for one in found[1:]]
    told = [
        one.to_dict(batches) | {"less": less and less[0].name, "from": less and less[1]}
        for one, less in zip(found[1:], verdicts, strict=True)
    ]
    return footprint_text(found, batches), {"first": found[0].to_dict(batches), "others": told}


def _plan(parts: dict[str, Any], sampling: dict[str, Any]) -> Plan:
    from nextscale.methods.refine import refined_plan

    return refined_plan(parts["model"], parts["tokenizer"].stride, **sampling)


def networks(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's networks without weights, and its default sampling arguments; ``name`` as of ``nextscale plan``."""
    from nextscale.checkpoints.load import checkpoint_folder
    from nextscale.checkpoints.shapes import without_values
    from nextscale.checkpoints.store import build_component, module_of, read_config

    for system in systems.SYSTEMS:
        converter = systems.converter(system)
        if configs := converter.published(name):
            published = {part: without_values(partial(module_of, config)) for part, config in configs.items()}
            return published, dict(converter.sampling(configs["model"]))
    folder = checkpoint_folder(name)
    described = read_config(folder)
    parts = {part: build_component(entry, f"{folder}, {part}") for part, entry in described["components"].items()}
    if not {"model", "tokenizer"} <= parts.keys():
        raise CheckpointError(f"{folder} holds {', '.join(parts) or 'nothing'} alone; expected a tokenizer and a model")
    return parts, described.get("defaults", {})


def _heading(told: dict[str, Any], rows: Plan, pixels: tuple[int, int]) -> str:
    sizes = ", ".join(f"{name} {count / 1e6:.1f} million" for name, count in told["parameters"].items())
    return (
        f"{told['model']}: {rows.schedule.tokens} tokens on {len(rows.rows)} scales to {pixels[0]}x{pixels[1]} pixels, "
        f"parameters: {sizes}; "
        f"{told['images']} image{'s' if told['images'] > 1 else ''} in {told['dtype']}"
    )


def _memory(priced: Price, rehearsed: Rehearsal) -> str:
    """The bytes of the two halves of a generation side by side."""
    from nextscale.evaluation.columns import aligned

    halves = _halves(priced, rehearsed)
    rows = [("memory MiB", *next(iter(halves.values())))]
    rows += [(name, *(f"{size / 2**20:,.2f}" for size in half.values())) for name, half in halves.items()]
    return aligned(rows)


def _halves(priced: Price, rehearsed: Rehearsal) -> dict[str, dict[str, int]]:
    """Bytes at the worst moment of drawing and of decoding."""
    drawing, decoding = rehearsed.drawing, rehearsed.decoding
    return {
        half: {"weights": priced.weights, "cache": cache, "activations": rest, "total": priced.weights + cache + rest}
        for half, cache, rest in (("drawing", priced.memory, drawing - priced.memory), ("decoding", 0, decoding))
    }


def _as_dict(rows: Plan, priced: Price, rehearsed: Rehearsal) -> dict[str, Any]:
    lines = [
        {"row": line.name, "flops": line.flops, "memory": line.memory, "share": line.flops / priced.flops}
        | {"attended": line.attended, "kept": line.kept}
        for line in priced.lines
    ]
    return {
        "plan": rows.to_dict(),
        "rows": lines,
        "flops": priced.flops,
        "memory": priced.memory,
        "weights": priced.weights,
        "activations": rehearsed.drawing - priced.memory,
        "peak_memory": priced.weights + rehearsed.peak,
        **_halves(priced, rehearsed),
    }
