"""A picture that knows how it was drawn, and says so in every PNG that it is saved as."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from nextscale.pictures import RECIPE_KEY


class DrawnImage(Image.Image):
    """A picture with its recipe. Cropped, resized or converted ones are plain pictures; one that was painted on keeps
    its type but has no recipe any more, since that would draw another picture.
    """

    def __init__(self, image: Image.Image, recipe: dict[str, Any]) -> None:
        super().__init__()
        super().__setstate__(Image.Image.__getstate__(image))
        self._recipe, self._drawn = recipe, _digest(self)

    @property
    def recipe(self) -> dict[str, Any] | None:
        """How to draw the same again; None once a pixel has changed."""
        return self._recipe if self._drawn == _digest(self) else None

    def copy(self) -> Image.Image:
        """A copy, with the recipe where it still is true."""
        recipe = self.recipe
        return super().copy() if recipe is None else DrawnImage(super().copy(), recipe)

    __copy__ = copy

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As :meth:`PIL.Image.Image.save`; a PNG carries the recipe, beside the texts that ``pnginfo`` has."""
        recipe = self.recipe
        if recipe is not None and not params.get("save_all") and _png(fp, format):
            params["pnginfo"] = _with_recipe(params.get("pnginfo"), recipe)
        super().save(fp, format, **params)

    def __getstate__(self) -> list[Any]:
        return [*super().__getstate__(), self._recipe, self._drawn]

    def __setstate__(self, state: list[Any]) -> None:
        *image, self._recipe, self._drawn = state
        super().__setstate__(image)


def _digest(image: Image.Image) -> bytes:
    about = f"{image.mode} {image.size} ".encode()
    return hashlib.blake2b(about + image.tobytes(), digest_size=16).digest()


def _png(fp: Any, format: str | None) -> bool:
    """Whether Pillow will write a PNG there."""
    if format is not None:
        return format.upper() == "PNG"
    name = fp if isinstance(fp, str | bytes | os.PathLike) else getattr(fp, "name", "")
    suffix = Path(os.fsdecode(name)).suffix.lower() if isinstance(name, str | bytes | os.PathLike) else ""
    return Image.registered_extensions().get(suffix) == "PNG"


def _with_recipe(given: PngImagePlugin.PngInfo | None, recipe: dict[str, Any]) -> PngImagePlugin.PngInfo:
    """The texts that were given, and the recipe unless they have one."""
    info = PngImagePlugin.PngInfo()
    info.chunks = [] if given is None else list(given.chunks)
    if not any(chunk[1].startswith(f"{RECIPE_KEY}\0".encode()) for chunk in info.chunks):
        info.add_itxt(RECIPE_KEY, json.dumps(recipe, ensure_ascii=False))
    return info
