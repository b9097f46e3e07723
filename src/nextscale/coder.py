"""Pictures to tokens and back, for which a tokenizer is all that is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.pictures import fit
from nextscale.results import OutputType, as_output, checked_output_type, decode
from nextscale.tokenfile import Picture, pictures_of, token_maps
from nextscale.tokenizers.base import Tokenizer


class Coder:
    """What a pipeline does with its tokenizer alone."""

    tokenizer: Tokenizer

    def encode(self, image: Picture | Sequence[Picture]) -> list[Tensor]:
        """The tokens of a picture, or of several: one map (B, h, w) int64 per scale, as ``result.tokens``.

        image: PIL images, names of files or uint8 arrays (H, W, 3), fitted as :meth:`reconstruct` says. Every picture
        is encoded on its own, so that its tokens do not depend on the others.
        """
        with torch.inference_mode():
            latents = [self.tokenizer.latent(self._pixels(one).to(self._place)) for one in pictures_of(image)]
            found = [self.tokenizer.encode(latent).tokens for latent in latents]
        return [torch.cat(maps) for maps in zip(*found, strict=True)]

    def decode(self, tokens: Sequence[Any], output_type: OutputType = "pil") -> Any:
        """Pictures of tokens, the inverse of :meth:`encode`: what the last picture of :meth:`reconstruct` is.

        tokens: one map (B, h, w), or (h, w), per scale; the first few scales alone give a coarse picture. A picture
        that was drawn with ``smooth`` mixes codes, so its tokens give another one. Raises ``InputError`` for wrong
        shapes, kinds and numbers.
        """
        maps = [one.to(self._place) for one in token_maps(tokens, self.tokenizer)]
        kind = checked_output_type(output_type)
        with torch.inference_mode():
            canvases = [self.tokenizer.follow([one[i : i + 1] for one in maps]).canvas for i in range(len(maps[0]))]
            canvas = replace(canvases[0], latent=torch.cat([one.latent for one in canvases]))
            return as_output(canvas.latent if kind == "latent" else decode(self.tokenizer, canvas), kind)

    def reconstruct(self, image: Picture) -> list[Image.Image]:
        """Encode and decode a picture: one image per scale, drawn from the tokens of that and all coarser scales.

        The picture is put on white, cropped to a square around its centre and resized to the tokenizer's resolution.
        """
        tokens = self.encode([image])
        return [self.decode(tokens[: k + 1])[0] for k in range(len(tokens))]

    @property
    def resolution(self) -> tuple[int, int]:
        """Height and width in pixels of the images."""
        return self.tokenizer.pixels()

    def _pixels(self, image: Image.Image) -> Tensor:
        array = np.asarray(fit(image, self.resolution), np.float32) / 127.5 - 1
        return torch.from_numpy(array).permute(2, 0, 1)[None].to(next(self.tokenizer.parameters()).dtype)

    @property
    def _place(self) -> torch.device:
        return next(self.tokenizer.parameters()).device
