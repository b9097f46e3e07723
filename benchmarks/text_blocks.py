"""Time and memory of drawing from text with attention over all scales and with M-VAR's blocks: ``python
benchmarks/text_blocks.py``.

Both models are those of the recipe ``infinity-emoji``, with weights at random: seven of Infinity's blocks, and five of
M-VAR's with about as many parameters. Each draws one guided picture from a text of full length: at 64 pixels on the
scales of the emoji tokenizer, and 64x64 tokens (1024 pixels at stride 16) on VAR's. Every run is a process of its own,
in turns, on one thread. Printed are the shortest processor time of a drawing, its share of the machine's matrix
products, what it added to the process's memory at its peak, and the ratios. Decoding is left out: it is the same for
both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from nextscale.evaluation.speed import matmul_peak
from nextscale.generate import generate
from nextscale.plan import default_plan
from nextscale.price import price
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
BITS = 24


def draw(blocks: str, size: str, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of one drawing, its share of matrix products, MiB that it adds at its peak; the model's parameters."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    schedule = SCHEDULES[size]
    small = AutoencoderConfig(ch=32, mult=(1,), z=BITS, attention=False, mid_attention=False)
    tokenizer = BitwiseTokenizer(BitwiseConfig(bits=BITS, sizes=schedule.sizes, autoencoder=small)).to(dtype).eval()
    recipe = load_recipe("infinity-emoji", [*MODELS[blocks], f"model.levels={len(schedule)}"], "infinity")
    model = recipe.new_model(tokenizer, recipe.text.width).to(dtype).eval()
    plan, features = default_plan(model, schedule=schedule, guidance_scale=3.0), model.blank(1, torch.device("cpu"))
    parts = {"tokenizer": tokenizer, "model": model}
    flops = sum(line.flops for line in price(plan, parts).lines[:-1])  # without decoding
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    for _ in generate(plan, parts, features, IndependentNoise([1])):
        pass
    seconds = time.process_time() - start
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    parameters = sum(p.numel() for p in model.parameters())
    share = flops / seconds / matmul_peak(torch.device("cpu"), dtype)
    return {"seconds": seconds, "added": added, "share": share, "parameters": parameters}


def measured(blocks: str, size: str, dtype: str) -> dict[str, float]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, "--one", blocks, size, dtype]
    answer: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", nargs=3, metavar=("BLOCKS", "SIZE", "DTYPE"), help="measure once, and answer in JSON")
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--size", choices=tuple(SCHEDULES), action="append")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    if given.one:
        blocks, size, dtype = given.one
        print(json.dumps(draw(blocks, size, getattr(torch, dtype))))
        return
    for size in given.size or SCHEDULES:
        runs: dict[str, list[dict[str, float]]] = {blocks: [] for blocks in MODELS}
        for _ in range(given.repeats):
            for blocks, found in runs.items():
                found.append(measured(blocks, size, given.dtype))
        least = {blocks: min(found, key=lambda one: one["seconds"]) for blocks, found in runs.items()}
        for blocks, one in least.items():
            print(
                f"{size} px, {blocks}: {one['seconds']:.3f} s, {100 * one['share']:.0f} % of matrix products, "
                f"{one['added']:.0f} MiB more at the peak, {one['parameters'] / 1e6:.2f} million parameters"
            )
        first, second = least.values()
        print(
            f"{size} px, mamba2 to attention: {second['seconds'] / first['seconds']:.2f} times as long, "
            f"{second['added'] / first['added']:.2f} times the memory"
        )


if __name__ == "__main__":
    main()
