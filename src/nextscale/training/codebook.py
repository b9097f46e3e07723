"""Keeping a codebook alive: a first codebook drawn from data, and new places for codes that are hardly used.

A code nobody uses gets no gradient and stays unused for ever; moved to a vector the encoder produces, it comes back.
Moving rarely used ones too spreads the tokens more evenly over the codebook.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nextscale.tokenizers.autoencoder import interpolate
from nextscale.tokenizers.base import Canvas
from nextscale.tokenizers.residual import ResidualQuantizer

MEMORY = 50
"""Steps the running mean of the codes' use looks back."""


@torch.no_grad()
def residual_vectors(quantizer: ResidualQuantizer, latent: Tensor) -> Tensor:
    """What the quantiser looks up to encode ``latent`` (B, c, H, W): residuals of all scales (B * L, c), float32."""
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

    The residuals of fine scales depend on the codebook that served the coarse ones; hence a few rounds, from zeros on.
    """
    codebook = quantizer.codebook.weight.zero_()
    for _ in range(rounds):
        codebook.copy_(_draw(residual_vectors(quantizer, latent), len(codebook), generator))


class CodeUse:
    """How often each code has been used of late, as a share of even use: a running mean over about ``MEMORY`` steps.

    share: (V,) float32, 1 for a code used as often as codes are on average; steps: () int64, counted so far.
    """

    def __init__(self, codes: int, device: torch.device) -> None:
        self.share = torch.ones(codes, device=device)
        self.steps = torch.zeros((), dtype=torch.int64, device=device)

    def count(self, tokens: list[Tensor]) -> None:
        """Note which codes one step has used."""
        flat = torch.cat([t.flatten() for t in tokens])
        now = torch.bincount(flat, minlength=len(self.share)) * (len(self.share) / len(flat))
        self.share.lerp_(now.to(self.share), 1 / MEMORY)
        self.steps += 1

    def rare(self, below: float) -> Tensor:
        """Indices of the codes used less than ``below`` times as often as codes are on average."""
        return (self.share < below).nonzero()[:, 0]

    @torch.no_grad()
    def restart(self, quantizer: ResidualQuantizer, rare: Tensor, latent: Tensor, generator: torch.Generator) -> Tensor:
        """Move the codes ``rare`` to residuals of ``latent``; returns their new vectors (len(rare), c)."""
        vectors = _draw(residual_vectors(quantizer, latent), len(rare), generator)
        quantizer.codebook.weight[rare] = vectors
        self.share[rare] = 1.0
        return vectors


def _draw(vectors: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of the ``vectors``, without repetition where there are enough of them."""
    order = torch.cat([torch.randperm(len(vectors), generator=generator) for _ in range(-(-count // len(vectors)))])
    return vectors[order[:count].to(vectors.device)]
