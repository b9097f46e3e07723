"""What a generator's training step costs on this machine's CPU, and attention in it: ``python benchmarks/training.py``.

First attention alone, forwards and backwards, as training computes it under bfloat16 autocast (in float32, see
``attend`` in layers/attention.py) and beside it PyTorch's kernel in bfloat16, in turns. Then whole steps of the emoji
recipes on random tokens: loss and gradients, without the optimiser. Printed are times, the ratio, images per second and
the share of the machine's own bfloat16 matrix products. Nothing is compared across runs.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from timing import best
from torch.utils.flop_counter import FlopCounterMode

from nextscale.conditions.classes import class_features
from nextscale.evaluation.speed import matmul_peak
from nextscale.layers.attention import attend
from nextscale.models.class_transformer import ClassTransformer
from nextscale.pipeline import load
from nextscale.scales import ScaleSchedule

CPU, BF16 = torch.device("cpu"), torch.bfloat16
MODELS = {"var-emoji": "emoji", "m-var-emoji": "emoji-m-var"}  # recipe: the bundled model that it made


def attention(batch: int, repeats: int) -> str:
    """One layer's attention of ``batch`` images, 6 heads of 32 channels and 130 tokens under a mask of scales."""
    q, k, v = (torch.randn(batch, 6, 130, 32, dtype=BF16).requires_grad_() for _ in range(3))
    schedule = ScaleSchedule.of([1, 2, 3, 4, 6, 8])
    scale = torch.arange(len(schedule)).repeat_interleave(torch.tensor(schedule.lengths))
    mask = scale[:, None] >= scale[None, :]

    def ours() -> None:
        attend(q, k, v, mask).sum().backward()

    def bare() -> None:
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0).sum().backward()

    wide, narrow = best([ours, bare], repeats)
    return (
        f"attention of {batch} images: {wide:.3f} s as training computes it (float32), {narrow:.3f} s in bfloat16, "
        f"{narrow / wide:.2f} times as long"
    )


def step(name: str, batch: int, repeats: int) -> str:
    """One step's loss and gradients."""
    pipe = load(MODELS[name], device=CPU, dtype=torch.float32)
    model, schedule, codes = pipe.model, pipe.model.schedule, pipe.tokenizer.choices
    assert isinstance(model, ClassTransformer)
    model.train().requires_grad_()
    inputs = [torch.randn(batch, pipe.tokenizer.code_dim, *size) for size in schedule.sizes[1:]]
    labels, targets = (
        torch.randint(0, model.config.classes, (batch,)),
        torch.randint(0, codes, (batch, schedule.tokens)),
    )

    def run() -> None:
        with torch.autocast("cpu", BF16):
            logits = model(inputs, model.condition(class_features(labels)))
        F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()).backward()
        model.zero_grad()

    with FlopCounterMode(display=False) as counter:
        run()
    (seconds,) = best([run], repeats)
    share = counter.get_total_flops() / seconds / matmul_peak(CPU, BF16)
    return (
        f"{name}: a step of {batch} images {seconds:.2f} s, {batch / seconds:.1f} images/s, "
        f"{counter.get_total_flops() / batch / 1e9:.2f} GFLOP per image, {100 * share:.0f} % of matrix products"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"one thread, processor time, best of {given.repeats}")
    print(attention(given.batch, given.repeats))
    for name in MODELS:
        print(step(name, given.batch, given.repeats))


if __name__ == "__main__":
    main()
