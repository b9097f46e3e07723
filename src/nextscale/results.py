"""What a call gives back: pictures, tokens and the recipe that draws them again, whole or scale by scale."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from nextscale.drawn import DrawnImage
from nextscale.errors import InputError, quoted
from nextscale.files import check_writable
from nextscale.pictures import enlarged, page_scale, save_beside, save_png
from nextscale.pictures import grid as lay_out
from nextscale.plan import Plan
from nextscale.recipe import recipe_of, shown
from nextscale.state import ScaleEvent
from nextscale.tokenizers.base import Canvas, Tokenizer
from nextscale.values import plain

OutputType = Literal["pil", "pt", "np", "latent"]
OUTPUT_TYPES: dict[str, OutputType] = {
    "pil": "pil",
    "pt": "pt",
    "np": "np",
    "latent": "latent",
    "numpy": "np",
    "tensor": "pt",
    "torch": "pt",
}
"""The kinds of output, also by the names they have elsewhere."""
LONGEST_NAME = 100
"""Bytes of a class, of a style, and so on, in the name of a file; file systems take 255 for all."""


@dataclass(frozen=True, repr=False, eq=False)
class GenerationResult:
    """images: PIL images, or what ``output_type`` asked for; tokens: one (B, h, w) map per scale, as accumulated;
    recipe: how to draw the same again (plain data; ``entries``, what was asked for, and ``seeds`` are lists, one per
    image); plan: what was carried out.

    A result is a sequence of its images: ``result[0]``, ``len(result)``, ``for image in result``.
    """

    images: Any
    tokens: list[Tensor]
    recipe: dict[str, Any]
    plan: Plan

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: Any) -> Any:
        """Image ``i``, or a slice of them; also a field by its name, ``result["images"]``."""
        if isinstance(i, str):
            if i not in {field.name for field in fields(self)}:
                raise KeyError(f"a result has no {i!r}; expected images, tokens, recipe or plan")
            return getattr(self, i)
        return self.images[i]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.images)

    def __repr__(self) -> str:
        names = list(dict.fromkeys(" ".join(shown(self.recipe_of(i)).values()) for i in range(len(self))))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        count = f"{len(self)} image{'' if len(self) == 1 else 's'}"
        return f"<GenerationResult: {count} of {', '.join(names[:4])}{more}, by {self.recipe['model']}>"

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows: the picture, or a page with all of them."""
        if not self._pictures() or not self._page_scale():
            return None
        page, file = self.images[0] if len(self) == 1 else self.grid(), BytesIO()
        page.save(file, "PNG")
        return file.getvalue()

    def recipe_of(self, i: int) -> dict[str, Any]:
        """The recipe of image ``i`` alone."""
        return recipe_of(self.recipe, i)

    def grid(self, columns: int | None = None) -> Image.Image:
        """All pictures on one page, each over its name. Raises ``InputError`` where ``output_type`` was not "pil", or
        where there are too many for a page.
        """
        self._need_pictures()
        scale = self._page_scale()
        if not scale:
            raise InputError(f"{len(self):,} pictures are too many for a page; expected fewer")
        labels = [", ".join(shown(self.recipe_of(i)).values()) for i in range(len(self))]
        return DrawnImage(lay_out(self.images, columns, scale, labels), self.recipe)

    def enlarged(self, factor: int) -> GenerationResult:
        """The same with every picture enlarged by a whole factor, smoothly; recipes say so, and repeat it. Raises
        ``InputError`` for another factor, where ``output_type`` was not "pil", and for pictures that are enlarged.
        """
        self._need_pictures()
        if "enlarge" in self.recipe:
            raise InputError(f"the pictures are enlarged already, by {self.recipe['enlarge']}; enlarge what was drawn")
        factor = plain(factor)
        larger = [enlarged(image, factor) for image in self.images]
        if factor == 1:
            return self
        recipe = {**self.recipe, "enlarge": factor}
        images = [DrawnImage(image, recipe_of(recipe, i)) for i, image in enumerate(larger)]
        return replace(self, images=images, recipe=recipe)

    def save(self, path: str | Path, overwrite: bool = False) -> list[Path]:
        """Write every picture as a PNG with its recipe; returns the files.

        path: a folder, in which pictures take the next free name (``face-1.png``, ``face-1-2.png``), or for one
        picture the name of a file (``.png``). overwrite: a file that was named may be replaced. Raises ``InputError``
        where nothing can be written, and for a file that exists.
        """
        self._need_pictures()
        if not isinstance(path, str | PathLike) or not str(path):
            raise InputError(f"the place to save to is {quoted(path)}; expected a folder, or the name of a PNG")
        path = Path(path)
        if path.suffix.lower() in Image.registered_extensions() and not os.path.isdir(path):
            return [self._save_one(path, overwrite)]
        check_writable(path)
        written = []
        for i, image in enumerate(self.images):
            recipe = self.recipe_of(i)
            written.append(save_beside(image, path / f"{file_stem(recipe)}.png", recipe))
        return written

    def _save_one(self, path: Path, overwrite: bool) -> Path:
        if path.suffix.lower() != ".png":
            raise InputError(f"{path} is no name of a PNG; expected one that ends in .png, or a folder")
        if len(self) != 1:
            raise InputError(
                f"{len(self)} pictures do not fit into {path}; expected a folder, or result.grid().save(...)"
            )
        return save_png(self.images[0], path, self.recipe_of(0), overwrite)

    def _page_scale(self) -> int:
        """By how much pictures are enlarged on a page; 0 where they are too many."""
        width, height = self.images[0].size
        return page_scale((height, width), len(self))

    def _pictures(self) -> bool:
        return isinstance(self.images, list) and len(self) > 0

    def _need_pictures(self) -> None:
        if not self._pictures():
            raise InputError("the result holds numbers, not pictures; expected one drawn with output_type='pil'")


