"""What attention inside scales saves in training, against VAR's mask: ``python benchmarks/attention.py``.

One layer's attention over the whole published schedule for 256, 512 and 1024 pixels, forwards and backwards, in turns:
under VAR's block-causal mask, scale by scale as slices (what models of the memory ``none`` do), and on CUDA both masks
by FlexAttention, compiled. Printed are attended pairs, times, what each keeps for its gradients and (on CUDA) needs at
the most, and how much of the device's own matrix products the pairs' FLOPs make. Nothing is compared across runs. On a
CPU times are processor times of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timing import best
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from nextscale.evaluation.speed import matmul_peak
from nextscale.memory.mask import BlockCausalMask, causal
from nextscale.memory.segments import OwnScale
from nextscale.scales import PRESETS, ScaleSchedule

WIDTH = 64
"""Of a head, as in all published sizes."""
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Way:
    """One way of attending. pairs: of a query and a key that it sees."""

    name: str
    attend: Attend
    pairs: int


def pairs(schedule: ScaleSchedule) -> tuple[int, int]:
    """Pairs of a query and a key that it sees, under VAR's mask and inside scales."""
    past = sum(n * schedule.offsets[k + 1] for k, n in enumerate(schedule.lengths))
    return past, sum(n * n for n in schedule.lengths)


def ways(schedule: ScaleSchedule, device: torch.device, flex: bool) -> list[Way]:
    """VAR's mask first. The layers' own code but for FlexAttention, which stands here alone."""
    lengths, (past, own) = schedule.lengths, pairs(schedule)
    causal.cache_clear()  # so that the mask of the schedule before is given back
    found = [
        Way("VAR's mask", BlockCausalMask(lengths, device).attend, past),
        Way("scales as slices", OwnScale(lengths).attend, own),
    ]
    if flex:
        from torch.nn.attention.flex_attention import flex_attention  # takes seconds

        compiled: Any = torch.compile(flex_attention) if device.type == "cuda" else flex_attention
        found += [
            Way("VAR's mask, FlexAttention", flexible(schedule, device, False, compiled), past),
            Way("scales, FlexAttention", flexible(schedule, device, True, compiled), own),
        ]
    return found


def flexible(schedule: ScaleSchedule, device: torch.device, own: bool, call: Any) -> Attend:
    """The same by FlexAttention: blocks of pairs of which none is seen are left out. own: the own scale alone."""
    from torch.nn.attention.flex_attention import create_block_mask

    levels = torch.repeat_interleave(torch.arange(len(schedule)), torch.tensor(schedule.lengths)).to(device)

    def seen(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return levels[q] == levels[kv] if own else levels[q] >= levels[kv]

    mask = create_block_mask(seen, None, None, schedule.tokens, schedule.tokens, device=str(device))
    return partial(call, block_mask=mask, scale=1.0)


def kept(way: Way, qkv: tuple[Tensor, ...]) -> int:
    """Bytes that stay from the forward pass to the backward pass: what PyTorch saves, masks included."""
    found: dict[int, int] = {}

    def save(t: Tensor) -> Tensor:
        found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with saved_tensors_hooks(save, lambda t: t):
        way.attend(*qkv)
    return sum(found.values())


def measure(pixels: str, heads: int, batch: int, repeats: int, device: torch.device, dtype: torch.dtype) -> str:
    """A table of all ways for one schedule."""
    schedule = ScaleSchedule.preset(pixels)
    shape = (batch, heads, schedule.tokens, WIDTH)
    qkv = tuple(torch.randn(shape, device=device, dtype=dtype).requires_grad_() for _ in range(3))
    found = ways(schedule, device, flex=device.type == "cuda")

    def step(way: Way) -> None:
        torch.autograd.grad(way.attend(*qkv).sum(), qkv)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    calls = [partial(step, way) for way in found]
    for call in calls:  # compiles, and makes what is kept from call to call
        call()
    seconds = best(calls, repeats, time.process_time if device.type == "cpu" else time.perf_counter)
    lines, peak = [f"{pixels} pixels, {schedule.tokens} tokens on {len(schedule)} scales"], matmul_peak(device, dtype)
    for way, call, taken in zip(found, calls, seconds, strict=True):
        # Two products forwards, five backwards, which computes the first one again.
        share = 7 * 2 * batch * heads * WIDTH * way.pairs / taken / peak
        most = ""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            call()
            most = f", at the most {(torch.cuda.max_memory_allocated(device) - before) / 2**20:.1f}"
        lines.append(
            f"  {way.name:26} {way.pairs:11,} pairs ({found[0].pairs / way.pairs:.2f} times fewer)  "
            f"{taken * 1e3:9.1f} ms ({seconds[0] / taken:.2f} times as fast)  keeps {kept(way, qkv) / 2**20:.1f} MiB"
            f"{most}  {100 * share:.0f} % of matrix products"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pixels", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--heads", type=int, default=1, help="as many as the depth in published sizes")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device, dtype = torch.device(given.device), getattr(torch, given.dtype)
    print(f"{given.dtype} on {given.device}, {given.batch} x {given.heads} heads of {WIDTH}, best of {given.repeats}")
    for pixels in given.pixels:
        print(measure(pixels, given.heads, given.batch, given.repeats, device, dtype), flush=True)


if __name__ == "__main__":
    main()
