"""Where verbs write their pictures: into a folder, under names that are free, or into the one file that was named.

Everything is checked before any work is done, and nothing of a user's is replaced unasked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextscale.cli.console import remark
from nextscale.errors import InputError
from nextscale.files import check_new, check_writable

if TYPE_CHECKING:
    from PIL import Image

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that have the names of new ones.")]
OTHER_FORMATS = frozenset({".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".pdf", ".svg"})


@dataclass
class Pictures:
    """The place that ``--out`` names: a file if it ends in .png and is no folder, else a folder."""

    out: Path
    overwrite: bool = False
    _written: set[str] = field(default_factory=set)
    _moved: list[Path] = field(default_factory=list)

    @property
    def is_file(self) -> bool:
        """Whether there is room for one picture only."""
        return self.out.suffix.lower() == ".png" and not self.out.is_dir()

    def check(self) -> None:
        """Raises ``InputError`` where nothing can be written, or what was named would have to be replaced."""
        if self.is_file or (self.out.suffix.lower() in OTHER_FORMATS and not self.out.is_dir()):
            check_picture(self.out, self.overwrite)
        else:
            check_writable(self.out)

    def check_count(self, count: int, pages: bool = False) -> None:
        """Raises ``InputError`` where several pictures, or pages of them, would go into one file."""
        if self.is_file and (count > 1 or pages):
            what = f"{count} pictures" if count > 1 else "a page beside the picture"
            raise InputError(f"--out {self.out} is one file, but {what} would be written; expected a folder")

    def save(self, image: Image.Image, stem: str, recipe: Mapping[str, Any] | None = None) -> Path:
        """Write a picture as ``stem``.png, or the next free name; only what was there before may be overwritten."""
        from nextscale.pictures import save_beside, save_png

        if self.is_file:
            return save_png(image, self.out, recipe, self.overwrite)
        wanted = self.out / f"{stem}.png"
        mine = wanted.is_file() and not wanted.is_symlink() and stem.casefold() not in self._written
        self._written.add(stem.casefold())
        if self.overwrite and mine:
            return save_png(image, wanted, recipe, overwrite=True)
        path = save_beside(image, wanted, recipe)
        if path != wanted:
            self._moved.append(path)
        return path

    def tell_moved(self) -> None:
        """Say which pictures had to take another name than usual."""
        if self._moved:
            names = [path.name for path in self._moved[:3]] + ["..."] * (len(self._moved) > 3)
            offer = "" if self.overwrite else " (--overwrite replaces files that were there)"
            remark(f"names that were taken are counted on: {', '.join(names)}{offer}")


def check_picture(path: Path, overwrite: bool) -> None:
    """As :func:`nextscale.files.check_new`; also raises ``InputError`` for the name of a picture that is no PNG."""
    if path.suffix.lower() in OTHER_FORMATS:
        raise InputError(f"{path} would be a PNG file under another format's name; expected a name that ends in .png")
    check_new(path, overwrite)


def open_viewer(path: Path) -> None:
    """Open a file or folder with the system's viewer; where that cannot be, it is said, since nothing is lost."""
    if sys.platform not in ("darwin", "win32") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        remark(f"{path} is not opened, since there is no display here")
    elif typer.launch(str(path.absolute())):
        remark(f"{path} is not opened, since this system has no viewer for it")
