"""``nextscale plan``: the table of a generation and what it will cost, before anything runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.console import (
    DEFAULT_MODEL,
    AsJson,
    Device,
    Dtype,
    GuidanceScale,
    Smooth,
    Temperature,
    TopK,
    TopP,
    answer,
    answer_json,
    given,
)
from nextscale.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from nextscale.plan import Plan
    from nextscale.price import Price


DEPTHS = {"var": (12, 16, 20, 24, 30, 36), "m-var": (12, 16, 20, 24, 30, 32)}
PIXELS = (256, 512, 1024)
PUBLISHED_SAMPLING = {"guidance_scale": 2.5, "top_k": 900, "top_p": 0.96}
"""How the published models are evaluated; their cfg 1.5 is a guidance scale of 2.5."""


def plan(
    model: Annotated[
        str,
        typer.Argument(
            help="A bundled model, a checkpoint folder, or a published size: var-d12 to var-d36, m-var-d12 to "
            "m-var-d32, with -512 or -1024 behind it for these pixels."
        ),
    ] = DEFAULT_MODEL,
    num_images: Annotated[int, typer.Option("-n", "--num-images", min=1, help="Pictures drawn together.")] = 1,
    guidance_scale: GuidanceScale = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    smooth: Smooth = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: AsJson = False,
) -> None:
    """Print what happens at every scale, with predicted FLOPs, memory bytes, shares and time; no weights are needed."""
    from nextscale.device import choose_device, choose_dtype
    from nextscale.evaluation.speed import matmul_peak
    from nextscale.plan import default_plan
    from nextscale.price import price, table

    where, _ = choose_device(device)
    number, _ = choose_dtype(dtype, where)
    parts, defaults = _parts(model)
    asked = given(guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p, smooth=smooth)
    rows = default_plan(parts["model"], **(defaults | asked))
    priced = price(rows, parts, num_images, number.itemsize)
    told = {
        "model": model,
        "images": num_images,
        "dtype": str(number).removeprefix("torch."),
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
    }
    peak = matmul_peak(where, number)
    if as_json:
        answer_json(told | _as_dict(rows, priced) | {"flops_per_second": peak, "seconds": priced.flops / peak})
        return
    answer(_heading(told, rows))
    answer(table(rows, priced))
    answer(
        f"time: at least {priced.flops / peak:.2g} s, at the {peak / 1e9:.3g} GFLOP/s that matrix products in "
        f"{told['dtype']} reach on this {where.type.upper()}, measured now; nextscale selftest measures the whole"
    )


def _parts(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A model's networks without weights, and its default sampling arguments."""
    import torch

    from nextscale.checkpoints.load import checkpoint_folder
    from nextscale.checkpoints.store import build_component, read_config
    from nextscale.models.m_var import MVAR, MVARConfig
    from nextscale.models.var import VAR, VARConfig
    from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer

    published = re.fullmatch(r"(m-)?var-d(\d+)(?:-(\d+))?", name)
    if published:
        system, depth = "m-var" if published[1] else "var", int(published[2])
        if depth not in DEPTHS[system]:
            sizes = ", ".join(f"{system}-d{known}" for known in DEPTHS[system])
            raise InputError(f"there is no size {name!r} to plan; there are {sizes}")
        pixels = int(published[3] or (512 if depth == 36 else 256))
        if pixels not in PIXELS:
            raise InputError(f"there is no published size {name!r}; {system}-d{depth} has 256, 512 or 1024 pixels")
        config = MVARConfig.published(depth, pixels) if published[1] else VARConfig.published(depth, pixels)
        with torch.device("meta"):
            tokenizer = ResidualTokenizer(ResidualConfig(sizes=config.sizes))
            model = MVAR(config) if isinstance(config, MVARConfig) else VAR(config)
        return {"tokenizer": tokenizer, "model": model}, PUBLISHED_SAMPLING
    folder = checkpoint_folder(name)
    described = read_config(folder)
    parts = {part: build_component(entry, f"{folder}, {part}") for part, entry in described["components"].items()}
    if "model" not in parts:
        raise CheckpointError(f"{folder} holds {', '.join(parts) or 'nothing'} alone; expected a tokenizer and a model")
    return parts, described.get("defaults", {})


def _heading(told: dict[str, Any], rows: Plan) -> str:
    sizes = ", ".join(f"{name} {count / 1e6:.1f} million" for name, count in told["parameters"].items())
    return (
        f"{told['model']}: {rows.schedule.tokens} tokens on {len(rows.rows)} scales, parameters: {sizes}; "
        f"{told['images']} image{'s' if told['images'] > 1 else ''} in {told['dtype']}"
    )


def _as_dict(rows: Plan, priced: Price) -> dict[str, Any]:
    lines = [
        {"row": line.name, "flops": line.flops, "memory": line.memory, "share": line.flops / priced.flops}
        for line in priced.lines
    ]
    return {"plan": rows.to_dict(), "rows": lines, "flops": priced.flops, "memory": priced.memory}
