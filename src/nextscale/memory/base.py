"""What a memory can say: how much of the earlier scales every layer and head remembers.

A memory is made for one model, one schedule and one number of rows, handed to ``model.step``, and thrown away; the
model never changes. During scale k a slot sees what was committed before plus the scale's own tokens; a second pass
over the same scale overwrites the first; only ``end_scale`` commits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nextscale.scales import ScaleSchedule


class Memory(ABC):
    """One slot per mixer of the model, in order."""

    schedule: ScaleSchedule

    @abstractmethod
    def slot(self, index: int) -> Any:
        """The slot of mixer ``index``: one of ``layers.slots``, as the mixer's spec asks."""

    @abstractmethod
    def begin_scale(self, k: int) -> None:
        """Scale k starts; scales come in order, and each may begin again before it ends (another pass)."""

    @abstractmethod
    def end_scale(self, k: int) -> None:
        """Commit what the slots saw during scale k; here a policy drops entries."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows: (rows',) int64."""

    @abstractmethod
    def snapshot(self) -> object:
        """A copy of what is committed, to go back to with :meth:`restore`, as often as wanted."""

    @abstractmethod
    def restore(self, snapshot: object) -> None:
        """Go back to a snapshot of this memory."""

    @abstractmethod
    def free(self, layers: Sequence[int] | None = None) -> None:
        """Give back the buffers of some slots, or of all."""

    @property
    @abstractmethod
    def live_bytes(self) -> int:
        """Bytes of what is remembered now."""

    @property
    @abstractmethod
    def allocated_bytes(self) -> int:
        """Bytes of every buffer held, workspaces included."""
