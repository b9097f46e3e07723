"""Pictures to tokens and back, for which a tokenizer is all that is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.decoding import upright
from nextscale.errors import InputError, quoted
from nextscale.pictures import fit
from nextscale.ratios import Shapes
from nextscale.results import OutputType, as_output, checked_output_type, decode
from nextscale.scales import ScaleSchedule
from nextscale.tokenfile import Picture, pictures_of, token_maps
from nextscale.tokenizers.base import Tokenizer


class Coder:
    """What a pipeline does with its tokenizer alone."""

    tokenizer: Tokenizer

    def encode(self, image: Picture | Sequence[Picture], schedule: ScaleSchedule | None = None) -> list[Tensor]:
        """The tokens of a picture, or of several: one map (B, h, w) int64 per scale, as ``result.tokens``.

        image: PIL images, names of files or uint8 arrays (H, W, 3), fitted as :meth:`reconstruct` says. Every picture
        is encoded on its own, so that its tokens do not depend on the others. schedule: the scales to encode on, such
        as ``pipe.plan(ratio="3:2").schedule``, by default :meth:`schedule_for` the pictures, which must agree on it.
        """
        if not isinstance(schedule, ScaleSchedule | None):
            raise InputError(f"schedule is {quoted(schedule)}; expected that of a plan, as in pipe.plan().schedule")
        pictures = pictures_of(image)
        wanted = [schedule or self.schedule_for(one) for one in pictures]
        other = next((i for i, one in enumerate(wanted) if one != wanted[0]), None)
        if other is not None:
            (h, w), (height, width) = (self.shapes.size(wanted[i]) for i in (0, other))
            raise InputError(
                f"the pictures become {h}x{w} and {height}x{width} pixels (height x width); expected one size at once"
            )
        with torch.inference_mode():
            latents = [self.tokenizer.latent(pixels_of(one, self.tokenizer, wanted[0])) for one in pictures]
            found = [self.tokenizer.encode(latent, wanted[0]).tokens for latent in latents]
        return [torch.cat(maps) for maps in zip(*found, strict=True)]

    def decode(
        self, tokens: Sequence[Any], output_type: OutputType = "pil", schedule: ScaleSchedule | None = None
    ) -> Any:
        """Pictures of tokens, the inverse of :meth:`encode`: what the last picture of :meth:`reconstruct` is.

        tokens: one map (B, h, w), or (h, w), per scale; the first few scales alone give a coarse picture. A picture
        that was drawn with ``smooth`` mixes codes, so its tokens give another one. schedule: the scales that these are
        the first of, where sizes of the maps leave that open. Raises ``InputError`` for wrong shapes, kinds and
        numbers.
        """
        shapes = self.shapes if schedule is None else Shapes.of_one(schedule, self.tokenizer.stride)
        given, schedule = token_maps(tokens, self.tokenizer, shapes)
        maps = [one.to(self._place) for one in given]
        kind = checked_output_type(output_type)
        with torch.inference_mode():
            each = ([one[i : i + 1] for one in maps] for i in range(len(maps[0])))
            canvases = [self.tokenizer.follow(one, schedule).canvas for one in each]
            canvas = replace(canvases[0], latent=torch.cat([one.latent for one in canvases]))
            return as_output(canvas.latent if kind == "latent" else decode(self.tokenizer, canvas), kind)

    def reconstruct(self, image: Picture) -> list[Image.Image]:
        """Encode and decode a picture: one image per scale, drawn from the tokens of that and all coarser scales.

        The picture is put on white, cropped around its centre to the ratio of :meth:`schedule_for` it, which is square
        for most models, and resized to its size.
        """
        (picture,) = pictures_of([image])
        schedule = self.schedule_for(picture)
        tokens = self.encode(picture, schedule)
        return [self.decode(tokens[: k + 1], schedule=schedule)[0] for k in range(len(tokens))]

    def schedule_for(self, image: Image.Image) -> ScaleSchedule:
        """The scales that a picture is encoded on: those of the ratio nearest to its own, and of the usual length."""
        width, height = upright(image).size
        return self.shapes.fitting(height, width)

    @property
    def shapes(self) -> Shapes:
        """The sizes that pictures have."""
        return Shapes.of_one(self.tokenizer.schedule, self.tokenizer.stride)

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels of the images, where nothing else is asked for."""
        return self.tokenizer.pixels()

    @property
    def _place(self) -> torch.device:
        return next(self.tokenizer.parameters()).device


def pixels_of(image: Image.Image, tokenizer: Tokenizer, schedule: ScaleSchedule) -> Tensor:
    """A picture as a tokenizer encodes it on a schedule, fitted to its size: (1, 3, H, W) in [-1, 1], on its device."""
    array = np.asarray(fit(image, tokenizer.pixels(schedule)), np.float32) / 127.5 - 1
    return torch.from_numpy(array).permute(2, 0, 1)[None].to(next(tokenizer.parameters()))
