"""How much the Mamba-2 layer of a generation costs beyond its two projections: ``python
benchmarks/mamba.py``.

For every scale of the 256 px schedule the layers of M-VAR d16 (width 1024) run with a carried state, and
beside it, in turns, two bare linear layers of the shapes of its projections. Printed are their times, the
ratio, and what share of the machine's own measured matmul peak the projections' FLOPs make in the layer's
time. Nothing is compared across runs.
"""

from __future__ import annotations

import argparse
import time

import torch
from timing import Clock, best
from torch import Tensor

from nextscale.layers.mamba2 import Mamba2
from nextscale.scales import ScaleSchedule


class Slot:
    """Holds the state of one layer."""

    state: tuple[Tensor, ...] | None = None


def peak(dtype: torch.dtype, repeats: int, clock: Clock) -> float:
    """FLOP/s of a square matrix product that is large enough to be the machine's best."""
    a, b = torch.randn(2, 1536, 1536).to(dtype)
    return 2 * 1536**3 / best([lambda: a @ b], repeats, clock)[0]


def generation(layers: list[Mamba2], rows: int, lengths: tuple[int, ...], repeats: int, clock: Clock) -> list[float]:
    """Seconds per layer of Mamba-2 and of its bare projections, over all scales of one generation."""
    first, seconds = layers[0], [0.0, 0.0]
    width, dtype = first.out_proj.out_features, first.out_proj.weight.dtype
    state = tuple(torch.zeros(rows, *shape) for shape in first.spec.state)
    slot = Slot()
    for n in lengths:
        u, inner = torch.randn(rows, n, width).to(dtype), torch.randn(rows, n, first.inner).to(dtype)

        def mamba(u: Tensor = u) -> None:
            for layer in layers:
                slot.state = state
                layer(u, slot)

        def bare(u: Tensor = u, inner: Tensor = inner) -> None:
            for layer in layers:
                layer.in_proj(u)
                layer.out_proj(inner)

        for i, best_of in enumerate(best([mamba, bare], repeats, clock)):
            seconds[i] += best_of / len(layers)
    return seconds


def main() -> None:
    """Measure and print one line per precision and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1024, help="width of the transformer; d16 has 1024")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="rows in each run")
    parser.add_argument("--pixels", choices=("256", "512", "1024"), default="256")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="CPU time on 1 thread, for a busy machine")
    given = parser.parse_args()
    torch.set_num_threads(1 if given.cpu_time else given.threads)
    clock: Clock = time.process_time if given.cpu_time else time.perf_counter
    lengths = ScaleSchedule.preset(given.pixels).lengths
    print(f"width {given.width}, {sum(lengths)} tokens on {len(lengths)} scales, {torch.get_num_threads()} threads")
    with torch.inference_mode():
        for dtype in (torch.float32, torch.bfloat16):
            # Several layers in turn, so that weights come from memory as in a real generation, not from the cache.
            layers = [Mamba2(given.width).to(dtype) for _ in range(given.layers)]
            top = peak(dtype, given.repeats, clock)
            linear = layers[0].in_proj.weight.numel() + layers[0].out_proj.weight.numel()
            for rows in given.batch:
                mamba, bare = generation(layers, rows, lengths, given.repeats, clock)
                share = 2 * rows * sum(lengths) * linear / mamba / top
                print(
                    f"{str(dtype).removeprefix('torch.'):9} batch {rows:2}: Mamba-2 {mamba * 1e3:8.1f} ms, "
                    f"two linear layers {bare * 1e3:8.1f} ms, ratio {mamba / bare:.2f}, "
                    f"{100 * share:.0f} % of the matmul peak ({top / 1e9:.0f} GFLOP/s)"
                )


if __name__ == "__main__":
    main()
