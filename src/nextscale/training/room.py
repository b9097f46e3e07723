"""Whether a network can be trained on this machine at all, known before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from nextscale.checkpoints.shapes import without_values
from nextscale.device import memory_of
from nextscale.errors import CheckpointError, InputError

COPIES = 5
"""Float32 numbers that training keeps for a parameter: weight, average, gradient and two moments."""


def check_room(make: Callable[[], nn.Module], device: torch.device, batch: int = 0) -> None:
    """Refuse a network whose training cannot fit into the memory of ``device``.

    make: makes the network; batch: bytes that one part of a batch takes at the least. Raises ``InputError``.
    """
    try:
        parameters = sum(parameter.numel() for parameter in without_values(make).parameters())
    except (CheckpointError, RuntimeError) as error:  # more tensors, or numbers in one, than can be counted
        raise InputError(f"the sizes under model make a network that is too large ({error})") from None
    network, there = 4 * COPIES * parameters, memory_of(device)
    if there is not None and network + batch > there:
        raise InputError(
            f"training takes more memory than there is: {network / 2**30:,.1f} GiB for the {parameters:,} parameters "
            f"(weights, average, gradients, two moments) and at least {batch / 2**30:,.1f} GiB for a batch, where "
            f"{device} has {there / 2**30:,.1f} GiB; lower the sizes under model, lower run.batch or raise "
            "run.accumulate"
        )
