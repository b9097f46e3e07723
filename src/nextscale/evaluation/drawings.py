"""The drawings of an emoji set, seen and held out, and which of them belong together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nextscale.data.captions import short
from nextscale.data.emoji_captions import captions_of
from nextscale.data.emoji_cells import is_flag, sides
from nextscale.data.emoji_reader import read_metadata
from nextscale.data.images import ImageData
from nextscale.data.sides import hash_of

Record = Mapping[str, Any]
Kin = Literal["class", "family", "style"]
"""Another drawing that belongs to one: of its class, of its family, or of the same emoji in another style."""


@dataclass(frozen=True)
class Drawings:
    """All drawings, one a row: records as ``read_metadata`` reads them; sides: of a text model's split, ``train``,
    ``cell`` or ``family``; texts: what is asked for, the short captions; pixels: reads rows, uint8 (B, 3, H, W).
    """

    records: Sequence[Record]
    sides: Sequence[str]
    texts: Sequence[str]
    pixels: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, folder: Path | str, heldout: ImageData, train: ImageData) -> Drawings:
        """Of an emoji set, whose two sides were read with captions."""
        records = read_metadata(folder)
        found = sides(records)
        here = torch.tensor([side == "train" for side in found])
        place = torch.where(here, here.cumsum(0), (~here).cumsum(0)) - 1
        for data, side in ((train, here), (heldout, ~here)):
            names = [records[row]["name"] for row in side.nonzero()[:, 0].tolist()]
            assert names == data.names, "the set was not read as it is split for texts"
        texts = [short(captions_of(record)) for record in records]

        def pixels(rows: Tensor) -> Tensor:
            found = [(train if here[row] else heldout).read(place[row, None]) for row in rows]
            return torch.cat(found)

        return cls(records, found, texts, pixels)

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def base(self) -> list[int]:
        """Rows of the emoji without a skin tone: those of the galleries."""
        return [row for row, record in enumerate(self.records) if not record["tones"]]

    @cached_property
    def styles(self) -> list[str]:
        """The styles of the set."""
        return list(dict.fromkeys(record["style"] for record in self.records))

    @cached_property
    def named(self) -> dict[tuple[str, str], int]:
        """Rows by name and style."""
        return {(record["name"], record["style"]): row for row, record in enumerate(self.records)}

    def asked(self, side: str) -> list[int]:
        """Rows of base emoji on a side that may be asked for: no flags."""
        return [row for row in self.base if self.sides[row] == side and not is_flag(self.records[row])]

    def gallery(self, rows: Iterable[int]) -> Tensor:
        """(N, M) bool: the base emoji in the style of each of ``rows`` (N)."""
        of_style = {style: torch.zeros(len(self), dtype=torch.bool) for style in self.styles}
        for row in self.base:
            of_style[self.records[row]["style"]][row] = True
        return torch.stack([of_style[self.records[row]["style"]] for row in rows])

    def elsewhere(self, rows: Sequence[int]) -> Tensor:
        """(N, M) bool: the same emoji in every other style."""
        found = torch.zeros(len(rows), len(self), dtype=torch.bool)
        for i, row in enumerate(rows):
            found[i, self.kin(row, "style")] = True
        return found

    def kin(self, row: int, kind: Kin) -> list[int]:
        """Rows of base emoji that belong to one, itself left out, in the order of a hash."""
        record = self.records[row]
        if kind == "style":
            others = [self.named.get((record["name"], style), row) for style in self.styles]
        else:
            others = self._together[kind, record[kind], record["style"]]
        return sorted((other for other in others if other != row), key=lambda other: self.order(other, row))

    @cached_property
    def _together(self) -> Mapping[tuple[str, str, str], list[int]]:
        """Rows of base emoji by class and style, and by family and style."""
        found = defaultdict[tuple[str, str, str], list[int]](list)
        for row in self.base:
            for kind in ("class", "family"):
                record = self.records[row]
                found[kind, record[kind], record["style"]].append(row)
        return found

    def differ(self, row: int, other: int) -> bool:
        """Whether two drawings are not the same, pixel by pixel."""
        return not torch.equal(*self.pixels(torch.tensor([row, other])))

    def order(self, row: int, beside: int | None = None) -> int:
        """A hash by which rows are put in order; beside: another row that they are chosen for."""
        rows = (row,) if beside is None else (row, beside)
        shown = ", ".join(f"{self.records[one]['name']}, {self.records[one]['style']}" for one in rows)
        return hash_of(f"nextscale emoji prompt: {shown}")
