"""WebDataset shards: plain .tar files of images, with their classes beside them or as folders.

A shard is not streamed: where each image lies is noted once, and images are then read from any place in any order. So
the order of training is ours, a function of seed and epoch, and resuming needs no more than the number of the step.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from nextscale.data.cache import cache_file
from nextscale.data.caption_files import Told, json_captions, text_captions
from nextscale.data.entries import Place, Progress, Set, read_entries
from nextscale.data.found import HIDDEN, PICTURES, PassedOver, composed, in_utf8, look_into
from nextscale.data.images import ImageData, check_split
from nextscale.data.labels import all_numbers, doubts, folders_as_classes, named, numbered
from nextscale.data.pictures import Shapes
from nextscale.data.sides import TRAIN, side_of, side_word, sides_of, split_by_hash, words_for_sides
from nextscale.decoding import suffixes
from nextscale.errors import InputError, quoted
from nextscale.files import write_text

INDEX_VERSION = 4
MOST_SHARDS = 100_000
LONGEST_LABEL = 10_000  # bytes of a .cls file that are read
LONGEST_END = tarfile.BLOCKSIZE + tarfile.RECORDSIZE  # two zero blocks, and zeros up to a whole record
USUAL = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
"""Suffixes that are a sample's picture rather than others beside it (a depth.pfm, an icon)."""
NAMES = "classnames.txt"
CAPTIONS = {".txt": text_captions, ".json": json_captions}


class Member(NamedTuple):
    """One image of a shard: its path in it, its place in bytes, what its ``.cls`` file says, if it has one, and name,
    offset and size of each file in which it may have a caption.
    """

    name: str
    offset: int
    size: int
    label: str | None
    texts: Sequence[tuple[str, int, int]] = ()


def shards_of(path: Path | str) -> list[Path]:
    """The shards that ``path`` means: ``shards/{000..010}.tar``, one .tar file, or those in a folder, in order.

    A folder may hold them in ``train`` and ``val`` sub-folders (see ``sides_of``). The list is empty where ``path``
    means no shards.

    Raises:
        InputError: a shard that is named does not exist, or more are named than there can be.
    """
    folder = Path(path)
    if os.path.isdir(path):
        try:
            places = [folder, *(place for place in folder.iterdir() if side_word(place.name) and place.is_dir())]
            found = [shard for place in places for shard in place.iterdir() if shard.suffix.lower() == ".tar"]
        except OSError:  # whoever reads the folder says so
            return []
        return sorted(shard for shard in found if shard.name[0] != "." and shard.is_file())
    if "{" not in str(path) and not str(path).lower().endswith(".tar"):
        return []
    try:
        names = list(islice(_expand(str(path)), MOST_SHARDS + 1))
    except RecursionError:  # more braces than the most
        names = []
    if not names or len(names) > MOST_SHARDS:
        raise InputError(f"{quoted(str(path))} means more than {MOST_SHARDS} shards; expected fewer")
    named = [Path(text) for text in dict.fromkeys(names)]
    missing = [shard for shard in named if not os.path.isfile(shard)]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(named)} shards {str(path)[:500]} do not exist, for instance "
            f"{str(missing[0])[:500]}"
        )
    return named


def load_shards(
    where: Path | str,
    shards: Sequence[Path],
    shapes: Shapes,
    split: str,
    held_out: float,
    memory: int | None = None,
    progress: Progress | None = None,
    skip_small: bool = False,
    captions: bool = False,
) -> ImageData:
    """The images of ``shards``, prepared and split like those of a folder (see ``load_folder``).

    An image's class is what the .cls file of the same name says: a class name, or an id, in which case names are taken
    from ``classnames.txt`` beside the shards where it exists (a name a line). Without .cls files the folders in the
    shards are the classes. Shards in folders called ``train`` and ``val``, or with such a word in each of their names,
    are the splits (see ``sides_of``).

    An image's captions, where they are asked for, are what the .txt file of the same name says, or "text" (or
    "caption", ...) and "long_caption" in its .json file.

    Raises:
        InputError: a shard is damaged or compressed, no image, classes that cannot be, sides that cannot be told apart,
            images smaller than their shape, or captions that cannot be or are missing for some images only.
    """
    check_split(split)
    shown, passed_over = in_utf8(str(where)), _beside(Path(where), shards)
    sides, split_by = _sides(shown, shards, passed_over)
    shards = [shard for shard in shards if not sides or shard in sides]
    members, told, kinds = [], Told(), set[str]()
    for shard in shards:
        images, rest, apart = _noted(shard)
        members += [(shard, member) for member in images]
        passed_over.update(apart if captions else rest)
        if captions:
            kinds |= _read_captions(shard, images, told)
    if not members:
        raise InputError(
            f"the {len(shards)} shards {shown} hold no image; expected {PICTURES}, directly behind the first dot "
            f"of a name; passed over: {passed_over}"
        )
    first = next((shard for shard in shards if sides.get(shard) == "train"), shards[0])
    names = next((file for file in (first.with_name(NAMES), Path(where) / NAMES) if file.is_file()), None)
    classes, labels = _classes(shown, first.parent, names, [member for _, member in members])
    entries = [
        Place(
            name=member.name,
            side=sides[shard] if sides else side_of(member.name, held_out),
            label=label,
            file=shard,
            offset=member.offset,
            size=member.size,
            captions=told.captions(in_utf8(f"{shard}: {member.name}")),
        )
        for (shard, member), label in zip(members, labels, strict=True)
    ]
    notes = _doubts(passed_over, members[0][1].label, names, bool(kinds))
    notes += doubts(classes, labels, [entry.side for entry in entries])
    notes += [f"captions are in {' and '.join(sorted(kinds))} files in the shards"] if kinds else []
    found = Set(shown, entries, classes, split_by or split_by_hash(held_out), not sides, passed_over, tuple(notes))
    return read_entries(found, shapes, split, memory, progress, skip_small)


