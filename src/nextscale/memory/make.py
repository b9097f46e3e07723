"""From a model's memory in a plan to its outlook, and to the memory itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any, NamedTuple

import torch

from nextscale import systems
from nextscale.errors import PlanError, quoted
from nextscale.layers.slots import SlotSpec
from nextscale.memory import baselines, cut, full, hack, hack_outlook, none, recurrent, scalekv
from nextscale.memory.base import Course, Memory, MemoryPlan, Outlook
from nextscale.values import is_real, is_whole


class Policy(NamedTuple):
    """memory: its class; outlook: of a course, the settings and (if ``calibrated``) the calibration that a plan names,
    all that the memory is made from beside rows and precision, so a policy may bring an outlook that says more; serves:
    what it remembers for slots, beside those that read their own scale; settings: their names and types. A setting that
    changes pictures has no default in the outlook, so that every plan says it.
    """

    memory: Callable[..., Memory]
    outlook: Callable[..., Outlook]
    serves: frozenset[str] = frozenset()
    settings: Mapping[str, type] = {}
    calibrated: bool = False


OWN: Mapping[str, Policy] = {
    "none": Policy(none.NoMemory, none.outlook),
    "full": Policy(full.FullMemory, full.outlook, frozenset({"past"}), {"keep_last": bool}),
    "recurrent": Policy(recurrent.RecurrentMemory, recurrent.outlook, frozenset({"state"})),
    "scalekv": Policy(cut.new_memory, scalekv.outlook, frozenset({"past"}), scalekv.SETTINGS, calibrated=True),
    "window": Policy(cut.new_memory, baselines.window_outlook, frozenset({"past"}), baselines.BUDGET),
    "streaming": Policy(cut.new_memory, baselines.streaming_outlook, frozenset({"past"}), baselines.STREAMING),
    "h2o": Policy(cut.new_memory, baselines.h2o_outlook, frozenset({"past"}), baselines.H2O),
    "snapkv": Policy(cut.new_memory, baselines.snapkv_outlook, frozenset({"past"}), baselines.SNAPKV),
    "pyramidkv": Policy(cut.new_memory, baselines.pyramidkv_outlook, frozenset({"past"}), baselines.PYRAMIDKV),
    "hack": Policy(hack.new_memory, hack_outlook.outlook, frozenset({"past"}), hack_outlook.SETTINGS, calibrated=True),
}
"""Policies that belong to no system."""
KEPT = {"past": "keys and values of earlier scales", "state": "a recurrent state"}


def policies() -> dict[str, Policy]:
    """All policies by name, those that systems bring included."""
    brought = {name: systems.load(path) for system in systems.SYSTEMS for name, path in system.memories.items()}
    return {**OWN, **brought}


def check_memory(memory: MemoryPlan) -> None:
    """Raises ``PlanError`` if there is no such policy, or it has no such settings."""
    known_policies = policies()
    if memory.policy not in known_policies:
        raise PlanError(f"there is no memory {quoted(memory.policy)}; choose one of {', '.join(known_policies)}")
    policy = known_policies[memory.policy]
    known = policy.settings
    for name, value in memory.settings.items():
        if name not in known or not _is(value, known[name]):
            says = ", ".join(f"{one} ({kind.__name__})" for one, kind in known.items()) or "no settings"
            raise PlanError(f"the memory {memory.policy!r} has {name} {quoted(value)}; it takes {says}")
    asked = signature(policy.outlook).parameters
    for name, kind in known.items():
        if name not in memory.settings and asked[name].default is Parameter.empty:
            raise PlanError(f"the memory {memory.policy!r} needs {name} ({kind.__name__}) among its settings")
    if memory.calibration is not None and not policy.calibrated:
        raise PlanError(f"the memory {memory.policy!r} takes no calibration; leave out {quoted(memory.calibration)}")
    if memory.calibration is None and policy.calibrated:
        raise PlanError(f"the memory {memory.policy!r} needs a calibration; name the part that holds it")


def _is(value: Any, kind: type) -> bool:
    return is_real(value) if kind is float else is_whole(value) if kind is int else isinstance(value, kind)


def check_pairing(memory: MemoryPlan, slots: Iterable[SlotSpec]) -> None:
    """Raises ``PlanError`` if that memory cannot remember what a model with these slots reads."""
    check_memory(memory)
    check_serves(memory.policy, slots)


def check_serves(policy: str, slots: Iterable[SlotSpec]) -> None:
    """The same of a policy, whatever its settings."""
    serves, read = policies()[policy].serves, {spec.reads for spec in slots} - {"own"}
    if read != serves:
        keeps, reads = (" and ".join(KEPT[one] for one in sorted(some)) for some in (serves, read))
        raise PlanError(
            f"memory {policy!r} keeps {keeps or 'nothing'}, but this model reads {reads or 'nothing of earlier scales'}"
        )


def look_ahead(memory: MemoryPlan, course: Course, parts: Mapping[str, Any] | None = None) -> Outlook:
    """What that memory will keep of a course. parts: hold the calibration that the plan names."""
    check_pairing(memory, course.slots)
    calibration = {} if memory.calibration is None else {"calibration": (parts or {})[memory.calibration]}
    return policies()[memory.policy].outlook(course, **memory.settings, **calibration)


def make_memory(memory: MemoryPlan, outlook: Outlook, rows: int, dtype: torch.dtype, device: torch.device) -> Memory:
    """An empty memory for ``rows`` rows (branches x images)."""
    return policies()[memory.policy].memory(outlook, rows, dtype, device)
