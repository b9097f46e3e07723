"""Time and memory of drawing from text with attention over all scales and with M-VAR's blocks: ``python
benchmarks/text_blocks.py``.

Both models are those of the recipe ``infinity-emoji``, with weights at random: seven of Infinity's blocks, and five of
M-VAR's with about as many parameters. Each draws one guided picture from a text of full length: at 64 pixels on the
scales of the emoji tokenizer, and 64x64 tokens (1024 pixels at stride 16) on VAR's. They draw in turns, on one thread.
Printed are the shortest processor time of a drawing, its share of the machine's matrix products, the most bytes that
live at once beside the weights, those of them that the memory holds, and the ratios. Decoding is left out: it is the
same for both.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from timing import best

from nextscale.conditions.base import Features
from nextscale.evaluation.speed import matmul_peak
from nextscale.generate import generate
from nextscale.plan import Plan, default_plan
from nextscale.price import price
from nextscale.rehearse import rehearse
from nextscale.sampling import IndependentNoise
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from nextscale.training.recipe import load_recipe

MODELS = {
    "attention": [],
    "mamba2": ["model.mixer=mamba2", "model.depth=5", "model.hidden=768", "model.state=32"],
}
SCHEDULES = {"64": ScaleSchedule.of([1, 2, 3, 4, 6, 8]), "1024": ScaleSchedule.preset("1024")}
BITS, CPU = 24, torch.device("cpu")


@dataclass(frozen=True)
class Drawing:
    """One guided picture by one of the models."""

    plan: Plan
    parts: dict[str, Any]
    features: Features

    def __call__(self) -> None:
        for _ in generate(self.plan, self.parts, self.features, IndependentNoise([1])):
            pass

    def parameters(self) -> int:
        """Of the transformer."""
        return sum(p.numel() for p in self.parts["model"].parameters())


def drawing(blocks: str, schedule: ScaleSchedule, dtype: torch.dtype) -> Drawing:
    """A model of the recipe with these blocks, and what it draws."""
    torch.manual_seed(0)
    small = AutoencoderConfig(ch=32, mult=(1,), z=BITS, attention=False, mid_attention=False)
    tokenizer = BitwiseTokenizer(BitwiseConfig(bits=BITS, sizes=schedule.sizes, autoencoder=small)).to(dtype).eval()
    recipe = load_recipe("infinity-emoji", [*MODELS[blocks], f"model.levels={len(schedule)}"], "infinity")
    model = recipe.new_model(tokenizer, recipe.text.width).to(dtype).eval()  # type: ignore[union-attr]
    plan = default_plan(model, guidance_scale=3.0)
    return Drawing(plan, {"tokenizer": tokenizer, "model": model}, model.blank(1, CPU))


def compare(size: str, dtype: torch.dtype, repeats: int) -> list[str]:
    """A line for each of the models, and one of ratios."""
    drawings = [drawing(blocks, SCHEDULES[size], dtype) for blocks in MODELS]
    lines, peak, live = [], matmul_peak(CPU, dtype), []
    seconds = best(drawings, repeats)
    for blocks, one, time in zip(MODELS, drawings, seconds, strict=True):
        priced = price(one.plan, one.parts, 1, dtype.itemsize)
        flops = sum(line.flops for line in priced.lines[:-1])  # without decoding
        live.append(rehearse(one.plan, one.parts, 1, CPU).drawing / 2**20)
        lines.append(
            f"{size} px, {blocks}: {time:.3f} s, {100 * flops / time / peak:.0f} % of matrix products, "
            f"{live[-1]:.1f} MiB at once, {priced.memory / 2**20:.2f} MiB of them remembered, "
            f"{one.parameters() / 1e6:.2f} million parameters"
        )
    times, room = seconds[1] / seconds[0], live[1] / live[0]
    return [*lines, f"{size} px, mamba2 to attention: {times:.2f} times as long, {room:.2f} times the memory"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--size", choices=tuple(SCHEDULES), action="append")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for size in given.size or SCHEDULES:
        print("\n".join(compare(size, getattr(torch, given.dtype), given.repeats)), flush=True)


if __name__ == "__main__":
    main()
