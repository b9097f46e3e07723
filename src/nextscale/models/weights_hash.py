"""What tells one model's weights from another's, whatever number type they are in."""

from __future__ import annotations

import hashlib

import torch

from nextscale.models.base import NextScaleModel

SAMPLE = 64
"""Numbers of every tensor that are looked at, at least, where it has as many."""


def weights_hash(model: NextScaleModel) -> str | None:
    """Sixteen hex digits of names, shapes and the signs of a sample of every tensor, which no rounding changes; None
    for a model without values. Weights that were trained differ in some of thousands of signs.
    """
    named = list(model.named_parameters())
    if any(p.is_meta for _, p in named):
        return None
    signs = [p.detach().reshape(-1)[:: max(1, p.numel() // SAMPLE)].signbit() for _, p in named]
    digest = hashlib.sha256(repr([(name, tuple(p.shape)) for name, p in named]).encode())
    digest.update(bytes(torch.cat(signs).tolist()))
    return digest.hexdigest()[:16]
