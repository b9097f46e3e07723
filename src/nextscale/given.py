"""What is kept of given images instead of being drawn: their tokens, or their canvases.

Shape letters: ``B`` images, ``h w`` the map of a scale, ``d`` draws of a token, ``H W`` the latent grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.errors import PlanError, quoted
from nextscale.row import Row
from nextscale.tokenizers.base import Canvas, Tokenizer
from nextscale.values import listed


@dataclass(frozen=True)
class GivenTokens:
    """Tokens that are kept instead of drawn, e.g. those of an image that is edited.

    tokens: one (B, h, w) or (B, h, w, d) int64 map per scale; masks: one (h, w) or (B, h, w) bool map per scale, True
    where kept.
    """

    tokens: list[Tensor]
    masks: list[Tensor]

    @classmethod
    def whole(cls, tokens: Sequence[Tensor]) -> GivenTokens:
        """All of these maps, (B, h, w) or (B, h, w, d) int64 each."""
        return cls(list(tokens), [torch.ones(one.shape[1:3], dtype=torch.bool) for one in tokens])

    def select(self, rows: Tensor) -> GivenTokens:
        """Keep, repeat or reorder images: rows (B',) int64."""
        masks = [mask if mask.ndim == 2 else mask[rows.to(mask.device)] for mask in self.masks]
        return GivenTokens([one[rows.to(one.device)] for one in self.tokens], masks)

    def mask_for(self, k: int, tokens: Tensor) -> Tensor:
        """The mask of scale k, to stand beside these tokens."""
        mask = self.masks[k].to(tokens.device)
        return mask[..., None] if tokens.ndim == 4 else mask

    def check(self, k: int, row: Row, images: int, tokenizer: Tokenizer) -> None:
        """Raises ``PlanError`` where this is not what row k keeps."""
        tokens, mask = (listed(maps) or [] for maps in (self.tokens, self.masks))
        if len(tokens) <= k or len(mask) <= k:
            raise PlanError(f"row {k} keeps given tokens, but only {len(tokens)} maps of them were given")
        for what, found, kind in (("tokens", tokens[k], torch.int64), ("mask", mask[k], torch.bool)):
            if not isinstance(found, Tensor) or found.dtype != kind:
                raise PlanError(f"row {k} is given the {what} {quoted(found)}; expected a tensor of {kind}")
        expected, found = (images, *row.size, *tokenizer.token_shape), tuple(tokens[k].shape)
        if found != expected:
            raise PlanError(f"the given tokens of row {k} have the shape {found}; expected {expected}")
        if tuple(mask[k].shape) not in (row.size, (images, *row.size)):
            raise PlanError(
                f"the mask of row {k} has the shape {tuple(mask[k].shape)}; expected {row.size} or "
                f"{(images, *row.size)}"
            )
        low, high = (int(one) for one in tokens[k].aminmax())
        if low < 0 or high >= tokenizer.choices:
            raise PlanError(
                f"the given tokens of row {k} go from {low} to {high}; expected 0 to {tokenizer.choices - 1}"
            )


@dataclass(frozen=True)
class GivenCanvases:
    """Canvases that are mixed into what is drawn (arXiv 2411.17787, painting by collaborative decoding).

    latents: one per scale, of the shape of the canvas's own, as they are after that scale; mask: (H, W) or (B, H, W) on
    the grid, from 0 to 1, where 1 is given (averaged where a canvas has another size).
    """

    latents: list[Tensor]
    mask: Tensor

    def select(self, rows: Tensor) -> GivenCanvases:
        """Keep, repeat or reorder images: rows (B',) int64."""
        mask = self.mask if self.mask.ndim == 2 else self.mask[rows.to(self.mask.device)]
        return GivenCanvases([one[rows.to(one.device)] for one in self.latents], mask)

    def mixed_into(self, canvas: Canvas, k: int) -> Canvas:
        """The canvas after scale k, with the given one where the mask says so."""
        own, given = canvas.latent, self.latents[k].to(canvas.latent)
        if given.shape != own.shape:
            raise PlanError(f"the given canvas of row {k} is {tuple(given.shape)}; expected {tuple(own.shape)}")
        mask = self.mask.to(own).view(-1, 1, *self.mask.shape[-2:])
        if mask.shape[2:] != own.shape[2:]:
            mask = F.interpolate(mask, own.shape[2:], mode="area")
        return replace(canvas, latent=torch.where(mask == 1, given, own.lerp(given, mask)))

    def check(self, k: int, row: Row, images: int, tokenizer: Tokenizer) -> None:
        """Raises ``PlanError`` where this is not what row k keeps."""
        latents = listed(self.latents) or []
        if len(latents) <= k:
            raise PlanError(f"row {k} keeps given canvases, but only {len(latents)} of them were given")
        found = latents[k]
        if not isinstance(found, Tensor) or found.shape[:1] != (images,):
            about = quoted(tuple(found.shape)) if isinstance(found, Tensor) else quoted(found)
            raise PlanError(f"the given canvas of row {k} is {about}; expected a tensor of {images} images")
        if not found.isfinite().all():
            raise PlanError(f"the given canvas of row {k} holds NaN, or is not finite; expected numbers")
        mask = self.mask
        if not isinstance(mask, Tensor) or mask.is_complex() or not bool(((mask >= 0) & (mask <= 1)).all()):
            raise PlanError(f"the mask of given canvases is {quoted(mask)}; expected a tensor of numbers from 0 to 1")
        shape = tuple(mask.shape)
        if 0 in shape or (len(shape) != 2 and (len(shape), *shape[:1]) != (3, images)):
            raise PlanError(f"the mask of given canvases has the shape {shape}; expected (H, W) or ({images}, H, W)")


Given = GivenTokens | GivenCanvases


def joined(several: Sequence[Given]) -> Given:
    """What is kept of one image after the other, all of one kind and schedule, with a mask for each, as one part."""
    tokens = [one for one in several if isinstance(one, GivenTokens)]
    canvases = [one for one in several if isinstance(one, GivenCanvases)]
    if tokens:
        maps, masks = (
            [torch.cat(k) for k in zip(*found)] for found in zip(*((one.tokens, one.masks) for one in tokens))
        )
        return GivenTokens(maps, masks)
    latents = [torch.cat(scale) for scale in zip(*(one.latents for one in canvases))]
    return GivenCanvases(latents, torch.cat([one.mask for one in canvases]))


def put_back(k: int, given: Given | None, drawn: Tensor) -> Tensor:
    """The tokens of scale k, (B, h, w) or (B, h, w, d), after given ones took their places."""
    if not isinstance(given, GivenTokens):
        return drawn
    return torch.where(given.mask_for(k, drawn), given.tokens[k].to(drawn.device), drawn)


def kept_of(k: int, given: Given | None, tokens: Tensor) -> Tensor | None:
    """Where the tokens of scale k, (B, h, w) or (B, h, w, d), are given ones, (B or 1, l) bool; None: nowhere."""
    if not isinstance(given, GivenTokens):
        return None
    mask = given.masks[k].to(tokens.device)
    return mask.reshape(-1, tokens.shape[1] * tokens.shape[2])


def codes_of(k: int, given: Given | None, tokens: Tensor, weights: Tensor | None, tokenizer: Tokenizer) -> Tensor:
    """The vectors (B, c, h, w) of scale k to accumulate. weights: (B, l, V) of smooth sampling, in which a given token
    weighs 1.
    """
    if weights is None:
        return tokenizer.codes(tokens)
    weights = weights.unflatten(1, tokens.shape[1:])
    if isinstance(given, GivenTokens):
        one_hot = F.one_hot(tokens, weights.shape[-1]).to(weights)
        weights = torch.where(given.mask_for(k, tokens)[..., None], one_hot, weights)
    return tokenizer.codes(weights)


def given_parts(names: Sequence[str | None], parts: Mapping[str, Any]) -> dict[str, Given]:
    """What the rows of a plan keep, by name."""
    return {name: parts[name] for name in names if name is not None}
