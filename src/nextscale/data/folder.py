"""Finding the images of a data set: a built emoji set, shards, or any folder of images."""

from __future__ import annotations

from pathlib import Path

from nextscale.data.emoji_reader import load_emoji, read_description
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
from nextscale.data.images import ImageData, check_split, existing_folder
from nextscale.data.pictures import SUFFIXES
from nextscale.data.shards import load_shards, shards_of
from nextscale.errors import InputError

__all__ = ["ImageData", "load_data", "load_folder"]

HELD_OUT = 0.1


def load_data(
    path: Path | str,
    resolution: int,
    split: str = "train",
    memory: int | None = None,
    progress: Progress | None = None,
) -> ImageData:
    """Read a data set: an emoji set where the folder holds ``dataset.json``, shards where there are some, else images.

    Args:
        path: a folder, or shards like ``shards/{000..010}.tar``.
        split: ``train``, ``heldout`` or ``all``.
        memory, progress: see ``read_entries``.

    Raises:
        InputError: as ``load_emoji``, ``load_shards`` and ``load_folder``; also an emoji set drawn at another
            resolution.
    """
    shards = shards_of(path)
    if shards:
        return load_shards(path, shards, resolution, split, HELD_OUT, memory, progress)
    folder = existing_folder(path)
    if not (folder / "dataset.json").exists():
        return load_folder(folder, resolution, split, HELD_OUT, memory, progress)
    drawn = read_description(folder)["recipe"]["resolution"]
    if drawn != resolution:
        raise InputError(
            f"the emoji set {folder} is drawn at {drawn} pixels; expected {resolution}: "
            f"build another with --resolution {resolution}"
        )
    return load_emoji(folder, split)


def load_folder(
    folder: Path | str,
    resolution: int,
    split: str = "train",
    held_out: float = HELD_OUT,
    memory: int | None = None,
    progress: Progress | None = None,
) -> ImageData:
    """Read a folder of images: one sub-folder per class (ImageNet's layout), or all images in one folder (one class).

    Where the folder has ``train`` and ``val`` sub-folders (or ``valid``, ``validation``, ``test``) these are the
    splits; elsewhere the share ``held_out`` of the images, chosen by a hash of their paths, is held out. A folder of
    nothing but ``train`` with class folders is read as if ``train`` were given. Near copies on both sides are not
    looked for. What begins with a dot is passed over.

    The shorter side is resized to 1.125 times the resolution (Lanczos), then a square is cropped; transparency is
    put on white. Damaged files are left out, listed in ``unreadable``, and warned about with their number.

    Args:
        resolution: height and width of the result.
        split: ``train``, ``heldout`` or ``all``.
        held_out: from 0 to below 1.
        memory, progress: see ``read_entries``.

    Raises:
        InputError: no folder, no image in it, several folders that could be held out, or images smaller than the
            resolution.
    """
    check_split(split)
    if not 0 <= held_out < 1:
        raise InputError(f"held_out is {held_out}; expected a share from 0 to below 1")
    folder = existing_folder(folder)
    found = _listing(folder, held_out)
    parents = folders_as_classes([within for _, within, _ in found], str(folder), plain(folder.resolve().name))
    classes = sorted(set(parents))
    number = {name: i for i, name in enumerate(classes)}
    entries = [
        Entry(plain(path.relative_to(folder).as_posix()), side, number[parent], path)
        for (path, _, side), parent in zip(found, parents, strict=True)
    ]
    return read_entries(str(folder), entries, classes, resolution, split, memory, progress)


def _listing(folder: Path, held_out: float) -> list[tuple[Path, str, str]]:
    """Every image file below ``folder``: where it is, its path within its side, and its side, in a fixed order."""
    sides = sides_of([name for name in ("train", *HELD_OUT_FOLDERS) if (folder / name).is_dir()], str(folder))
    if sides:
        listing = [(path, name, side) for place, side in sides.items() for path, name in _image_files(folder / place)]
    else:
        images = _image_files(folder)
        if all(name.startswith("train/") for _, name in images) and any(name.count("/") > 1 for _, name in images):
            images = [(path, name.removeprefix("train/")) for path, name in images]
        listing = [(path, name, side_of(name, held_out)) for path, name in images]
    if not listing:
        raise InputError(
            f"{folder} holds no image; expected {', '.join(sorted(SUFFIXES))} files, class folders of them, "
            "or .tar shards"
        )
    return listing


def _image_files(root: Path) -> list[tuple[Path, str]]:
    """Every image below ``root`` and its path within it; nothing hidden, and nothing in a hidden folder."""
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    named = [(path, plain(path.relative_to(root).as_posix())) for path in found]
    return [(path, name) for path, name in named if "/." not in f"/{name}" and path.is_file()]
