"""WebDataset shards: plain .tar files of images, with their classes beside them or as folders.

A shard is not streamed: where each image lies is noted once, and images are then read from any place in any order. So
the order of training is ours, a function of seed and epoch, and resuming needs no more than the number of the step.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nextscale.data.cache import cache_file
from nextscale.data.entries import Entry, Progress, folders_as_classes, read_entries, side_of
from nextscale.data.images import ImageData, check_split
from nextscale.data.pictures import SUFFIXES
from nextscale.errors import InputError

INDEX_VERSION = 1
SIDES = {"train": "train", "val": "heldout"}


class Member(NamedTuple):
    """One image of a shard: its path in it, its place in bytes, and what its ``.cls`` file says, if it has one."""

    name: str
    offset: int
    size: int
    label: str | None


def shards_of(path: Path | str) -> list[Path]:
    """The shards that ``path`` means: ``shards/{000..010}.tar``, one .tar file, or those in a folder, in order.

    A folder may hold them in ``train`` and ``val`` sub-folders. The list is empty where ``path`` means no shards.

    Raises:
        InputError: a shard that is named does not exist.
    """
    if "{" not in str(path) and not str(path).endswith(".tar"):
        return sorted(shard for place in (".", *SIDES) for shard in (Path(path) / place).glob("*.tar"))
    named = [Path(text) for text in _expand(str(path))]
    missing = [shard for shard in named if not shard.is_file()]
    if missing:
        raise InputError(f"{len(missing)} of the {len(named)} shards {path} do not exist, for instance {missing[0]}")
    return named


def load_shards(
    where: Path | str,
    shards: Sequence[Path],
    resolution: int,
    split: str,
    held_out: float,
    memory: int | None = None,
    progress: Progress | None = None,
) -> ImageData:
    """The images of ``shards``, prepared and split like those of a folder (see ``load_folder``).

    An image's class is what the .cls file of the same name says: a class name, or an id, in which case names are taken
    from ``classnames.txt`` beside the shards where it exists (a name a line). Without .cls files the folders in the
    shards are the classes. Shards in folders called ``train`` and ``val`` are the splits.

    Raises:
        InputError: a shard is damaged or compressed, no image, classes that cannot be, or images smaller than the
            resolution.
    """
    check_split(split)
    members = [(shard, member) for shard in shards for member in index(shard)]
    if not members:
        raise InputError(f"the {len(shards)} shards {where} hold no image; expected {', '.join(sorted(SUFFIXES))}")
    classes, labels = _classes(str(where), shards[0].parent, [member for _, member in members])
    official = {shard.parent.name for shard in shards} == set(SIDES)
    entries = [
        Entry(
            name=member.name,
            side=SIDES[shard.parent.name] if official else side_of(member.name, held_out),
            label=label,
            file=shard,
            offset=member.offset,
            size=member.size,
        )
        for (shard, member), label in zip(members, labels, strict=True)
    ]
    return read_entries(str(where), entries, classes, resolution, split, memory, progress)


def index(shard: Path) -> list[Member]:
    """The images of a shard, in its order, as noted in the cache folder, where the shard is still the same file.

    Raises:
        InputError: the shard is compressed, damaged or no tar file.
    """
    seen = shard.stat()
    stamp = [INDEX_VERSION, str(shard.absolute()), seen.st_size, seen.st_mtime_ns]
    note = cache_file("shards", str(shard.absolute()), ".json")
    try:
        known = json.loads(note.read_text(encoding="utf-8")) if note is not None else {}
        if known["stamp"] == stamp:
            return [Member(*member) for member in known["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    members = _scan(shard)
    if note is not None:
        aside = note.with_suffix(f".tmp-{os.getpid()}")
        aside.write_text(json.dumps({"stamp": stamp, "members": members}), encoding="utf-8")
        aside.replace(note)
    return members


def _scan(shard: Path) -> list[Member]:
    """Read through the headers of a shard."""
    images: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                sample = str(path.parent / path.name.split(".")[0])  # WebDataset's key: all up to the first dot
                if not member.isfile() or path.name.startswith("."):
                    continue
                if path.suffix.lower() in SUFFIXES:
                    images[sample].append((str(path), member.offset_data, member.size))
                elif path.suffix == ".cls":
                    content = archive.extractfile(member)
                    assert content is not None
                    labels[sample] = content.read().decode("utf-8", "replace").strip()
            archive.fileobj.seek(archive.offset)
            if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError("a header is damaged")  # tarfile takes it for the end
    except (OSError, tarfile.TarError) as error:
        count = sum(map(len, images.values()))
        raise InputError(
            f"the shard {shard} is damaged after {count} images, or is no plain .tar file ({error}); expected one that "
            "can be read to its end"
        ) from error
    for sample in labels.keys() & images.keys():  # beside 1.cls, 1.jpg is the picture and 1.mask.png is none
        plain = [image for image in images[sample] if PurePosixPath(image[0]).name.count(".") == 1]
        images[sample] = plain or images[sample]
    return [Member(*image, labels.get(sample)) for sample, found in images.items() for image in found]


def _classes(where: str, folder: Path, members: Sequence[Member]) -> tuple[list[str], list[int]]:
    """Names of the classes in the order of their ids, and the id of each image."""
    texts = [member.label for member in members]
    if all(text is None for text in texts):
        texts = [*folders_as_classes([member.name for member in members], where, folder.resolve().name)]
    known = [text for text in texts if text is not None]
    if len(known) < len(members):
        first = next(member.name for member in members if member.label is None)
        raise InputError(f"{len(members) - len(known)} images of {where} have no .cls file, for instance {first}")
    names = folder / "classnames.txt"
    if all(text.isdecimal() for text in known):
        largest = max(int(text) for text in known)
        listed = names.read_text(encoding="utf-8").splitlines() if names.is_file() else []
        if names.is_file() and largest >= len(listed):
            raise InputError(f"{names} names {len(listed)} classes, but an image of {where} has class {largest}")
        return listed or [str(i) for i in range(largest + 1)], [int(text) for text in known]
    classes = sorted(set(known))
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[text] for text in known]


def _expand(text: str) -> list[str]:
    """``{000..010}`` and ``{a,b}`` written out, as a shell does."""
    braces = re.search(r"\{([^{}]*)\}", text)
    if braces is None:
        return [text]
    inside = braces[1]
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if numbers is not None:
        first, last = numbers.groups()
        words = [f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    else:
        words = inside.split(",")
    return [full for word in words for full in _expand(text[: braces.start()] + word + text[braces.end() :])]
