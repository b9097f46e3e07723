"""From the name in a plan's memory column to a memory, and to its price."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nextscale.errors import PlanError
from nextscale.layers.slots import SlotSpec
from nextscale.memory.base import Memory
from nextscale.memory.full import FullMemory, full_bytes
from nextscale.memory.recurrent import RecurrentMemory, recurrent_bytes
from nextscale.scales import ScaleSchedule

MEMORIES = {"full": (FullMemory, full_bytes, "past"), "recurrent": (RecurrentMemory, recurrent_bytes, "state")}
"""Name: (class, price, what it can remember for a slot; every memory also serves slots that read their own scale)."""


def check_memory(name: str) -> None:
    """Raises ``PlanError`` if there is no memory of that name."""
    if name not in MEMORIES:
        raise PlanError(f"there is no memory {name!r}; choose one of {', '.join(MEMORIES)}")


def check_pairing(name: str, slots: Sequence[SlotSpec]) -> None:
    """Raises ``PlanError`` if that memory cannot remember what a model with these slots reads."""
    check_memory(name)
    serves, read = MEMORIES[name][2], {spec.reads for spec in slots} - {"own"}
    if read != {serves}:
        kept = {"past": "keys and values of earlier scales", "state": "a recurrent state"}
        reads = " and ".join(kept[r] for r in sorted(read)) or "nothing of earlier scales"
        raise PlanError(f"memory {name!r} keeps {kept[serves]}, but this model reads {reads}")


def make_memory(
    name: str,
    slots: Sequence[SlotSpec],
    schedule: ScaleSchedule,
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Memory:
    """An empty memory for ``rows`` rows (branches x images)."""
    check_pairing(name, slots)
    return MEMORIES[name][0](slots, schedule, rows, dtype, device)


def memory_bytes(name: str, slots: Sequence[SlotSpec], schedule: ScaleSchedule, k: int, rows: int, element: int) -> int:
    """Predicted live bytes after scale k, at ``element`` bytes per number."""
    check_pairing(name, slots)
    return MEMORIES[name][1](slots, schedule, k, rows, element)
