"""Keeping autocast out of what must stay in its own precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A block in which autocast is off on the device of ``x``; PyTorch's meta device has none to switch off."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)
