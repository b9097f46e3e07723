"""From the name in a plan's memory column to a memory, and to its price."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nextscale.errors import PlanError
from nextscale.layers.slots import SlotSpec
from nextscale.memory.base import Memory
from nextscale.memory.full import FullMemory, full_bytes
from nextscale.scales import ScaleSchedule

MEMORIES = {"full": (FullMemory, full_bytes)}


def check_memory(name: str) -> None:
    """Raises ``PlanError`` if there is no memory of that name."""
    if name not in MEMORIES:
        raise PlanError(f"there is no memory {name!r}; choose one of {', '.join(MEMORIES)}")


def make_memory(
    name: str,
    slots: Sequence[SlotSpec],
    schedule: ScaleSchedule,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Memory:
    """An empty memory for ``rows`` rows (branches x images)."""
    check_memory(name)
    return MEMORIES[name][0](slots, schedule, rows, dtype, device)


def memory_bytes(name: str, slots: Sequence[SlotSpec], schedule: ScaleSchedule, k: int, rows: int, element: int) -> int:
    """Predicted live bytes after scale k, at ``element`` bytes per number."""
    check_memory(name)
    return MEMORIES[name][1](slots, schedule, k, rows, element)
