"""From a list of where images lie, in folders or shards, to images that can be trained on.

Every image is looked through once, bytes hashed and decoded, before anything is trained on it: so damaged images are
found and left out before a row means anything, and equal hashes are equal data. A set that fits into memory is kept
decoded; of a larger one only what was found is kept, in the cache folder, so that the next run does not look again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nextscale import decoding
from nextscale.data.cache import cache_file
from nextscale.data.captions import Captions, of_all
from nextscale.data.found import PassedOver, in_utf8
from nextscale.data.images import THREADS, ImageData, InMemory, OnDemand
from nextscale.data.pictures import Shapes, decode, resize
from nextscale.data.sides import hash_of
from nextscale.device import memory_of
from nextscale.errors import InputError

LONGER = 1.4  # a usual picture's longer side over its shorter one
CHUNK = 1024
USUAL_MEMORY = 8 << 30  # of small machines, where the system does not say
FEW = 3  # images of a side of which at least one should be of use

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Place:
    """Where one image lies: a whole file, or ``size`` bytes of a shard from ``offset`` on.

    name: its path within the set; side: ``train`` or ``heldout``; label: id of its class; captions: what it shows, in
    words, where that was asked for and is known.
    """

    name: str
    side: str
    label: int
    file: Path
    offset: int = 0
    size: int = -1
    captions: Captions | None = None

    def __str__(self) -> str:
        return in_utf8(str(self.file) if self.size < 0 else f"{self.file}: {self.name}")

    def read(self) -> bytes:
        """The bytes of the image's file; none if there is no such file."""
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size)
        except OSError:
            return b""


@dataclass(frozen=True)
class Set:
    """A set before any image of it is read.

    where: what people call it; entries: all images of both sides; classes: names, in the order of their ids; split: how
    the sides are told apart, for people; by_hash: whether hashes chose them; notes: what people should know.
    """

    where: str
    entries: list[Place]
    classes: list[str]
    split: str
    by_hash: bool
    passed_over: PassedOver
    notes: tuple[str, ...] = ()


class Look(NamedTuple):
    """What was seen of one image: the sha256 of its bytes, its size, what was not taken as it is, and its picture.

    A damaged image is 0 x 0, and the remark says why.
    """

    digest: str
    width: int
    height: int
    remarks: tuple[str, ...] = ()
    picture: Tensor | None = None


def read_entries(
    found: Set,
    shapes: Shapes,
    split: str,
    memory: int | None = None,
    progress: Progress | None = None,
    skip_small: bool = False,
) -> ImageData:
    """The images of a split.

    Args:
        found: the set; of shards, all images of one together.
        shapes: the sizes that images are prepared in.
        memory: bytes that decoded images may take; a quarter of the machine's by default. A set that needs more is
            decoded on demand.
        progress: called with (images looked through, images in all).
        skip_small: leave out images smaller than their shape, and warn with their number.

    Raises:
        InputError: no image of the split, none that can be read, images smaller than their shape, or captions for some
            images only.
    """
    found = _on_both_sides(found, shapes)
    wanted = [entry for entry in found.entries if split in ("all", entry.side)]
    if not wanted:
        count, rest = len(found.entries), f"; passed over: {found.passed_over}" if found.passed_over.counts else ""
        raise InputError(
            f"{found.where} holds {count} image{'' if count == 1 else 's'}, but none of the split {split!r}; expected "
            f"one or more: add images, or give folders called train and val{rest}"
        )
    of_all([entry.captions for entry in wanted], [str(entry) for entry in wanted], found.where)
    area = max(height * width for height, width in shapes.sizes)
    needed = len(wanted) * 3 * LONGER * shapes.margin**2 * area
    if memory is None:
        memory = (memory_of(torch.device("cpu")) or USUAL_MEMORY) // 4
    fits = needed <= memory
    looks = []
    for look in _fresh_looks(wanted, shapes) if fits else _noted_looks(found.where, wanted, shapes):
        looks.append(look)
        if progress is not None:
            progress(len(looks), len(wanted))
    return _image_data(found, wanted, looks, shapes, split, fits, skip_small)


def _on_both_sides(found: Set, shapes: Shapes) -> Set:
    """``found`` with an image on either side, where hashes have chosen none of a small set that is of use."""

    def of_use(entry: Place) -> bool:
        look = _look(entry, shapes, keep=False)
        return bool(look.width) and shapes.fit(look.width, look.height)

    if not found.by_hash:
        return found
    if len(found.entries) == 1:
        return replace(found, entries=[replace(found.entries[0], side="train")])
    entries, notes = list(found.entries), found.notes
    for side, what in (("heldout", "to be held out"), ("train", "to train on")):
        mine = [entry for entry in entries if entry.side == side]
        if len(mine) > FEW or any(map(of_use, mine)):
            continue
        others = sorted((entry for entry in entries if entry.side != side), key=lambda entry: hash_of(entry.name))
        chosen = next(filter(of_use, others if side == "heldout" else reversed(others)), None)
        if chosen is not None:
            entries[entries.index(chosen)] = replace(chosen, side=side)
            notes += (f"the set is so small that its hashes chose no image {what}; {chosen} was taken",)
    return replace(found, entries=entries, notes=notes)


