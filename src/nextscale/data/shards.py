"""WebDataset shards: plain .tar files of images, with their classes beside them or as folders.

A shard is not streamed: where each image lies is noted once, and images are then read from any place in any order. So
the order of training is ours, a function of seed and epoch, and resuming needs no more than the number of the step.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nextscale.data.cache import cache_file
from nextscale.data.entries import (
    HELD_OUT_FOLDERS,
    Entry,
    Progress,
    folders_as_classes,
    plain,
    read_entries,
    side_of,
    sides_of,
)
from nextscale.data.images import ImageData, check_split
from nextscale.data.pictures import SUFFIXES
from nextscale.errors import InputError

INDEX_VERSION = 2
MOST_CLASSES = 100_000  # that ids in .cls files may mean without a list of names
LONGEST_END = tarfile.BLOCKSIZE + tarfile.RECORDSIZE  # two zero blocks, and zeros up to a whole record


class Member(NamedTuple):
    """One image of a shard: its path in it, its place in bytes, and what its ``.cls`` file says, if it has one."""

    name: str
    offset: int
    size: int
    label: str | None


def shards_of(path: Path | str) -> list[Path]:
    """The shards that ``path`` means: ``shards/{000..010}.tar``, one .tar file, or those in a folder, in order.

    A folder may hold them in ``train`` and ``val`` sub-folders (see ``sides_of``). The list is empty where ``path``
    means no shards.

    Raises:
        InputError: a shard that is named does not exist.
    """
    if "{" not in str(path) and not str(path).endswith(".tar"):
        places = [Path(path) / name for name in (".", "train", *HELD_OUT_FOLDERS)]
        return sorted(shard for place in places for shard in place.glob("*.tar") if not shard.name.startswith("."))
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
    shards are the classes. Shards in folders called ``train`` and ``val`` are the splits (see ``sides_of``).

    Raises:
        InputError: a shard is damaged or compressed, no image, classes that cannot be, or images smaller than the
            resolution.
    """
    check_split(split)
    sides = sides_of({shard.parent.name for shard in shards}, str(where))
    if sides:
        shards = [shard for shard in shards if shard.parent.name in sides or shard.parent.name != "test"]
    official = sides.keys() == {shard.parent.name for shard in shards}
    members = [(shard, member) for shard in shards for member in index(shard)]
    if not members:
        raise InputError(
            f"the {len(shards)} shards {where} hold no image; expected {', '.join(sorted(SUFFIXES))}, directly behind "
            "the first dot of a name"
        )
    first = next((shard for shard in shards if official and shard.parent.name == "train"), shards[0])
    classes, labels = _classes(str(where), first.parent, [member for _, member in members])
    entries = [
        Entry(
            name=member.name,
            side=sides[shard.parent.name] if official else side_of(member.name, held_out),
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
    note = cache_file("shards", plain(str(shard.absolute())), ".json")
    try:
        known = json.loads(note.read_text(encoding="utf-8")) if note is not None else {}
        if known["stamp"] == stamp:
            return [Member(*member) for member in known["members"]]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    members = _scan(shard)
    if note is not None:
        aside = note.with_suffix(f".tmp-{os.getpid()}")
        try:
            aside.write_text(json.dumps({"stamp": stamp, "members": members}), encoding="utf-8")
            aside.replace(note)
        except OSError:  # a full disk, say: the next run scans again
            with suppress(OSError):
                aside.unlink()
    return members


def _scan(shard: Path) -> list[Member]:
    """Read through the headers of a shard.

    A sample, which is all that shares a name up to the first dot, has one picture, whose suffix follows at that dot:
    beside 1.jpg, 1.mask.png is none.
    """
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                sample = str(path.parent / path.name.split(".")[0])  # WebDataset's key: all up to the first dot
                if not member.isfile() or any(part.startswith(".") for part in path.parts):
                    continue
                if path.suffix.lower() in SUFFIXES and path.name.count(".") == 1:
                    images.setdefault(sample, (plain(str(path)), member.offset_data, member.size))
                elif path.suffix == ".cls":
                    content = archive.extractfile(member)
                    assert content is not None
                    labels[sample] = content.read().decode("utf-8", "replace").strip()
            archive.fileobj.seek(archive.offset)
            _check_end(archive.fileobj.read(LONGEST_END + tarfile.BLOCKSIZE))
    except (OSError, ValueError, tarfile.TarError) as error:
        raise InputError(
            f"the shard {plain(str(shard))} is damaged after {len(images)} images, or is no plain .tar file "
            f"({error}); expected one that can be read to its end"
        ) from error
    return [Member(*image, labels.get(sample)) for sample, image in images.items()]


def _check_end(rest: bytes) -> None:
    """Refuse what tarfile takes for the end of a shard and is none. ``rest``: the bytes from there on.

    Raises:
        tarfile.ReadError: it is not two blocks of zeros, filled up to a whole record at most.
    """
    if any(rest[: tarfile.BLOCKSIZE]):
        raise tarfile.ReadError("a header is damaged")
    if len(rest) < 2 * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("the two empty blocks at its end are missing")
    if any(rest):
        raise tarfile.ReadError("there is more behind its end")
    if len(rest) > LONGEST_END:
        raise tarfile.ReadError("it is filled up with zeros")


def _classes(where: str, folder: Path, members: Sequence[Member]) -> tuple[list[str], list[int]]:
    """Names of the classes in the order of their ids, and the id of each image."""
    texts = [member.label for member in members]
    if all(text is None for text in texts):
        texts = [*folders_as_classes([member.name for member in members], where, plain(folder.resolve().name))]
    known = [text for text in texts if text is not None]
    if len(known) < len(members):
        first = next(member.name for member in members if member.label is None)
        raise InputError(f"{len(members) - len(known)} images of {where} have no .cls file, for instance {first}")
    if all(text.isascii() and text.isdecimal() for text in known):
        return _numbered(where, folder / "classnames.txt", known)
    classes = sorted(set(known))
    number = {name: i for i, name in enumerate(classes)}
    return classes, [number[text] for text in known]


def _numbered(where: str, names: Path, texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Names of the classes and the id of each image, where .cls files hold ids; ``names`` is the file of names."""
    listed = _class_names(names) if names.is_file() else None
    count = MOST_CLASSES if listed is None else len(listed)
    largest = max(texts, key=lambda text: (len(text.lstrip("0")), text.lstrip("0")))
    if len(largest) > 18 or int(largest) >= count:
        shown = largest if len(largest) <= 18 else f"{largest[:18]}..."
        if listed is not None:
            raise InputError(f"{names} names {count} classes, but an image of {where} has class {shown}")
        raise InputError(f"an image of {where} has class {shown}; expected ids below {count}")
    return listed or [str(i) for i in range(int(largest) + 1)], [int(text) for text in texts]


def _class_names(file: Path) -> list[str]:
    """The lines of ``classnames.txt``."""
    try:
        listed = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); expected the name of a class a line, in UTF-8") from error
    name, times = Counter(listed).most_common(1)[0] if listed else ("", 0)
    if times > 1:
        raise InputError(f"{file} holds the name {name!r} {times} times; expected a different name for each class")
    return listed


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
