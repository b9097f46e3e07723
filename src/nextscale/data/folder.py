"""Finding the images of a data set: a built emoji set, shards, or any folder of images."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from nextscale.data.caption_files import Told, listed_images, read_captions
from nextscale.data.emoji_reader import holds_emoji, load_emoji, read_description
from nextscale.data.entries import Place, Progress, Set, read_entries
from nextscale.data.found import PICTURES, Found, composed, in_utf8, look_into
from nextscale.data.images import ImageData, check_split, existing_folder
from nextscale.data.labels import all_numbers, doubts, folders_as_classes, named, numbered, some
from nextscale.data.pictures import Shapes
from nextscale.data.shards import load_shards, shards_of
from nextscale.data.sides import TRAIN, check_no_split, side_of, side_word, sides_of, split_by_hash, words_for_sides
from nextscale.data.tables import Labels, read_labels
from nextscale.errors import InputError
from nextscale.scales import Size

__all__ = ["ImageData", "load_data", "load_folder"]

HELD_OUT = 0.1


class Image(NamedTuple):
    """Where an image is, its path within the set, its path within its side, and its side."""

    path: Path
    name: str
    within: str
    side: str


def load_data(
    path: Path | str,
    resolution: int | None,
    split: str = "train",
    memory: int | None = None,
    progress: Progress | None = None,
    skip_small: bool = False,
    captions: bool = False,
    shapes: Sequence[Size] | None = None,
) -> ImageData:
    """Read a data set: an emoji set where the folder holds one, shards where there are some, else images.

    Args:
        path: a folder, or shards like ``shards/{000..010}.tar``.
        resolution: height and width of the images, which are cropped to squares; None where ``shapes`` are given.
        split: ``train``, ``heldout`` or ``all``.
        memory, progress, skip_small: see ``read_entries``.
        captions: whether to read captions, too (see ``caption_files``). Classes, order and hash are the same with and
            without them, but an emoji set is split in another way (see ``load_emoji``).
        shapes: sizes (height, width) in pixels; every image is cropped to the one whose height / width is nearest to
            its own.

    Raises:
        InputError: as ``load_emoji``, ``load_shards`` and ``load_folder``; also an emoji set drawn at another
            resolution.
    """
    wanted, shards = Shapes.of(resolution, shapes), shards_of(path)
    if shards:
        return load_shards(path, shards, wanted, split, HELD_OUT, memory, progress, skip_small, captions)
    folder = existing_folder(path)
    if not holds_emoji(folder):
        return load_folder(folder, resolution, split, HELD_OUT, memory, progress, skip_small, captions, shapes)
    drawn, place = read_description(folder)["recipe"]["resolution"], wanted.place(1, 1)
    if wanted.sizes[place] != (drawn, drawn):
        height, width = wanted.sizes[place]
        expected = (
            f"{height}" if height == width else f"a square among the shapes, but the nearest is {height} x {width}"
        )
        raise InputError(
            f"the emoji set {folder} is drawn at {drawn} pixels; expected {expected}: "
            f"build another with --resolution {height}"
        )
    data = load_emoji(folder, split, captions=captions)
    if wanted.resolution is None:
        return replace(data, shapes=wanted.sizes, shape_labels=torch.full((len(data),), place))
    return data


def load_folder(
    folder: Path | str,
    resolution: int | None,
    split: str = "train",
    held_out: float = HELD_OUT,
    memory: int | None = None,
    progress: Progress | None = None,
    skip_small: bool = False,
    captions: bool = False,
    shapes: Sequence[Size] | None = None,
) -> ImageData:
    """Read a folder of images: one sub-folder per class (ImageNet's layout), or all images in one folder (one class).

    Where a ``metadata.jsonl`` or ``metadata.csv`` gives files labels (see ``read_labels``), these are the classes.
    Where the folder has ``train`` and ``val`` sub-folders (or others of a usual name, see ``side_word``) these are the
    splits; elsewhere the share ``held_out`` of the images, chosen by a hash of their paths, is held out. A folder of
    nothing but ``train`` with class folders is read as if ``train`` were given. Near copies on both sides are not
    looked for. Links are followed. What begins with a dot is passed over; whatever is, ``passed_over`` counts. A folder
    without images, but with lists of some (see ``caption_files``), holds the images that they name, as one class.

    The shorter side is resized to 1.125 times the resolution (Lanczos), then a square is cropped; transparency is
    put on white. Damaged files are left out, listed in ``unreadable``, and warned about with their number.

    Args:
        resolution, captions, shapes: see ``load_data``.
        split: ``train``, ``heldout`` or ``all``.
        held_out: from 0 to below 1.
        memory, progress, skip_small: see ``read_entries``.

    Raises:
        InputError: no folder, no image in it, folders that look like a split and cannot be one, a table of labels that
            cannot be used, images smaller than the resolution or their shape, or captions that cannot be or are missing
            for some images only.
    """
    check_split(split)
    if not 0 <= held_out < 1:
        raise InputError(f"held_out is {held_out}; expected a share from 0 to below 1")
    folder = existing_folder(folder)
    wanted = Shapes.of(resolution, shapes)
    return read_entries(_found_set(folder, held_out, captions), wanted, split, memory, progress, skip_small)


def _found_set(folder: Path, held_out: float, captions: bool) -> Set:
    """All that can be known of the set in ``folder`` before an image is read."""
    where, found = in_utf8(str(folder)), look_into(folder, captions=captions)
    if not found.images and not captions:
        found = look_into(folder, captions=True)
    if not found.images and not found.lists:
        raise InputError(
            f"{where} holds no image that can be read; expected {PICTURES}, class folders of them, or .tar shards; "
            f"passed over: {found.passed_over}"
        )
    sides = sides_of([path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."], where)
    if not found.images:
        images, notes = _listed(found, sides, where, held_out)
        split = f"the folders {' and '.join(sides)}" if sides else split_by_hash(held_out)
    elif sides:
        images, split, notes = _on_their_sides(found, sides, where), f"the folders {' and '.join(sides)}", []
    else:
        check_no_split(_folders_of(found), where)
        images, split, notes = _by_hash(found, held_out), split_by_hash(held_out), _doubts(found, where)
    told = read_captions(found, [(image.path, image.name) for image in images]) if captions else Told()
    labels = read_labels(found.tables, [image.name for image in images], told.paths)
    images, classes, ids = _classes(folder, images, labels, told)
    if not labels.of and not told.of and any("/" in image.within for image in images):
        notes += _without_images([folder / side for side in sides] or [folder], classes)
    notes += [*labels.notes, *_labelled(labels, images, classes), *found.passed_over.doubts()]
    notes += [note for note in told.notes if note not in notes]
    notes += doubts(classes, ids, [image.side for image in images])
    entries = [
        Place(image.name, image.side, label, image.path, captions=told.captions(image.name))
        for image, label in zip(images, ids, strict=True)
    ]
    return Set(where, entries, classes, split, not sides and held_out > 0, found.passed_over, tuple(notes))


def _on_their_sides(found: Found, sides: dict[str, str], where: str) -> list[Image]:
    """The images in the folders that are sides; others, and tables beside them, are passed over."""
    images = [
        Image(path, name, name.removeprefix(f"{folder}/"), side)
        for folder, side in sides.items()
        for path, name in found.images
        if name.startswith(f"{folder}/")
    ]
    others = [name for _, name in found.images if name.split("/")[0] not in sides]
    classes = {name.split("/")[0] for name in others if "/" in name and side_word(name.split("/")[0]) is None}
    if classes and not any("/" in image.within for image in images):
        raise InputError(
            f"{where} holds the folders {' and '.join(sides)}, which look like a split, beside "
            f"{', '.join(sorted(classes)[:3])}, which look like classes; expected one of the two: move the others "
            "elsewhere, or rename the classes that look like a split"
        )
    for name in others:
        found.passed_over.add(f"in {name.split('/')[0]}/" if "/" in name else "beside the split", name)
    found.tables, found.lists = (
        [(path, name) for path, name in tables if "/" not in name or name.split("/")[0] in sides]
        for tables in (found.tables, found.lists)
    )
    return images


def _listed(found: Found, sides: dict[str, str], where: str, held_out: float) -> tuple[list[Image], list[str]]:
    """The images that lists name, each on the side of its list, and what people should know."""
    lists = [(path, name) for path, name in found.lists if not sides or name.split("/")[0] in sides]
    for _, name in set(found.lists) - set(lists):
        found.passed_over.add(f"in {name.split('/')[0]}/" if "/" in name else "beside the split", name)
    found.lists = lists
    if not lists:
        raise InputError(
            f"{where} holds lists of images beside the folders {' and '.join(sides)}, and none in them; expected one "
            "in each"
        )
    images, notes = listed_images(lists)
    return [
        Image(path, name, posixpath.basename(name), sides[at.split("/")[0]] if sides else side_of(name, held_out))
        for path, name, at in images
    ], notes


def _by_hash(found: Found, held_out: float) -> list[Image]:
    """All images, each on the side that the hash of its path decides."""
    tops = {name.split("/")[0] for _, name in found.images}
    alone = tops.pop() if len(tops) == 1 else ""
    around = ""
    if side_word(alone) in TRAIN and any(name.count("/") > 1 for _, name in found.images):
        around = f"{alone}/"
    within = [name.removeprefix(around) for _, name in found.images]
    return [
        Image(path, name, short, side_of(short, held_out))
        for (path, name), short in zip(found.images, within, strict=True)
    ]


def _folders_of(found: Found) -> dict[str, set[str]]:
    """The folders with images, each with the names of the folders with images in it."""
    folders: dict[str, set[str]] = {}
    for _, name in found.images:
        top, *inside = name.split("/")[:-1] or [""]
        folders.setdefault(top, set()).update(inside[:1])
    folders.pop("", None)
    return folders


def _doubts(found: Found, where: str) -> list[str]:
    """What a person may have meant otherwise, where folders are read as classes."""
    folders = _folders_of(found)
    speaking = [name for name in folders if words_for_sides(name)]
    if len(folders) > 1 and speaking:
        others = [name for name in folders if name not in speaking]
        beside = f" beside {some(others)}" if others else ""
        return [f"{some(speaking)} in {where} may name a split, but {_are(speaking)}{beside}; expected train and val"]
    times = Counter(name for inside in folders.values() for name in inside)
    shared = sorted(name for name, count in times.items() if count > 1)
    if len(shared) > 1:  # one alone is rather an "images" in every class
        alike = [name for name, inside in folders.items() if inside & set(shared)]
        return [
            f"{some(alike)} in {where} are read as classes, though {some(shared)} are folders in more than one of "
            "them; if they are a split, rename them to train and val"
        ]
    alone = next(iter(folders), "")
    if len(folders) == 1 and len(folders[alone]) > 1 and side_word(alone) not in TRAIN:
        shown = some(sorted(folders[alone]))
        return [
            f"all images are in {where}/{alone}, so they are one class; give that folder to have the classes {shown}"
        ]
    return []


def _are(names: Sequence[str]) -> str:
    return "is read as a class" if len(names) == 1 else "are read as classes"


def _without_images(places: Sequence[Path], classes: Sequence[str]) -> list[str]:
    """Says which folders among those of classes hold no image."""
    folders = {composed(in_utf8(path.name)) for place in places for path in place.iterdir() if path.is_dir()}
    empty = sorted(name for name in folders - set(classes) if name[0] != "." and side_word(name) not in TRAIN)
    return [f"no image is read in {some(empty)}, so there is no such class"] if empty else []


def _labelled(labels: Labels, images: Sequence[Image], classes: Sequence[str]) -> list[str]:
    """Where the classes come from, if that is a table, and what they are not."""
    folders = sorted({image.within.split("/")[0] for image in images if "/" in image.within})
    instead = f", not the folders {some(folders)}" if len(folders) > 1 and folders != sorted(classes) else ""
    return [
        f"labels are the column {column} of {first}{f' and {len(more)} more tables' if more else ''}{instead}"
        for column, (first, *more) in labels.used.items()
    ]


def _classes(folder: Path, images: list[Image], labels: Labels, told: Told) -> tuple[list[Image], list[str], list[int]]:
    """The images with a class, the names of the classes, and the id of each image."""
    where = in_utf8(str(folder))
    if not labels.of:
        alone, within = in_utf8(folder.resolve().name), [image.within for image in images]
        if told.of and len({"/" in path for path in within}) > 1:  # captions need no classes
            within = [path.replace("/", "-") for path in within]
        return images, *named(folders_as_classes(within, where, alone))
    kept = [image for image in images if image.name in labels.of]
    if len(kept) < len(images):
        first = next(image.name for image in images if image.name not in labels.of)
        labels.notes.append(
            f"{len(images) - len(kept)} of {len(images)} images have no label in a table and are left out, for "
            f"instance {first}"
        )
    texts = [labels.of[image.name] for image in kept]
    return kept, *(numbered(where, folder / "classnames.txt", texts) if all_numbers(texts) else named(texts))
