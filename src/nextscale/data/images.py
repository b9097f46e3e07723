"""What every reader returns: images in memory, with their labels, names and hash."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nextscale.errors import InputError

SPLITS = ("train", "heldout", "all")


@dataclass(frozen=True)
class ImageData:
    """Images in memory with their labels.

    ``images`` is uint8 ``(N, 3, H, W)``, ``labels`` int64 ``(N,)`` with entries below ``len(classes)``; ``names`` says
    what each image shows (an emoji's name, a file's name). ``hash`` is that of the pixels, labels and classes: equal
    hashes are equal data. ``unreadable`` lists the files that were left out because they are damaged.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: list[str]
    split: str
    names: list[str]
    hash: str
    unreadable: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)


def image_data(
    pixels: np.ndarray, labels: Sequence[int], classes: list[str], split: str, names: list[str], unreadable: list[str]
) -> ImageData:
    """Put decoded images (uint8, N 3 H W) and all that is known about them together, and hash them."""
    digest = hashlib.sha256(json.dumps([classes, list(labels)]).encode())
    digest.update(pixels.data)
    return ImageData(
        images=torch.from_numpy(pixels),
        labels=torch.tensor(labels, dtype=torch.int64),
        classes=classes,
        split=split,
        names=names,
        hash=digest.hexdigest(),
        unreadable=tuple(unreadable),
    )


def existing_folder(path: Path | str) -> Path:
    """``path`` as a folder that can be read.

    Raises:
        InputError: it is none.
    """
    folder = Path(path)
    if not folder.is_dir():
        seen = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"the data folder {folder} {seen}; expected an emoji set or a folder of images")
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