def _image_data(
    found: Set, wanted: list[Place], looks: list[Look], shapes: Shapes, split: str, fits: bool, skip_small: bool
) -> ImageData:
    resolution = shapes.resolution
    least, choose = "the shapes nearest to them", "smaller shapes"
    if resolution is not None:
        least, choose = f"{resolution} pixels", "a lower resolution"
    small = [i for i, look in enumerate(looks) if look.width and not shapes.fit(look.width, look.height)]
    too_small = [f"{wanted[i]} ({looks[i].width} x {looks[i].height})" for i in small]
    if small and not skip_small:
        raise InputError(
            f"{len(small)} of {len(wanted)} images are smaller than {least}, for instance {too_small[0]}; "
            f"take them out, leave them out with --skip-small (skip_small=True), or choose {choose}"
        )
    damaged = [i for i, look in enumerate(looks) if not look.width]
    kept = sorted(set(range(len(wanted))) - {*small, *damaged})
    reason = "".join(f" ({text})" for i in damaged[:1] for text in looks[i].remarks)
    if not kept:
        why = f"{wanted[damaged[0]]}{reason}" if damaged else f"{too_small[0]}, which is too small"
        raise InputError(f"none of the {len(wanted)} images in {found.where} can be read, for instance {why}")
    if damaged:
        _warn(
            f"{len(damaged)} of {len(wanted)} images cannot be read and are left out", f"{wanted[damaged[0]]}{reason}"
        )
    if small:
        _warn(f"{len(small)} of {len(wanted)} images are smaller than {least} and left out", too_small[0])
    remarks = [(remark, wanted[i]) for i in kept for remark in looks[i].remarks]
    for remark, count in Counter(remark for remark, _ in remarks).items():
        _warn(
            f"{count} of {len(wanted)} images {remark}", str(next(entry for text, entry in remarks if text == remark))
        )
    digest = hashlib.sha256(json.dumps([found.classes, resolution or shapes.sizes, shapes.margin]).encode())
    for i in kept:
        digest.update(f"{wanted[i].label} {looks[i].digest}\n".encode())
    files = [wanted[i] for i in kept]
    shards = Counter(entry.file for entry in files if entry.size >= 0)
    if shards:  # the order of training depends on them
        digest.update(json.dumps([*shards.values()]).encode())
    pictures = [look.picture for i in kept if (look := looks[i]).picture is not None]
    return ImageData(
        pictures=InMemory(pictures, resolution) if fits else OnDemand(_decoder(files, shapes), resolution),
        labels=torch.tensor([entry.label for entry in files]),
        classes=found.classes,
        split=split,
        names=[entry.name for entry in files],
        hash=digest.hexdigest(),
        style_labels=torch.zeros(len(files), dtype=torch.int64),
        styles=[],
        unreadable=tuple(str(wanted[i]) for i in damaged),
        groups=tuple(shards.values()),
        too_small=tuple(str(wanted[i]) for i in small),
        split_by=found.split,
        passed_over=found.passed_over,
        notes=found.notes,
        captions=tuple(entry.captions for entry in files if entry.captions is not None) or None,
        shapes=() if resolution else shapes.sizes,
        shape_labels=torch.tensor([shapes.place(looks[i].width, looks[i].height) for i in kept]),
    )


def _warn(sentence: str, example: str) -> None:
    warnings.warn(f"{sentence}, for instance {example}", stacklevel=3)


def _decoder(files: list[Place], shapes: Shapes) -> Callable[[int], Tensor]:
    def picture_of(row: int) -> Tensor:
        picture = decode(files[row].read())
        if picture is None or not shapes.fit(*picture.size):
            raise InputError(f"the image {files[row]} changed after the set was looked through; start again")
        return resize(picture, shapes)

    return picture_of


def _look(entry: Place, shapes: Shapes, keep: bool) -> Look:
    content = entry.read()
    digest = hashlib.sha256(content).hexdigest()
    try:
        picture, remarks = decoding.decode(content)
    except decoding.DAMAGE as error:
        return Look(digest, 0, 0, (decoding.reason(error),))
    kept = resize(picture, shapes) if keep and shapes.fit(*picture.size) else None
    return Look(digest, *picture.size, remarks, kept)


def _fresh_looks(entries: Sequence[Place], shapes: Shapes, keep: bool = True) -> Iterator[Look]:
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(entries), CHUNK):
            yield from pool.map(lambda entry: _look(entry, shapes, keep), entries[start : start + CHUNK])


def _noted_looks(where: str, entries: Sequence[Place], shapes: Shapes) -> Iterator[Look]:
    """Looks without pictures, those of earlier runs where the files have not changed; new ones are noted at once."""
    note = cache_file("looks", in_utf8(str(Path(where).absolute())), ".jsonl")
    known = {} if note is None else dict(_noted(note))
    stamps = {file: _stamp(file) for file in {entry.file for entry in entries}}
    for start in range(0, len(entries), CHUNK):
        part = entries[start : start + CHUNK]
        keys = [(str(entry.file), entry.offset, *stamps[entry.file]) for entry in part]
        fresh = _fresh_looks([e for e, key in zip(part, keys, strict=True) if key not in known], shapes, False)
        lines = []
        try:
            for key in keys:
                if key not in known:
                    known[key] = next(fresh)
                    lines.append(json.dumps([*key, *known[key][:4]]) + "\n")
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
                file, offset, size, changed, digest, width, height, remarks = json.loads(line)
                yield (file, offset, size, changed), Look(digest, width, height, tuple(remarks))
            except (ValueError, TypeError, RecursionError):
                continue


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of the last change, by which a file that is another one now is known."""
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