def _read_captions(shard: Path, members: Sequence[Member], told: Told) -> set[str]:
    """Add the captions of the images of a shard, whose names are as in messages; the suffixes of files with some."""
    kinds = set()
    with shard.open("rb") as file:
        for member in members:
            for name, offset, size in member.texts:
                file.seek(offset)
                where = in_utf8(f"{shard}: {name}")
                kind = PurePosixPath(name).suffix.lower()
                captions = CAPTIONS[kind](file.read(size), where)
                told.add(in_utf8(f"{shard}: {member.name}"), captions, where)
                kinds |= {kind} if captions is not None else set()
    return kinds


def _sides(where: str, shards: Sequence[Path], passed_over: PassedOver) -> tuple[dict[Path, str], str]:
    """The side of each shard that is read, by the names of their folders or else by their own, and how it was told,
    for people; both empty where hashes decide.
    """
    folders = sides_of({shard.parent.name for shard in shards}, where)
    if folders:
        outside = [shard for shard in shards if shard.parent.name not in folders]
        for shard in outside:
            if side_word(shard.parent.name) is None:
                raise InputError(
                    f"{where} holds shards in the folders {' and '.join(folders)}, which are a split, and outside of "
                    f"them, such as {shard}; expected one of the two"
                )
            passed_over.add(f"in {shard.parent.name}/", str(shard))
        sides = {shard: folders[shard.parent.name] for shard in shards if shard.parent.name in folders}
        return sides, f"the folders {' and '.join(folders)}"
    held_out = [shard for shard in shards if side_word(shard.parent.name) not in (None, *TRAIN)]
    others = [shard for shard in shards if side_word(shard.parent.name) in (None, *TRAIN)]
    if held_out and others:
        raise InputError(
            f"{where} holds shards in {held_out[0].parent.name}, which look held out, and others such as {others[0]}; "
            "expected those to train on in a folder train"
        )
    words = {shard: set(words_for_sides(shard.stem)) for shard in shards}
    known = sides_of(set().union(*words.values()), where)
    if not known:
        return {}, ""
    unclear = [shard for shard in shards if len(words[shard]) != 1]
    if unclear:
        raise InputError(
            f"the names of some shards of {where} say {' and '.join(known)}, but that of {unclear[0].name} says "
            f"{' and '.join(sorted(words[unclear[0]])) or 'neither'}; expected one of them in each name"
        )
    word = {shard: one for shard, (one,) in words.items()}
    for shard in shards:
        if word[shard] not in known:
            passed_over.add(f"of {word[shard]}", str(shard))
    return {s: known[word[s]] for s in shards if word[s] in known}, f"the words {' and '.join(known)} in their names"


def _beside(where: Path, shards: Sequence[Path]) -> PassedOver:
    """What else lies in a folder of shards."""
    if not where.is_dir():
        return PassedOver()
    found = look_into(where, {where / NAMES, *shards, *(shard.with_name(NAMES) for shard in shards)})
    for name in (name for _, name in [*found.images, *found.tables]):
        found.passed_over.add_file(name)
    return found.passed_over


def _doubts(passed_over: PassedOver, label: str | None, names: Path | None, captions: bool) -> list[str]:
    """What looks like labels and is not used. label: what the first image's .cls file says; captions: whether other
    files have captions.
    """
    notes = passed_over.doubts()
    told = [kind for kind in (".json", ".txt") if kind in passed_over.counts]
    if label is None and told and not captions:
        notes.append(f"labels are read from .cls files or folders in the shards, not from {' or '.join(told)} files")
    if names is not None and (label is None or not all_numbers([label])):
        notes.append(f"{names} is not used: it names ids in .cls files, and there are none")
    return notes


def index(shard: Path) -> list[Member]:
    """The images of a shard, in its order, as noted in the cache folder, where the shard is still the same file.

    Raises:
        InputError: the shard is compressed, damaged or no tar file.
    """
    return _noted(shard)[0]


