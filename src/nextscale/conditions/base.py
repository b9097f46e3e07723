"""What is to be drawn: raw input becomes one plain entry per image, and entries become features that know no model.

A model turns features into its own condition, for every branch of a generation: a branch is the set of sources that it
sees, and what it does not see is replaced by the model's own null. Shape letter: ``B`` images.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from nextscale.errors import CheckpointError, InputError, quoted

Entry = dict[str, Any]
"""What one image is to show, as plain data: a recipe stores it, and a picture is named by its values."""
UNCONDITIONAL = "unconditional"
"""What people write for a picture of nothing in particular, and what it is called."""
Branches = tuple[tuple[str, ...], ...]
"""For each branch the names of the sources that it sees; the null branch sees none: ``()``."""


@dataclass(frozen=True)
class Source:
    """One thing that a model may look at.

    kind: how a model reads it: ``class`` (``ids`` (B,) int64, or (B, n) with ``weights`` (B, n)), ``text`` (``states``
    (B, T, C) and ``mask`` (B, T)), or another that both sides know; tensors: by name, batch axis first; dropped: (B,)
    bool, True where an image has nothing of it.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    dropped: Tensor | None = None

    def select(self, rows: Tensor) -> Source:
        """Keep, repeat or reorder images: rows (B',) int64."""
        dropped = None if self.dropped is None else self.dropped.index_select(0, rows)
        return replace(self, tensors={n: t.index_select(0, rows) for n, t in self.tensors.items()}, dropped=dropped)

    def to(self, device: torch.device) -> Source:
        dropped = None if self.dropped is None else self.dropped.to(device)
        return replace(self, tensors={n: t.to(device) for n, t in self.tensors.items()}, dropped=dropped)


@dataclass(frozen=True)
class Features:
    """The sources of ``images`` images, by name. A source's name says what it is for, its kind how it is read: the
    source ``negative`` is of the kind ``text``.
    """

    images: int
    sources: Mapping[str, Source]

    def select(self, rows: Tensor) -> Features:
        """Keep, repeat or reorder images: rows (B',) int64."""
        return Features(len(rows), {name: source.select(rows) for name, source in self.sources.items()})

    def to(self, device: torch.device) -> Features:
        return Features(self.images, {name: source.to(device) for name, source in self.sources.items()})

    def drop(self, name: str, dropped: Tensor) -> Features:
        """The same without the source ``name`` where ``dropped`` (B,) bool says so."""
        source = self.sources[name]
        before = source.dropped
        without = replace(source, dropped=dropped if before is None else before | dropped)
        return replace(self, sources={**self.sources, name: without})

    def seen(self, branch: Sequence[str], kind: str) -> Source | None:
        """The source of this kind that a branch sees, if it sees one."""
        return next((self.sources[name] for name in branch if self.sources[name].kind == kind), None)


class Conditioner(ABC):
    """Turns what a call asks for into entries, and entries into features. Part of a checkpoint's configuration."""

    @property
    @abstractmethod
    def gives(self) -> Mapping[str, int]:
        """Kinds of the sources it makes, and their size: the number of labels, or the width of text states."""

    @abstractmethod
    def resolve(self, **asked: Any) -> list[Entry]:
        """One entry per label or prompt. asked: arguments of a call, None where nothing was given.

        Raises ``InputError`` for what it does not read, by the argument's name, and for what it does not know.
        """

    @abstractmethod
    def features(self, entries: Sequence[Entry]) -> Features:
        """The features of one image per entry, on the CPU."""

    def told(self, entries: Sequence[Entry]) -> list[str]:
        """The names of the sources that some entry has something of."""
        sources = self.features(entries).sources
        return [name for name, one in sources.items() if one.dropped is None or not one.dropped.all()]

    file: ClassVar[str] = ""
    """The file of a checkpoint that holds :meth:`to_dict`; where it has no name, ``config.json`` does."""

    sort: ClassVar[str] = "text-to-image"
    """What a model that reads it is called on the hub."""
    example: ClassVar[str] = 'prompt="red heart"'
    """An argument of a call, for whoever reads a card."""

    def to_dict(self) -> dict[str, Any]:
        """What it needs to be made again, as plain data."""
        return {}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`to_dict`. Raises ``CheckpointError`` for anything else."""
        if data:
            raise CheckpointError(f"a {cls.__name__} has no settings, and these are {quoted(dict(data))}")
        return cls()

    def check(self, reads: Mapping[str, int]) -> None:
        """Raises ``CheckpointError`` unless a model that reads these kinds and sizes can read what it gives."""
        for kind, size in self.gives.items():
            if reads.get(kind) != size:
                known = ", ".join(f"{name} of {count}" for name, count in reads.items()) or "nothing"
                raise CheckpointError(f"the conditioner gives {kind} of {size}, and the model reads {known}")

    def to(self, device: torch.device, dtype: torch.dtype) -> None:  # noqa: B027 (most have no network)
        """Where, and in which number type, whatever network it has is to compute."""

    def prepared(self, features: str | Path | None = None, low_memory: bool = False) -> Conditioner:
        """Itself as ``load`` was asked for it. features: a file of features that were made before; low_memory: whether
        its network is to be in memory only while it computes. Raises ``InputError`` for what is of no use to it.
        """
        asked = {"features": None if features is None else str(features), "low_memory": low_memory or None}
        for name, value in asked.items():
            if value is not None:
                raise InputError(f"{name} is {quoted(value)}, but this model has no encoder; leave it out")
        return self

    def samples(self, count: int) -> list[Entry]:
        """At most ``count`` entries that show what it knows; none where it cannot say."""
        return []

    def arguments(self, entries: Sequence[Entry]) -> dict[str, list[Any]]:
        """The arguments of a call that are resolved to these entries, with one value per entry: every value by its name
        in the entries, unless a conditioner says otherwise.
        """
        names = dict.fromkeys(name for entry in entries for name in entry)
        return {name: [entry.get(name) for entry in entries] for name in names}

    def spread(self, say: Callable[[str], None], **typed: list[str]) -> dict[str, list[Any]]:
        """The arguments of a call, with one value per picture, for lists that were typed: prompts or labels, and
        further ones that multiply them. say: takes what whoever typed them should know.
        """
        rows = list(product(*typed.values()))
        return {name: [row[i] for row in rows] for i, name in enumerate(typed)}

    def lists(self) -> dict[str, list[str]]:
        """All names that it knows, by what they name, such as classes and styles."""
        return {}

    @property
    def about(self) -> str:
        """What it knows, in a few words."""
        return type(self).__name__
