"""What a run will cost: its price before the first step, measured on a few images, and afterwards what it did cost.

FLOPs are counted and activations are weighed by PyTorch while the objective's own loss is computed, so that a price
cannot differ from what is trained. What begins later in a run (an adversarial loss, say) is priced on its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from nextscale.device import memory_in_use
from nextscale.documents import read_json
from nextscale.errors import InputError
from nextscale.settings import build

TRIALS = 2
GIB = 2**30

Loss = Callable[[nn.Module, slice], Tensor]
"""Loss () of a part of the first batch, ready for its gradient."""


@dataclass(frozen=True)
class Price:
    """What a run is expected to cost one process.

    parameters: of the network; the next five in bytes (activations: what one part of a step keeps for its gradients);
    memory: bytes that will be in use at the peak, with everything that was there before; flops: of one image, forward
    and backward; step_seconds: of one step; steps: of the whole run; images: of one step, over all processes.
    """

    parameters: int
    weights: int
    average: int
    gradients: int
    optimizer: int
    activations: int
    memory: int
    flops: float
    step_seconds: float
    steps: int
    images: int

    @property
    def seconds(self) -> float:
        """Of all steps, without validations and checkpoints."""
        return self.steps * self.step_seconds

    def __str__(self) -> str:
        """One line for people."""
        parts = {name: getattr(self, name) for name in ("weights", "average", "gradients", "optimizer", "activations")}
        split = ", ".join(f"{name} {_bytes(size)}" for name, size in parts.items())
        return (
            f"{self.parameters / 1e6:.1f} million parameters; about {_bytes(self.memory)} at the peak ({split}); "
            f"{self.flops / 1e9:.3g} GFLOP per image, {self.flops * self.images * self.steps:.2g} FLOP and about "
            f"{duration(self.seconds)} for {self.steps} steps of {self.images} images"
        )


@dataclass(frozen=True)
class Spent:
    """What a run has cost so far, over all its interruptions. seconds: in steps; all_seconds: in all; memory: peak."""

    steps: int = 0
    seconds: float = 0.0
    all_seconds: float = 0.0
    memory: int = 0

    def against(self, price: Price) -> str:
        """One line that holds it against what was predicted."""
        expected = price.step_seconds * self.steps
        if not expected:
            return f"{self.steps} steps; what they took is not known"
        return (
            f"{self.steps} steps took {duration(self.seconds)}, {self.seconds / expected:.2f} times the predicted "
            f"{duration(expected)}, and {duration(self.all_seconds)} with validations and checkpoints; "
            f"peak memory {_bytes(self.memory) if self.memory else 'not known'} ({_bytes(price.memory)} were predicted)"
        )


def measure(
    loss: Loss, module: nn.Module, model: nn.Module, part: slice, accumulate: int, steps: int, images: int
) -> Price:
    """Price a run by the first ``part`` of its first batch. Leaves no gradients behind.

    module: what is trained; model: the same as it is called (it may be compiled); images: of a step of all processes.
    """
    device = next(module.parameters()).device
    before, size = memory_in_use(device), part.stop - part.start
    small = [_weigh(loss, module, slice(part.start, part.start + n)) for n in (1, min(2, size))]
    (flops, kept), (more_flops, more_kept) = small
    per_image = (more_flops - flops, more_kept - kept) if size > 1 else (flops, kept)
    seconds = min(_time(loss, module, model, part) for _ in range(TRIALS))
    trained = [p for p in module.parameters() if p.requires_grad]
    weights = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    gradients = sum(p.numel() * p.element_size() for p in trained)
    activations = kept + (size - 1) * per_image[1]
    return Price(
        parameters=sum(p.numel() for p in module.parameters()),
        weights=weights,
        average=weights,
        gradients=gradients,
        optimizer=2 * gradients,
        activations=activations,
        memory=before + 3 * gradients + activations,
        flops=per_image[0],
        step_seconds=accumulate * seconds,
        steps=steps,
        images=images,
    )


def together(prices: list[Price], shares: list[float]) -> Price:
    """The price of a run whose steps differ: of the most memory that one takes, and the mean time and FLOPs of a step.

    shares: of all steps, that cost as much as each price says.
    """
    first, kept = prices[0], max(price.activations for price in prices)  # what later trials find in use is their own

    def mean(numbers: list[float]) -> float:
        return sum(n * share for n, share in zip(numbers, shares, strict=True))

    return replace(
        first,
        activations=kept,
        memory=first.memory + kept - first.activations,
        flops=mean([price.flops for price in prices]),
        step_seconds=mean([price.step_seconds for price in prices]),
    )


def _weigh(loss: Loss, module: nn.Module, part: slice) -> tuple[float, int]:
    """FLOPs of loss and gradients of a part, and bytes that are kept between the two."""
    own = {t.untyped_storage().data_ptr() for t in module.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(module, part)
        value.backward()
    module.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()), sum(kept.values())


def _time(loss: Loss, module: nn.Module, model: nn.Module, part: slice) -> float:
    """Seconds of loss and gradients of a part."""
    start = time.perf_counter()
    loss(model, part).backward()
    if next(module.parameters()).device.type == "cuda":
        torch.cuda.synchronize()
    module.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def write_costs(price: Price, spent: Spent) -> str:
    """Both as JSON; ``read_costs`` reads it."""
    return json.dumps({"predicted": asdict(price), "spent": asdict(spent)}, indent=2) + "\n"


def read_costs(file: Path) -> tuple[Price, Spent] | None:
    """What ``write_costs`` wrote; None if there is no such file, or another version wrote it."""
    try:
        found = read_json(file)
        return build(Price, found["predicted"]), build(Spent, found["spent"])
    except (InputError, KeyError, TypeError):
        return None


def duration(seconds: float) -> str:
    """Hours and minutes, minutes and seconds, or seconds."""
    minutes = int(seconds // 60)
    if minutes >= 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes}m{int(seconds % 60):02d}s" if minutes else f"{seconds:.3g} s"


def _bytes(size: int) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
