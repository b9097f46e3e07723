"""What the processes of one run tell one another. With one process every function hands back what it was given.

Shape letters: ``B`` samples of one process, ``P`` processes.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nextscale.errors import TrainingError

BUCKET = 2**25
"""Gradients are sent in pieces of about so many numbers, so that the copies stay small beside the weights."""


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 is the main one, which alone writes files."""
    return dist.get_rank() if processes() > 1 else 0


def my_parts(batch: int, accumulate: int) -> list[slice]:
    """The parts of a global batch that this process computes, one after another; every part has the same size.

    Raises:
        TrainingError: the batch cannot be split like that.
    """
    size, rest = divmod(batch, processes() * accumulate)
    if rest or not size:
        raise TrainingError(
            f"a batch of {batch} images cannot be split evenly over {processes()} processes and run.accumulate = "
            f"{accumulate}; expected a multiple of {processes() * accumulate}"
        )
    first = rank() * accumulate
    return [slice(i * size, (i + 1) * size) for i in range(first, first + accumulate)]


def sum_over(tensor: Tensor) -> Tensor:
    """Sum of every process's ``tensor``, the same in all of them."""
    if processes() == 1:
        return tensor
    total = tensor.detach().to(_device(), copy=True).contiguous()
    dist.all_reduce(total)
    return total.to(tensor.device)


def mean_over(tensor: Tensor) -> Tensor:
    """Mean of every process's floating point ``tensor``."""
    return sum_over(tensor) / processes()


def anywhere(flag: bool) -> bool:
    """Whether ``flag`` is set in any process."""
    return flag if processes() == 1 else bool(sum_over(torch.tensor(float(flag))))


def gather(tensor: Tensor) -> Tensor:
    """(B, ...) of every process as (P * B, ...), in the order of the global batch. B is the same in all of them."""
    if processes() == 1:
        return tensor
    mine = tensor.detach().to(_device()).contiguous()
    found = [torch.empty_like(mine) for _ in range(processes())]
    dist.all_gather(found, mine)
    return torch.cat(found).to(tensor.device)


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """Replace every gradient by its mean over the processes. Call it after the last backward pass of a step."""
    if processes() == 1:
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    while gradients:
        bucket = [gradients.pop()]
        while gradients and sum(g.numel() for g in bucket) < BUCKET:
            bucket.append(gradients.pop())
        means = mean_over(torch.cat([g.flatten() for g in bucket])).split([g.numel() for g in bucket])
        for gradient, mean in zip(bucket, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def copy_from_main(module: nn.Module) -> None:
    """Give every process the parameters and buffers of the main one."""
    if processes() == 1:
        return
    for tensor in module.state_dict().values():
        sent = tensor.to(_device()).contiguous()
        dist.broadcast(sent, 0)
        tensor.copy_(sent)


def wait_for_all() -> None:
    """Go on when every process has come here."""
    sum_over(torch.zeros(()))


def finish(code: int = 0) -> None:
    """End this process once all have come here, where there are several; nothing happens where there is one.

    The interpreter's own way out is not taken: threads of the processes' channel can abort it while it is torn down,
    and the launcher would call a run that is complete and saved a failed one.
    """
    if processes() > 1:
        wait_for_all()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _device() -> torch.device:
    """Where the processes' channel takes tensors from."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
