"""What every reader returns: images, in memory or decoded when they are asked for, with labels, names and a hash.

Shape letters: ``N`` images of the set, ``B`` of one batch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from nextscale.data.captions import Captions, caption_hash
from nextscale.data.found import PassedOver
from nextscale.data.pictures import crop
from nextscale.errors import InputError
from nextscale.scales import Size

SPLITS = ("train", "heldout", "all")
THREADS = max(2, min(8, os.cpu_count() or 1))
"""Decoding threads: Pillow decodes and resizes without Python's lock."""


class Reader(Protocol):
    """What training asks of anything it reads its samples from: images, or tokens made of them before."""

    @property
    def groups(self) -> tuple[int, ...]:
        """See ``ImageData``."""

    @property
    def shape_labels(self) -> Tensor:
        """See ``ImageData``; a batch is of one shape."""

    @property
    def times(self) -> Tensor | None:
        """See ``ImageData``."""

    @property
    def waited(self) -> float:
        """Seconds that reading has taken in all, for whoever wants to know the share of time spent waiting."""

    def prefetch(self, rows: Tensor) -> None:
        """Hear which rows (B,) will be read next."""


class InMemory:
    """Pictures that were decoded once, each uint8 (3, h, w) with no side below the resolution or its shape.

    A tensor (N, 3, resolution, resolution) holds pictures of which nothing is cropped. resolution: of squares; None
    where pictures have several shapes.
    """

    def __init__(self, pictures: Sequence[Tensor] | Tensor, resolution: int | None) -> None:
        self.pictures, self.resolution, self.waited = pictures, resolution, 0.0

    def prefetch(self, rows: Tensor) -> None:
        """Nothing to do."""

    def read(self, rows: Tensor, places: Tensor | None, size: Size) -> Tensor:
        """Parts (B, 3, *size) of pictures; see ``crop``."""
        if isinstance(self.pictures, Tensor):
            return self.pictures[rows]
        return crop([self.pictures[row] for row in rows.tolist()], size, places)


class OnDemand:
    """Pictures that are decoded by a few threads when they are asked for, or before, where it is known what comes.

    decode: uint8 (3, h, w) of the picture of a row; resolution: see ``InMemory``.
    """

    def __init__(self, decode: Callable[[int], Tensor], resolution: int | None) -> None:
        self.resolution, self.waited, self._decode = resolution, 0.0, decode
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
        self._coming: dict[int, Future[Tensor]] = {}

    def prefetch(self, rows: Tensor) -> None:
        """Start to decode what will be asked for next."""
        for row in rows.tolist():
            if row not in self._coming:
                self._coming[row] = self._pool.submit(self._decode, row)

    def read(self, rows: Tensor, places: Tensor | None, size: Size) -> Tensor:
        """Parts (B, 3, *size) of pictures; see ``crop``."""
        self.prefetch(rows)
        pictures = {row: self._coming.pop(row).result() for row in dict.fromkeys(rows.tolist())}
        return crop([pictures[row] for row in rows.tolist()], size, places)