def result_of(
    batch: Tensor, output_type: OutputType, tokens: list[Tensor], recipe: dict[str, Any], plan: Plan
) -> GenerationResult:
    """What a call gives back; pictures carry their recipes, so that every PNG of them can be drawn again."""
    images = as_output(batch, output_type)
    if output_type == "pil":
        images = [DrawnImage(image, recipe_of(recipe, i)) for i, image in enumerate(images)]
    return GenerationResult(images, tokens, recipe, plan)


def file_stem(recipe: Mapping[str, Any]) -> str:
    """The name of a picture's file without ``.png``: what it shows (a class and a style, say), and its seed. The one
    place where it is made; two pictures may share it, so a folder needs :func:`nextscale.files.free_name`.
    """
    seed = [] if recipe.get("seed") is None else [str(recipe["seed"])]
    return "-".join([*(file_name(name, what) for what, name in shown(recipe).items()), *seed])


def file_name(name: str, otherwise: str) -> str:
    """A name as the part of a file's name; ``otherwise`` where no letter of it could stay."""
    safe = re.sub(r"[^\w.-]+", "-", name).encode(errors="ignore")[:LONGEST_NAME].decode(errors="ignore")
    return safe.strip("-.") or otherwise


@dataclass(frozen=True)
class StreamEvent:
    """One scale of a running generation. ``images()`` decodes the canvas so far; nothing is decoded unless asked
    for. finished: what becomes of decoded images, such as those of a picture that is edited.
    """

    k: int
    scales: int
    event: ScaleEvent = field(repr=False)
    tokenizer: Tokenizer = field(repr=False)
    finished: Callable[[Tensor], Tensor] = field(default=lambda images: images, repr=False)

    @property
    def tokens(self) -> Tensor:
        return self.event.tokens

    @property
    def canvas(self) -> Canvas:
        return self.event.canvas

    def images(self) -> list[Image.Image]:
        """The images as they stand after this scale."""
        return to_pil(self.finished(decode(self.tokenizer, self.event.canvas)))


def checked_output_type(given: Any) -> OutputType:
    """The kind of output by one of its names. Raises ``InputError`` for others."""
    if not isinstance(given, str) or given not in OUTPUT_TYPES:
        raise InputError(f"output_type is {quoted(given)}; expected pil, pt, np or latent")
    return OUTPUT_TYPES[given]


def decodes_alone(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether images are decoded one by one, as they are on a CPU in float32: convolutions of a batch round differently
    from those of one image, and an image is promised to be the same to the last bit in any batch there.
    """
    return device.type == "cpu" and dtype == torch.float32


def decode(tokenizer: Tokenizer, canvas: Canvas) -> Tensor:
    """Canvas to images (B, 3, H, W) in [0, 1], float32; see :func:`decodes_alone`."""
    weights = next(tokenizer.parameters())
    alone = decodes_alone(weights.device, weights.dtype)
    parts = canvas.latent.split(1 if alone else len(canvas.latent))
    with torch.inference_mode():
        images = torch.cat([tokenizer.decode(replace(canvas, latent=part)) for part in parts])
    return (images + 1) / 2


def to_pil(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in [0, 1] to PIL images, rounded to 8 bits."""
    array = images.mul(255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(pixels) for pixels in array]


def as_output(batch: Tensor, output_type: OutputType) -> Any:
    """Images (B, 3, H, W) in [0, 1] as "pil", "np" (B, H, W, 3) or, as they are, "pt" and "latent"."""
    if output_type == "pil":
        return to_pil(batch)
    return batch.permute(0, 2, 3, 1).cpu().numpy() if output_type == "np" else batch
