"""From a model's memory in a plan to its outlook, and to the memory itself."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from nextscale.errors import PlanError, quoted
from nextscale.layers.slots import SlotSpec
from nextscale.memory import full, none, recurrent
from nextscale.memory.base import Course, Memory, MemoryPlan, Outlook

POLICIES = {
    "none": (none.NoMemory, none.outlook, frozenset[str]()),
    "full": (full.FullMemory, full.outlook, frozenset({"past"})),
    "recurrent": (recurrent.RecurrentMemory, recurrent.outlook, frozenset({"state"})),
}
"""Name: (class, outlook, what it remembers for a slot; every memory also serves slots that read their own scale)."""
KEPT = {"past": "keys and values of earlier scales", "state": "a recurrent state"}


def check_memory(memory: MemoryPlan) -> None:
    """Raises ``PlanError`` if there is no such policy, or it has no such settings."""
    if memory.policy not in POLICIES:
        raise PlanError(f"there is no memory {quoted(memory.policy)}; choose one of {', '.join(POLICIES)}")
    if memory.settings or memory.calibration is not None:
        raise PlanError(f"the memory {memory.policy!r} takes no settings and no calibration; leave them out")


def check_pairing(memory: MemoryPlan, slots: Iterable[SlotSpec]) -> None:
    """Raises ``PlanError`` if that memory cannot remember what a model with these slots reads."""
    check_memory(memory)
    serves, read = POLICIES[memory.policy][2], {spec.reads for spec in slots} - {"own"}
    if read != serves:
        keeps, reads = (" and ".join(KEPT[one] for one in sorted(some)) for some in (serves, read))
        raise PlanError(
            f"memory {memory.policy!r} keeps {keeps or 'nothing'}, but this model reads "
            f"{reads or 'nothing of earlier scales'}"
        )


def look_ahead(memory: MemoryPlan, course: Course) -> Outlook:
    """What that memory will keep of a course."""
    check_pairing(memory, course.slots)
    return POLICIES[memory.policy][1](course)


def make_memory(memory: MemoryPlan, outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device) -> Memory:
    """An empty memory for ``rows`` rows (branches x images)."""
    return POLICIES[memory.policy][0](outlook, rows, dtype, device)
