"""Keeping a codebook alive: a first codebook drawn from data, and new places for codes that are no longer used.

A code nobody uses gets no gradient and stays unused for ever; moving it to a vector the encoder really produces brings it back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.tokenizers.base import Canvas
from nextscale.tokenizers.autoencoder import interpolate
from nextscale.tokenizers.residual import ResidualQuantizer


@torch.no_grad()
def residual_vectors(quantizer: ResidualQuantizer, latent: Tensor) -> Tensor:
    """What the quantiser looks up while it encodes ``latent`` (B, c, H, W): the residuals of all scales, (B * L, c) float32."""
    schedule, latent = quantizer.schedule, latent.float()
    canvas, found = Canvas(torch.zeros_like(latent), schedule), []
    for k, size in enumerate(schedule):
        residual = interpolate(latent - canvas.latent, size, "area")
        found.append(residual.permute(0, 2, 3, 1).reshape(-1, residual.shape[1]))
        canvas = quantizer.accumulate(canvas, quantizer.codes(quantizer.nearest(residual)), k)
    return torch.cat(found)


@torch.no_grad()
def draw_codebook(quantizer: ResidualQuantizer, latent: Tensor, generator: torch.Generator, rounds: int = 4) -> None:
    """Replace the whole codebook by residuals of ``latent``.

    The residuals of the fine scales depend on the codebook that served the coarse ones, hence a few rounds from a codebook of zeros.
    """
    quantizer.codebook.weight.zero_()
    for _ in range(rounds):
        quantizer.codebook.weight.copy_(_draw(residual_vectors(quantizer, latent), len(quantizer.codebook.weight), generator))


class DeadCodes:
    """Counts for how many steps each code has lain unused. ``unused``: (V,) int64."""

    def __init__(self, codes: int, restart_after: int, device: torch.device) -> None:
        self.unused = torch.zeros(codes, dtype=torch.int64, device=device)
        self.restart_after = restart_after

    def count(self, tokens: list[Tensor]) -> None:
        """Note which codes one step has used."""
        self.unused += 1
        self.unused[torch.cat([t.flatten() for t in tokens])] = 0

    def dead(self) -> Tensor:
        """Indices of the codes that have been unused for too long."""
        return (self.unused >= self.restart_after).nonzero()[:, 0] if self.restart_after else self.unused[:0]

    @torch.no_grad()
    def restart(self, quantizer: ResidualQuantizer, dead: Tensor, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Move the codes ``dead`` to residuals of ``latent``; returns their new vectors (len(dead), c)."""
        vectors = _draw(residual_vectors(quantizer, latent), len(dead), generator)
        quantizer.codebook.weight[dead] = vectors
        self.unused[dead] = 0
        return vectors


def _draw(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the ``vectors``, without repetition where there are enough of them."""
    order = torch.cat([torch.randperm(len(vectors), generator=generator) for _ in range(-(-count // len(vectors)))])
    return vectors[order[:count].to(vectors.device)]
