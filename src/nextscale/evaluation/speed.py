"""What a machine's number of images per second is worth: the share of its own matrix-product speed that was reached;
what a generator's FLOPs are spent on; and how fast generators draw, measured in turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nextscale.conditions.base import Features
from nextscale.evaluation.machine import clock_of, machine
from nextscale.generate import generate
from nextscale.measures.tokenizer import Step, silent
from nextscale.memory.base import Outlook
from nextscale.memory.make import look_ahead
from nextscale.models.base import NextScaleModel
from nextscale.plan import Plan, default_plan
from nextscale.price import price
from nextscale.sampling import IndependentNoise
from nextscale.tokenizers.base import Tokenizer


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of products of 1024x1024 matrices, as measured once on this machine; see :func:`machine`."""
    return machine(device, dtype).flops_per_second


def forward_flops(model: NextScaleModel) -> int:
    """FLOPs of predicting all tokens of one image, one branch, as the model prices itself."""
    outlook = _outlook(model)
    steps = sum(model.step_flops(outlook, k, 1, 1) for k in range(len(model.schedule)))
    return model.condition_flops(1) + steps + model.head_flops(model.schedule.tokens, 1)


def _outlook(model: NextScaleModel) -> Outlook:
    """What the memory that is exact for a model keeps of a plain generation."""
    plan = default_plan(model)
    return look_ahead(plan.memories["model"], plan.course(0, model))


@dataclass(frozen=True)
class BlockFlops:
    """FLOPs of all blocks for all tokens of one image, one branch.

    linear: the layers' matrix products with weights; attention: queries with keys, and the weighted values; scan: of
    recurrent mixers, all between their projections; condition: the AdaLN projections, once per image.
    """

    linear: int
    attention: int
    scan: int
    condition: int


def block_flops(model: NextScaleModel) -> BlockFlops:
    """Split what the model's own prices say of its blocks by what the FLOPs are spent on."""
    schedule, outlook, total, attention, scan = model.schedule, _outlook(model), 0, 0, 0
    mixers: list[Any] = [module for module in model.blocks.modules() if hasattr(module, "spec")]
    for k, n in enumerate(schedule.lengths):
        total += model.step_flops(outlook, k, 1, 1) - model.embed_flops(n, k, 1)
        for mixer in mixers:
            seen = n if mixer.spec.reads == "own" else schedule.offsets[k + 1]
            products = sum(2 * n * part.weight.numel() for part in mixer.children() if isinstance(part, nn.Linear))
            beyond = mixer.flops(n, seen) - products
            if mixer.spec.reads == "state":
                scan += beyond
            else:
                attention += beyond
    return BlockFlops(total - attention - scan, attention, scan, model.condition_flops(1))


@dataclass(frozen=True)
class Contestant:
    """What :func:`generation_speeds` races: networks, a plan of theirs, the features of a batch, and other parts that
    the plan names.
    """

    tokenizer: Tokenizer
    model: NextScaleModel
    plan: Plan
    features: Features
    beside: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "model": self.model, **self.beside}


@dataclass(frozen=True)
class Speed:
    """Images per second of whole generations, pixels included: median, slowest and fastest round; without the decoder
    (median); and FLOP/s as a share of ``matmul_peak`` (median, as the plan is priced).
    """

    images_per_second: float
    slowest: float
    fastest: float
    undecoded: float
    peak_share: float


def generation_speeds(contestants: Sequence[Contestant], rounds: int, step: Step = silent) -> list[Speed]:
    """Draw every contestant's batch ``rounds`` times, in turns, after one turn that warms up; seeds are 0, 1, ..."""
    seconds = torch.zeros(len(contestants), rounds + 1, 2, dtype=torch.float64)
    for turn in range(rounds + 1):
        for i, contestant in enumerate(contestants):
            seconds[i, turn] = torch.tensor(_one_generation(contestant))
        step(turn, rounds)
    return [_speed(contestant, taken[1:]) for contestant, taken in zip(contestants, seconds, strict=True)]


def _one_generation(c: Contestant) -> tuple[float, float]:
    """Seconds until the tokens of a batch are drawn, and until its pixels are."""
    parts, noise = c.parts, IndependentNoise(list(range(c.features.images)))
    clock = clock_of(next(c.model.parameters()).device)
    start = clock()
    *_, last = generate(c.plan, parts, c.features, noise)
    last.canvas.latent.flatten()[0].item()  # reading one number waits for the device
    drawn = clock()
    with torch.inference_mode():
        c.tokenizer.decode(last.canvas)[0, 0, 0, 0].item()
    return drawn - start, clock() - start


def _speed(c: Contestant, seconds: torch.Tensor) -> Speed:
    """From the seconds (rounds, 2) of :func:`_one_generation`."""
    weight, images = next(c.model.parameters()), c.features.images
    undecoded, whole = (images / seconds.median(0).values).tolist()
    flops = price(c.plan, c.parts, 1).flops
    peak = matmul_peak(weight.device, weight.dtype)
    slowest, fastest = images / float(seconds[:, 1].max()), images / float(seconds[:, 1].min())
    return Speed(whole, slowest, fastest, undecoded, whole * flops / peak)
