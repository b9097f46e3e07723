"""From a list of where images lie, in folders or shards, to images that can be trained on.

Every image is looked through once, bytes hashed and decoded, before anything is trained on it: so damaged images are
found and left out before a row means anything, and equal hashes are equal data. A set that fits into memory is kept
decoded; of a larger one only what was found is kept, in the cache folder, so that the next run does not look again.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nextscale.data.cache import cache_file
from nextscale.data.images import THREADS, ImageData, InMemory, OnDemand
from nextscale.data.pictures import RESIZE, decode, resize
from nextscale.errors import InputError

LONGER = 1.4  # a usual picture's longer side over its shorter one
CHUNK = 1024
HELD_OUT_FOLDERS = ("val", "valid", "validation", "test")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Entry:
    """Where one image lies: a whole file, or ``size`` bytes of a shard from ``offset`` on.

    name: its path within the set; side: ``train`` or ``heldout``; label: id of its class.
    """

    name: str
    side: str
    label: int
    file: Path
    offset: int = 0
    size: int = -1

    def __str__(self) -> str:
        return plain(str(self.file) if self.size < 0 else f"{self.file}: {self.name}")

    def read(self) -> bytes:
        """The bytes of the image's file; none if there is no such file."""
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError:
            return b""


class Look(NamedTuple):
    """What was seen of one image: the sha256 of its bytes, its size, 0 x 0 if it is damaged, and its picture."""

    digest: str
    width: int
    height: int
    picture: Tensor | None = None


def plain(text: str) -> str:
    """``text``, where bytes of a file name that are not UTF-8 are written out, so that it can be hashed and shown."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def sides_of(folders: Collection[str], where: str) -> dict[str, str]:
    """The side that each folder is: ``train``, and ``val`` or another usual name beside it. Empty without both.

    ``test`` is left alone where there is another: there ImageNet has images without labels.

    Raises:
        InputError: several folders could be the held-out side.
    """
    held_out = [name for name in HELD_OUT_FOLDERS if name in folders]
    held_out = held_out[:-1] if len(held_out) > 1 and held_out[-1] == "test" else held_out
    if "train" not in folders or not held_out:
        return {}
    if len(held_out) > 1:
        raise InputError(
            f"{where} holds {', '.join(held_out)} beside train; expected one folder of held-out images: "
            "move the others elsewhere"
        )
    return {"train": "train", held_out[0]: "heldout"}


def side_of(name: str, held_out: float) -> str:
    """``heldout`` for a share of all names, chosen by their hash; adding other images moves none."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return "heldout" if number < held_out * 2**64 else "train"


def folders_as_classes(names: Sequence[str], where: str, alone: str) -> list[str]:
    """The class of each path in ``names``: the folder it begins with, or ``alone`` where no image is in a folder.

    Raises:
        InputError: some are in folders and some are not.
    """
    parents = [name.split("/")[0] if "/" in name else None for name in names]
    if any(parents) and not all(parents):
        raise InputError(f"{where} holds both single images and folders of images; expected one of the two")
    return [parent or alone for parent in parents]


