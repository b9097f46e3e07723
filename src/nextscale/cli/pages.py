"""What ``nextscale generate`` writes: pictures, a grid and a strip of them, and an animation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.cli.console import remark
from nextscale.cli.outputs import Pictures
from nextscale.errors import InputError
from nextscale.files import check_new

if TYPE_CHECKING:
    from PIL import Image

    from nextscale.pipeline import GenerationResult, Pipeline
    from nextscale.plan import Plan

MOST_ANIMATED = 100
"""Pictures of an animation."""


@dataclass(frozen=True)
class Wished:
    """The options that say what is written beside the pictures, and how large they are; None: nothing was said."""

    grid: bool | None = None
    strip: bool = False
    animate: Path | None = None
    enlarge: int | None = None

    def check(self, overwrite: bool) -> None:
        """Raises ``InputError``, before any work is done, for an animation that cannot be written."""
        from nextscale.pictures import check_animation

        if self.animate is not None:
            check_animation(self.animate)
            check_new(self.animate, overwrite)


@dataclass(frozen=True)
class Pages:
    """What will be written, known before anything is drawn. enlarge: the factor of the pictures; grid, strip, animated:
    by how much they are enlarged there, 0 for no such page; animate: the file of the animation.
    """

    count: int
    scales: int
    enlarge: int
    grid: int
    strip: int
    animated: int
    animate: Path | None

    @classmethod
    def of(cls, pipe: Pipeline, plan: Plan, count: int, wished: Wished) -> Pages:
        """Raises ``InputError`` where pictures, or a page that was asked for, would be too large to be opened again."""
        from nextscale.pictures import check_enlarge, page_scale

        scales, size = len(plan.rows), pipe.tokenizer.pixels(plan.schedule)
        enlarge = 1 if wished.enlarge is None else wished.enlarge
        check_enlarge(enlarge, size)
        on_page, growing = (page_scale(size, number, enlarge) for number in (count, count * scales))
        animated = growing if count <= MOST_ANIMATED else 0
        asked = {"grid": (wished.grid, on_page), "strip": (wished.strip, growing)}
        asked["animate"] = (wished.animate is not None, animated)
        for page, (wanted, scale) in asked.items():
            if wanted and not scale:
                raise InputError(
                    f"--{page} with {count:,} pictures makes too large a page; expected fewer, or no --{page}"
                )
        wanted = count > 1 if wished.grid is None else wished.grid
        if wanted and not on_page:
            remark(f"no grid: {count:,} pictures are too many for a page")
        return cls(
            count,
            scales,
            enlarge,
            on_page if wanted else 0,
            growing if wished.strip else 0,
            0 if wished.animate is None else animated,
            wished.animate,
        )

    @property
    def grow(self) -> bool:
        """Whether pictures are shown after every scale."""
        return bool(self.strip or self.animated)

    def write(self, result: GenerationResult, growth: list[list[Image.Image]], place: Pictures) -> dict[str, Any]:
        """Save everything; returns the names of the files. growth: for every picture, what it was after each scale."""
        from nextscale.pictures import enlarged, save_animation
        from nextscale.pictures import strip as lay_out_scales
        from nextscale.recipe import shown
        from nextscale.results import file_stem

        written: dict[str, Any] = {"images": []}
        names = [shown(result.recipe_of(i)) for i in range(len(result.images))]
        for i, image in enumerate(result.images):
            recipe = result.recipe_of(i)
            path = place.save(enlarged(image, self.enlarge), file_stem(recipe), recipe)
            written["images"].append({"file": str(path), **names[i], "seed": recipe["seed"]})
        if self.grid:
            page = _sheet(result.images, names, self.grid)
            written["grid"] = str(place.save(page, "grid", result.recipe))
        if self.strip:
            labels = [f"{h}x{w}" for h, w in (row.size for row in result.plan.rows)]
            page = lay_out_scales(growth, labels, scale=self.strip)
            written["strip"] = str(place.save(page, "strip", result.recipe))
        if self.animate is not None:
            frames = [_frame(list(pictures), names, self.animated) for pictures in zip(*growth, strict=True)]
            written["animation"] = str(save_animation(frames, self.animate, place.overwrite))
        return written


def _frame(pictures: list[Image.Image], names: list[dict[str, str]], scale: int) -> Image.Image:
    """What an animation shows at once: the picture alone, or the sheet of several."""
    from nextscale.pictures import enlarged

    return enlarged(pictures[0], scale) if len(pictures) == 1 else _sheet(pictures, names, scale)


def _sheet(pictures: list[Image.Image], names: list[dict[str, str]], scale: int) -> Image.Image:
    """All pictures, each over what it shows; those of one style stand below each other where there are several."""
    from nextscale.pictures import grid

    styles = len({named.get("style") for named in names})
    columns = None if styles == 1 or len(names) % styles else styles * max(1, 10 // styles)
    return grid(pictures, columns, scale, [", ".join(named.values()) for named in names])