@dataclass(frozen=True)
class ImageData:
    """Images with their labels. Pixels come from :meth:`read`.

    ``labels``, int64 ``(N,)``, are places in ``classes``; ``style_labels``, int64 ``(N,)``, are places in ``styles``
    (a set without styles has zeros and an empty list). ``names`` says what each image shows (an emoji's name, a file's
    name). Equal hashes are equal data. ``unreadable`` lists the files that were left out because they are damaged,
    ``too_small`` those that are smaller than the resolution; ``passed_over`` counts the files of the whole set that are
    not read; ``split_by`` says how the sides were told apart, and ``notes`` are sentences for people about the set.
    ``groups`` are the sizes of the parts the images lie in, one after another (shards): an order that stays within a
    few of them at a time reads faster. It is empty where any order is as good.
    ``shapes`` are the sizes (height, width) in pixels that images were sorted into by their aspect ratios, and
    ``shape_labels``, int64 ``(N,)``, places in them; squares of one resolution have no shapes, and zeros. ``captions``
    are one for each image; None where the set has none, or nobody asked for them. ``times``, int64 ``(N,)``, says how
    often an epoch of training draws each image; None: each once.
    """

    pictures: InMemory | OnDemand
    labels: Tensor
    classes: list[str]
    split: str
    names: list[str]
    hash: str
    style_labels: Tensor
    styles: list[str]
    unreadable: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    too_small: tuple[str, ...] = ()
    split_by: str = ""
    passed_over: PassedOver = field(default_factory=PassedOver)
    notes: tuple[str, ...] = ()
    captions: tuple[Captions, ...] | None = None
    shapes: tuple[Size, ...] = ()
    shape_labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    times: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.shapes:
            object.__setattr__(self, "shape_labels", torch.zeros(len(self), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def epoch(self) -> int:
        """How many images an epoch of training draws."""
        return len(self) if self.times is None else int(self.times.sum())

    @property
    def counts(self) -> list[int]:
        """How many images there are of each class."""
        return self.labels.bincount(minlength=len(self.classes)).tolist()

    @property
    def caption_hash(self) -> str | None:
        """Names the captions: equal hashes are equal captions of equally many images. None without captions."""
        return None if self.captions is None else caption_hash(self.captions)

    @property
    def resolution(self) -> int:
        """Height and width of the images.

        Raises:
            InputError: they have several shapes.
        """
        if self.pictures.resolution is None:
            raise InputError(f"images in {_shown(self.shapes)} pixels have no one resolution; expected squares")
        return self.pictures.resolution

    def read(self, rows: Tensor, places: Tensor | None = None) -> Tensor:
        """The images of ``rows`` (B,): uint8 (B, 3, H, W).

        places: (B, 2) in [0, 1), where in the picture the square is cropped (training); None takes the centre. Emoji
        are drawn at the resolution, so nothing of them is cropped.

        Raises:
            InputError: the rows are of several shapes.
        """
        start = time.perf_counter()
        pixels = self.pictures.read(rows, places, self._size(rows))
        self.pictures.waited += time.perf_counter() - start
        return pixels

    def _size(self, rows: Tensor) -> Size:
        if not self.shapes:
            return self.resolution, self.resolution
        found = self.shape_labels[rows].unique().tolist()
        if len(found) > 1:
            raise InputError(f"{len(rows)} images have {_shown([self.shapes[i] for i in found])} pixels; expected one")
        return self.shapes[found[0] if found else 0]

    @property
    def waited(self) -> float:
        """Seconds that :meth:`read` has taken in all."""
        return self.pictures.waited

    def prefetch(self, rows: Tensor) -> None:
        """Say which rows will be read next: where images are not in memory, threads begin to decode them."""
        self.pictures.prefetch(rows)

    @property
    def images(self) -> Tensor:
        """All images at once, uint8 (N, 3, H, W), the centre of each.

        Raises:
            InputError: the set is not in memory.
        """
        if not isinstance(self.pictures, InMemory):
            raise InputError(f"{len(self)} images at {self.resolution} pixels are too many to hold in memory at once")
        kept = self.pictures.pictures
        return kept if isinstance(kept, Tensor) else crop(kept, (self.resolution, self.resolution))


def _shown(shapes: Sequence[Size]) -> str:
    return " and ".join(f"{height} x {width}" for height, width in shapes[:5])


def existing_folder(path: Path | str) -> Path:
    """``path`` as a folder that can be read.

    Raises:
        InputError: it is none.
    """
    folder = Path(path)
    if not os.path.isdir(path):
        seen = "is a file" if os.path.exists(path) else "does not exist"
        raise InputError(f"the data folder {str(folder)[:500]} {seen}; expected an emoji set or a folder of images")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"the data folder {folder} cannot be read; expected a folder that can")
    return folder


def check_split(split: str) -> None:
    """Refuse a split that does not exist.

    Raises:
        InputError: it does not.
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; expected one of {', '.join(SPLITS)}")


def told(where: Path | str, train: ImageData, heldout: ImageData) -> list[str]:
    """What both sides of a set hold, in one line for people, and then what may not be as they mean it."""
    classes = "1 class" if len(train.classes) == 1 else f"{len(train.classes)} classes"
    shown = ", ".join(name[:40] for name in train.classes[:4]) + (", ..." if len(train.classes) > 4 else "")
    line = (
        f"{where}: {len(train)} images to train on and {len(heldout)} held out, {classes} ({shown}); "
        f"split: {train.split_by}; passed over: {train.passed_over}"
    )
    return [line, *dict.fromkeys([*train.notes, *heldout.notes])]
