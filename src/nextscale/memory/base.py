"""What a memory can say: how much of the earlier scales every layer and head remembers.

Three parts: plan data (``MemoryPlan``), a pure outlook on what will be kept, and the live object. A live memory is made
for one model, one schedule and one number of rows, handed to ``model.step``, and thrown away; the model never changes.
During scale k a slot sees what was committed before plus the scale's own tokens; a second pass over the same scale
overwrites the first; only ``end_scale`` commits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from nextscale.errors import PlanError, quoted
from nextscale.layers.slots import Count, SlotSpec
from nextscale.scales import ScaleSchedule
from nextscale.values import plain

TAKEOVERS = ("catch_up", "empty")


@dataclass(frozen=True)
class MemoryPlan:
    """What a plan says of one model's memory.

    policy: a name of ``nextscale.memory.make.policies``; settings: the policy's own; calibration: name of the part that
    holds one, for policies that need it; takeover: what a model finds that takes over mid-way, "catch_up" (it runs over
    every earlier scale) or "empty". Raises ``PlanError`` for values of another type.
    """

    policy: str = "full"
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    calibration: str | None = None
    takeover: str = "catch_up"

    def __post_init__(self) -> None:
        kinds = {"policy": str, "settings": Mapping, "calibration": str | None, "takeover": str}
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise PlanError(f"a memory's {name} is {quoted(getattr(self, name))}, of the wrong type")
        object.__setattr__(self, "settings", {name: plain(value) for name, value in self.settings.items()})
        if self.takeover not in TAKEOVERS:
            raise PlanError(f"a memory's takeover is {quoted(self.takeover)}; expected {' or '.join(TAKEOVERS)}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "policy": self.policy,
            "settings": dict(self.settings),
            "calibration": self.calibration,
            "takeover": self.takeover,
        }


@dataclass(frozen=True)
class Course:
    """How a model's scales will run: what an outlook is made from.

    slots: the model's; schedule: all scales; blocks: which blocks run at each scale that is drawn, () where another
    model does; turns: scales after which the number of rows changes; prefix: tokens in front of the first scale, in a
    group of their own, or with_first in that of the scale; weights: the model's ``weights_hash``, for memories that
    were calibrated to it; None where nobody knows it.
    """

    slots: tuple[SlotSpec, ...]
    schedule: ScaleSchedule
    blocks: tuple[tuple[int, ...], ...]
    turns: tuple[int, ...] = ()
    prefix: int = 0
    with_first: bool = False
    weights: str | None = None

    @cached_property
    def first(self) -> int:
        """The first scale that the model sees."""
        return next(k for k, run in enumerate(self.blocks) if run)

    def last_of(self, slot: int) -> int:
        """The last scale at which a slot's block runs; -1 where it never does."""
        return max((k for k, run in enumerate(self.blocks) if self.slots[slot].block in run), default=-1)

    def tokens(self, k: int) -> int:
        """Tokens of scale k, and of the prefix where that stands with them."""
        return self.schedule.lengths[k] + (self.prefix if self.with_first and k == 0 else 0)

    def seen(self, k: int) -> int:
        """Tokens of the prefix and of all scales up to k that the model sees."""
        return self.prefix + self.schedule.offsets[k + 1] - self.schedule.offsets[self.first]


@dataclass(frozen=True)
class Outlook:
    """What a memory will keep, known before anything runs.

    kept: tokens (or, of a recurrent state, 1) that slot i keeps after scale k, ``kept[k][i]``; attended: keys that its
    queries of scale k see, ``attended[k][i]``, 0 where it does not run. Both are per head, and means where the heads of
    one slot differ.
    """

    course: Course
    kept: tuple[tuple[Count, ...], ...]
    attended: tuple[tuple[Count, ...], ...]

    def bytes(self, k: int, rows: int, element: int) -> int:
        """Live bytes after scale k was committed for ``rows`` rows, at ``element`` bytes per number."""
        counts = zip(self.course.slots, self.kept[k], strict=True)
        return rows * sum(spec.bytes(count, element) for spec, count in counts)

    def drop_flops(self, k: int) -> int:
        """FLOPs of choosing what is dropped at scale k, and of what else is done with it, of one row."""
        return 0

    def capacity(self, k: int, slot: int) -> int:
        """The most that a slot whose heads are alike keeps from before scale k until the number of rows changes."""
        until = next((turn for turn in self.course.turns if turn >= k), len(self.kept) - 1)
        return max((int(self.kept[j][slot]) for j in range(max(0, k - 1), until + 1)), default=0)


class Memory(ABC):
    """One slot per mixer of the model, in order."""

    schedule: ScaleSchedule
    keeps: bool = True
    """Whether anything of a scale is committed at its end."""

    @abstractmethod
    def slot(self, index: int) -> Any:
        """The slot of mixer ``index``: one of ``layers.slots``, as the mixer's spec asks."""

    @abstractmethod
    def begin_prefix(self) -> None:
        """What the slots see until ``end_prefix`` stands in front of the first scale."""

    @abstractmethod
    def end_prefix(self) -> None:
        """Commit the prefix: entries that stay."""

    @abstractmethod
    def begin_scale(self, k: int, blocks: Sequence[int] | None = None) -> None:
        """Scale k starts; scales come in order, and each may begin again before it ends (another pass).

        blocks: those that run from here on (None: all); the memory of the others is given back.
        """

    @abstractmethod
    def end_scale(self, k: int) -> None:
        """Commit what the slots saw during scale k; here a policy drops entries."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows, (rows',) int64, between scales: buffers are those that these rows need."""

    @abstractmethod
    def snapshot(self) -> object:
        """A copy of what is committed, to go back to with :meth:`restore`, as often as wanted."""

    @abstractmethod
    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot of this memory."""

    @abstractmethod
    def free(self) -> None:
        """Give back all buffers."""

    @property
    @abstractmethod
    def live_bytes(self) -> int:
        """Bytes of what is remembered now."""

    @property
    @abstractmethod
    def allocated_bytes(self) -> int:
        """Bytes of every buffer held, workspaces included."""