def read_entries(
    where: str,
    entries: Sequence[Entry],
    classes: list[str],
    resolution: int,
    split: str,
    memory: int | None = None,
    progress: Progress | None = None,
) -> ImageData:
    """The images of a split.

    Args:
        where: the set, for messages.
        entries: all images of both sides, those of one shard together.
        memory: bytes that decoded images may take; a quarter of the machine's by default. A set that needs more is
            decoded on demand.
        progress: called with (images looked through, images in all).

    Raises:
        InputError: no image of the split, none that can be read, or images smaller than the resolution.
    """
    wanted = [entry for entry in entries if split in ("all", entry.side)]
    if not wanted:
        raise InputError(
            f"{where} holds {len(entries)} images, but none of the split {split!r}; expected one or more: add images, "
            "or give folders called train and val"
        )
    needed = len(wanted) * 3 * LONGER * (RESIZE * resolution) ** 2
    fits = needed <= (_machine_memory() // 4 if memory is None else memory)
    looks = []
    for look in _fresh_looks(wanted, resolution) if fits else _noted_looks(where, wanted, resolution):
        looks.append(look)
        if progress is not None:
            progress(len(looks), len(wanted))
    return _image_data(where, wanted, looks, classes, resolution, split, fits)


def _image_data(
    where: str, wanted: list[Entry], looks: list[Look], classes: list[str], resolution: int, split: str, fits: bool
) -> ImageData:
    small = [i for i, look in enumerate(looks) if 0 < min(look.width, look.height) < resolution]
    if small:
        first = f"{wanted[small[0]]} ({looks[small[0]].width} x {looks[small[0]].height})"
        raise InputError(
            f"{len(small)} of {len(wanted)} images are smaller than {resolution} pixels, for instance {first}; "
            "take them out or choose a lower resolution"
        )
    unreadable = [str(entry) for entry, look in zip(wanted, looks, strict=True) if not look.width]
    kept = [i for i, look in enumerate(looks) if look.width]
    if not kept:
        raise InputError(f"none of the {len(wanted)} images in {where} can be read, for instance {unreadable[0]}")
    if unreadable:
        seen = f"{len(unreadable)} of {len(wanted)} images cannot be read and are left out"
        warnings.warn(f"{seen}, for instance {unreadable[0]}", stacklevel=2)
    digest = hashlib.sha256(json.dumps([classes, resolution, RESIZE]).encode())
    for i in kept:
        digest.update(f"{wanted[i].label} {looks[i].digest}\n".encode())
    files = [wanted[i] for i in kept]
    shards = Counter(entry.file for entry in files if entry.size >= 0)
    if shards:  # the order of training depends on them
        digest.update(json.dumps([*shards.values()]).encode())
    pictures = [look.picture for look in looks if look.picture is not None]
    return ImageData(
        pictures=InMemory(pictures, resolution) if fits else OnDemand(_decoder(files, resolution), resolution),
        labels=torch.tensor([entry.label for entry in files]),
        classes=classes,
        split=split,
        names=[entry.name for entry in files],
        hash=digest.hexdigest(),
        style_labels=torch.zeros(len(files), dtype=torch.int64),
        styles=[],
        unreadable=tuple(unreadable),
        groups=tuple(shards.values()),
    )


def _decoder(files: list[Entry], resolution: int) -> Callable[[int], Tensor]:
    def picture_of(row: int) -> Tensor:
        picture = decode(files[row].read())
        if picture is None or min(picture.size) < resolution:
            raise InputError(f"the image {files[row]} changed after the set was looked through; start again")
        return resize(picture, resolution)

    return picture_of


def _look(entry: Entry, resolution: int, keep: bool) -> Look:
    content = entry.read()
    digest, picture = hashlib.sha256(content).hexdigest(), decode(content)
    if picture is None:
        return Look(digest, 0, 0)
    kept = resize(picture, resolution) if keep and min(picture.size) >= resolution else None
    return Look(digest, *picture.size, kept)


def _fresh_looks(entries: Sequence[Entry], resolution: int, keep: bool = True) -> Iterator[Look]:
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(entries), CHUNK):
            yield from pool.map(lambda entry: _look(entry, resolution, keep), entries[start : start + CHUNK])


def _noted_looks(where: str, entries: Sequence[Entry], resolution: int) -> Iterator[Look]:
    """Looks without pictures, those of earlier runs where the files have not changed; new ones are noted at once."""
    note = cache_file("looks", plain(str(Path(where).absolute())), ".jsonl")
    known = {} if note is None else dict(_noted(note))
    stamps = {file: _stamp(file) for file in {entry.file for entry in entries}}
    for start in range(0, len(entries), CHUNK):
        part = entries[start : start + CHUNK]
        keys = [(str(entry.file), entry.offset, *stamps[entry.file]) for entry in part]
        fresh = _fresh_looks([e for e, key in zip(part, keys, strict=True) if key not in known], resolution, False)
        lines = []
        try:
            for key in keys:
                if key not in known:
                    known[key] = next(fresh)
                    lines.append(json.dumps([*key, *known[key][:3]]) + "\n")
                yield known[key]
        finally:  # also where the looking through is interrupted
            if note is not None and lines:
                _append(note, "".join(lines))


def _append(note: Path, text: str) -> None:
    """Write ``text`` at the end of a note, which nothing needs: a full disk is no reason to stop."""
    with suppress(OSError), note.open("a", encoding="utf-8") as file:
        file.write(text)


def _noted(note: Path) -> Iterator[tuple[tuple[str, int, int, int], Look]]:
    """What earlier runs saw. A line that was cut short by an interruption is passed over."""
    if note.is_file():
        for line in note.read_text(encoding="utf-8").splitlines():
            try:
                file, offset, size, changed, *seen = json.loads(line)
                yield (file, offset, size, changed), Look(*seen)
            except (ValueError, TypeError):
                continue


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of the last change, by which a file that is another one now is known."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _machine_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