def _noted(shard: Path) -> tuple[list[Member], PassedOver, PassedOver]:
    """The images of a shard, what else is in it, and of that what is no file in which an image may have a caption."""
    seen = shard.stat()
    stamp = [INDEX_VERSION, str(shard.absolute()), seen.st_size, seen.st_mtime_ns, sorted(suffixes())]
    note = cache_file("shards", in_utf8(str(shard.absolute())), ".json")
    try:
        known = json.loads(note.read_text(encoding="utf-8")) if note is not None else {}
        if known["stamp"] == stamp:
            rest, apart = (PassedOver(*known[name]) for name in ("passed_over", "apart"))
            return [Member(*member) for member in known["members"]], rest, apart
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    members, rest, apart = _scan(shard)
    if note is not None:
        told = {"stamp": stamp, "members": members, "passed_over": [rest.counts, rest.first]}
        told["apart"] = [apart.counts, apart.first]
        with suppress(OSError, InputError):  # a full disk, say: the next run scans again
            write_text(note, json.dumps(told), overwrite=True)
    return members, rest, apart


def _scan(shard: Path) -> tuple[list[Member], PassedOver, PassedOver]:
    """Read through the headers of a shard.

    A sample, which is all that shares a name up to the first dot, has one picture, whose suffix follows at that dot:
    beside 1.jpg, 1.mask.png is none.
    """
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, str] = {}
    texts: dict[str, list[tuple[str, int, int]]] = {}
    rest, read = list[tuple[str, str]](), suffixes()  # names of files, and why they are passed over, if not by suffix
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                sample = str(path.parent / path.name.split(".")[0])  # WebDataset's key: all up to the first dot
                if member.isdir():
                    continue
                if not member.isfile() or any(part.startswith(".") for part in path.parts):
                    rest.append((in_utf8(member.name), HIDDEN if member.isfile() else "links and the like"))
                elif path.suffix.lower() in read and path.name.count(".") == 1:
                    image = in_utf8(str(path)), member.offset_data, member.size
                    other = images.setdefault(sample, image)
                    if other is not image and _usual(image[0]) and not _usual(other[0]):
                        images[sample], image = image, other
                    if images[sample] is not image:
                        rest.append((image[0], ""))
                elif path.suffix.lower() == ".cls":
                    content = archive.extractfile(member)
                    assert content is not None
                    labels[sample] = _label(content.read(LONGEST_LABEL))
                else:
                    rest.append((in_utf8(member.name), ""))
                    if path.suffix.lower() in CAPTIONS and path.name.count(".") == 1:
                        texts.setdefault(sample, []).append((rest[-1][0], member.offset_data, member.size))
            archive.fileobj.seek(archive.offset)
            _check_end(archive.fileobj.read(LONGEST_END + tarfile.BLOCKSIZE))
    except (OSError, ValueError, tarfile.TarError) as error:
        raise InputError(
            f"the shard {in_utf8(str(shard))} is damaged after {len(images)} images, or is no plain .tar file "
            f"({error}); expected one that can be read to its end"
        ) from error
    rest += [(f"{sample}.cls", "") for sample in sorted(labels.keys() - images.keys())]
    members = [Member(*image, labels.get(sample), texts.get(sample, ())) for sample, image in images.items()]
    ours = {name for member in members for name, _, _ in member.texts}
    return members, _counted(rest), _counted([(name, why) for name, why in rest if name not in ours])


def _counted(files: Sequence[tuple[str, str]]) -> PassedOver:
    passed_over = PassedOver()
    for name, why in files:
        if why:
            passed_over.add(why, name)
        else:
            passed_over.add_file(name)
    return passed_over


def _usual(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in USUAL


def _label(content: bytes) -> str:
    """What a .cls file says; bytes that are not UTF-8 are written out, so that different ones stay different."""
    return composed(content.decode("utf-8-sig", "backslashreplace").strip())


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


def _classes(where: str, folder: Path, names: Path | None, members: Sequence[Member]) -> tuple[list[str], list[int]]:
    """Names of the classes in the order of their ids, and the id of each image. names: the file that names ids."""
    texts = [member.label for member in members]
    if all(text is None for text in texts):
        return named(folders_as_classes([member.name for member in members], where, in_utf8(folder.resolve().name)))
    known = [text for text in texts if text is not None]
    if len(known) < len(members):
        first = next(member.name for member in members if member.label is None)
        raise InputError(f"{len(members) - len(known)} images of {where} have no .cls file, for instance {first}")
    if all_numbers(known):
        return numbered(where, names or folder / NAMES, known)
    return named(known)


def _expand(text: str) -> Iterator[str]:
    """``{000..010}`` and ``{a,b}`` written out, as a shell does."""
    braces = re.search(r"\{([^{}]*)\}", text)
    if braces is None:
        yield text
        return
    inside = braces[1]
    numbers = re.fullmatch(r"(\d{1,18})\.\.(\d{1,18})", inside)
    words: Iterator[str] = iter(inside.split(","))
    if numbers is not None:
        first, last = numbers.groups()
        if int(first) > int(last):
            raise InputError(f"shards are numbered {{{inside}}}; expected numbers upwards, like {{000..010}}")
        words = (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
    for word in words:
        yield from _expand(text[: braces.start()] + word + text[braces.end() :])
