"""VAR: visual autoregressive modelling by next-scale prediction (arXiv 2404.02905).

A GPT-like transformer with AdaLN blocks that predicts a whole token map from all coarser ones. Its input at
scale k is the canvas so far, shrunk to that scale; its mask in training is causal from scale to scale and
open inside one. Notable: L2-normalised attention with a learned temperature per head, a class embedding that
is both the first token and the AdaLN condition, and at 512 px one AdaLN projection shared by all blocks.

Shape letters as in ``models/base.py``; embeddings and head stand in ``models/class_transformer.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from nextscale.layers.adaln import FeedForward, modulate
from nextscale.layers.attention import Attention
from nextscale.layers.slots import AttentionSlot, Count
from nextscale.models.class_transformer import ClassTransformer, ClassTransformerConfig
from nextscale.scales import ScaleSchedule


@dataclass(frozen=True, kw_only=True)
class VARConfig(ClassTransformerConfig):
    """Sizes of a VAR transformer. shared_adaln: one AdaLN projection for all blocks (512 px)."""

    shared_adaln: bool = False

    @classmethod
    def published(cls, depth: int, pixels: int = 256) -> VARConfig:
        """The official configuration of depth 12 to 36 at 256, 512 or 1024 pixels."""
        return cls(
            depth=depth,
            width=64 * depth,
            heads=depth,
            sizes=ScaleSchedule.preset(str(pixels)).sizes,
            shared_adaln=pixels != 256,
            drop_path=0.1 * depth / 24,
        )


class VAR(ClassTransformer):
    """See :class:`~nextscale.models.base.NextScaleModel` for the methods."""

    name = "VAR"
    gates = 2
    memory = "full"
    config: VARConfig

    def __init__(self, config: VARConfig) -> None:
        super().__init__(config)
        c = config.width
        self.shared_ada_lin = nn.Linear(c, 6 * c) if config.shared_adaln else None
        blocks = [Block(config) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.slots = tuple(replace(block.attention.spec, block=i) for i, block in enumerate(blocks))
        self.head_ada_lin = nn.Linear(c, 2 * c)
        self.head_lin = nn.Linear(c, config.codes)

    def modulation(self, activated: Tensor) -> tuple[Tensor, ...]:
        shared = None if self.shared_ada_lin is None else self.shared_ada_lin(activated)
        return tuple(block.modulation(activated, shared) for block in self.blocks)  # type: ignore[operator]

    def condition_flops(self, rows: int) -> int:
        projections = 1 if self.config.shared_adaln else self.config.depth
        return 2 * rows * projections * 6 * self.config.width**2

    @torch.no_grad()
    def init_weights(self, gamma: float = 1e-3, head: float = 0.02) -> None:
        """The official initialisation: that of ``init_outside``, residual gates times ``gamma``, outputs of
        attention and feed-forward divided by sqrt(2 depth). Call before training.
        """
        self.init_outside(head)
        for block in self.blocks:
            block.init_weights(gamma, math.sqrt(2 * self.config.depth))  # type: ignore[operator]


class Block(nn.Module):
    """Attention and feed-forward, each behind an AdaLN and a learned gate:
    x + gamma1 Attn(LN(x)(1 + s1) + b1), then x + gamma2 FFN(LN(x)(1 + s2) + b2)."""

    def __init__(self, config: VARConfig, reads: Literal["own", "past"] = "past") -> None:
        """reads: whether a token sees its own scale only, or all scales up to its own."""
        super().__init__()
        c = config.width
        self.eps = config.norm_eps
        self.attention = Attention(c, config.heads, config.l2_norm, reads)
        self.ffn = FeedForward(c, round(c * config.mlp_ratio))
        self.ada_lin = None if config.shared_adaln else nn.Linear(c, 6 * c)
        self.ada_gss = nn.Parameter(torch.randn(6, c) / math.sqrt(c)) if config.shared_adaln else None

    def modulation(self, activated: Tensor, shared: Tensor | None) -> Tensor:
        """gamma1, gamma2, s1, s2, b1, b2 as (R, 1, 6, C) from SiLU of the condition (R, C)."""
        if self.ada_lin is not None:
            return self.ada_lin(activated).unflatten(-1, (1, 6, -1))
        assert shared is not None
        return shared.unflatten(-1, (1, 6, -1)) + self.ada_gss

    def forward(self, x: Tensor, modulation: Tensor, slot: AttentionSlot) -> Tensor:
        gamma1, gamma2, s1, s2, b1, b2 = modulation.unbind(2)
        x = x + gamma1 * self.attention(modulate(x, s1, b1, self.eps), slot)
        return x + gamma2 * self.ffn(modulate(x, s2, b2, self.eps))

    def flops(self, tokens: int, seen: Count) -> int:
        """FLOPs of :meth:`forward` for ``tokens`` tokens of one row that see ``seen`` keys."""
        return self.attention.flops(tokens, seen) + self.ffn.flops(tokens)

    def init_weights(self, gamma: float, shrink: float) -> None:
        self.attention.proj.weight.div_(shrink)
        self.ffn.fc2.weight.div_(shrink)
        if self.ada_lin is not None:
            gates = 2 * self.ada_lin.in_features
            self.ada_lin.weight[:gates].mul_(gamma)
            self.ada_lin.weight[gates:].mul_(0.5)
        else:
            assert self.ada_gss is not None
            self.ada_gss[:2].mul_(gamma)
            self.ada_gss[2:].mul_(0.5)
