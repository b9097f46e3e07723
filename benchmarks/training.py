"""What a generator's training step costs on this machine's CPU, and attention in it: ``python benchmarks/training.py``.

First attention alone, forwards and backwards, as training computes it under bfloat16 autocast (in float32, see
``attend`` in layers/attention.py) and beside it PyTorch's kernel in bfloat16, in turns. Then whole steps of the emoji
recipes on random tokens: loss and gradients, without the optimiser. Printed are times, the ratio, images per second and
the share of the machine's own bfloat16 matrix products. Nothing is compared across runs.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from nextscale.evaluation.speed import matmul_peak
from nextscale.layers.attention import attend
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.scales import ScaleSchedule

CPU, BF16 = torch.device("cpu"), torch.bfloat16
SIZES = ScaleSchedule.of([1, 2, 3, 4, 6, 8]).sizes
CONFIGS = {  # model: of the recipes var-emoji and m-var-emoji, with 98 classes in five styles
    "var-emoji": lambda: VAR(
        VARConfig(depth=6, width=192, heads=6, mlp_ratio=3.5, codes=1024, code_dim=16, sizes=SIZES, classes=490)
    ),
    "m-var-emoji": lambda: MVAR(
        MVARConfig(depth=4, width=192, heads=6, mlp_ratio=2.875, codes=1024, code_dim=16, sizes=SIZES, classes=490)
    ),
}


def best(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Shortest processor time of every call on one thread, taken in turns."""
    times = [float("inf")] * len(calls)
    for _ in range(repeats):
        for i, call in enumerate(calls):
            start = time.process_time()
            call()
            times[i] = min(times[i], time.process_time() - start)
    return times


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
    model = CONFIGS[name]()
    inputs = [torch.randn(batch, 16, *size) for size in SIZES[1:]]
    labels, targets = torch.randint(0, 490, (batch,)), torch.randint(0, 1024, (batch, 130))

    def run() -> None:
        with torch.autocast("cpu", BF16):
            logits = model(inputs, model.condition(labels))
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
    for name in CONFIGS:
        print(step(name, given.batch, given.repeats))


if __name__ == "__main__":
    main()
