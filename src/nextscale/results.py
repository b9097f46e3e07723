"""What a call gives back: pictures, tokens and the recipe that draws them again, whole or scale by scale."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from nextscale.generate import ScaleEvent
from nextscale.plan import Plan
from nextscale.tokenizers.base import Canvas, Tokenizer

OutputType = Literal["pil", "pt", "np", "latent"]
PER_IMAGE = {"class_labels": "class_label", "styles": "style", "seeds": "seed"}
"""The lists of a recipe, one entry per image, and what an entry is called in the recipe of one image."""


@dataclass(frozen=True)
class GenerationResult:
    """images: PIL images, or what ``output_type`` asked for; tokens: one (B, h, w) map per scale, as accumulated;
    recipe: how to draw the same again (plain data; labels, styles and seeds are lists, one entry per image); plan:
    what was carried out.
    """

    images: Any
    tokens: list[Tensor]
    recipe: dict[str, Any]
    plan: Plan

    def recipe_of(self, i: int) -> dict[str, Any]:
        """The recipe of image ``i`` alone."""
        return {PER_IMAGE.get(key, key): value[i] if key in PER_IMAGE else value for key, value in self.recipe.items()}


@dataclass(frozen=True)
class StreamEvent:
    """One scale of a running generation. ``images()`` decodes the canvas so far; nothing is decoded unless asked
    for.
    """

    k: int
    scales: int
    event: ScaleEvent
    tokenizer: Tokenizer = field(repr=False)

    @property
    def tokens(self) -> Tensor:
        return self.event.tokens

    @property
    def canvas(self) -> Canvas:
        return self.event.canvas

    def images(self) -> list[Image.Image]:
        """The images as they stand after this scale."""
        return to_pil(decode(self.tokenizer, self.event.canvas))


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
