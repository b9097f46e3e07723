"""VAR: visual autoregressive modelling by next-scale prediction (arXiv 2404.02905).

A GPT-like transformer with AdaLN blocks that predicts a whole token map from all coarser ones. Its input at scale k is the
canvas so far, shrunk to that scale; its mask in training is causal from scale to scale and open inside one. Notable: L2-normalised
attention with a learned temperature per head, a class embedding that is both the first token and the AdaLN condition, and at
512 px one AdaLN projection shared by all blocks.

Shape letters as in ``models/base.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nextscale.errors import InputError, PlanError
from nextscale.layers.adaln import DropPath, FeedForward, modulate
from nextscale.layers.attention import Attention
from nextscale.layers.slots import AttentionSlot, SlotSpec
from nextscale.memory.mask import BlockCausalMask
from nextscale.models.base import Condition, NextScaleModel, Slots
from nextscale.scales import ScaleSchedule, Size


@dataclass(frozen=True, kw_only=True)
class VARConfig:
    """Sizes of a VAR transformer; the published ones are width = 64 depth, heads = depth.

    classes: without the null class; codes, code_dim: the tokenizer's; sizes: the trained schedule; shared_adaln: one AdaLN
    projection for all blocks (512 px); l2_norm: unit queries and keys; drop_path: rate of the last block in training.
    """

    depth: int
    width: int
    heads: int
    mlp_ratio: float = 4.0
    classes: int = 1000
    codes: int = 4096
    code_dim: int = 32
    sizes: tuple[Size, ...] = ScaleSchedule.preset("256").sizes
    shared_adaln: bool = False
    l2_norm: bool = True
    norm_eps: float = 1e-6
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        ScaleSchedule(self.sizes)
        if self.width % self.heads:
            raise InputError(f"a width of {self.width} cannot be split into {self.heads} heads")

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


class VAR(NextScaleModel):
    """See :class:`~nextscale.models.base.NextScaleModel` for the methods. Features are class ids (B,) int64."""

    guidance = "ramp"

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        c = config.width
        self.config = config
        self.schedule = ScaleSchedule(config.sizes)
        self.slots = (SlotSpec("past", config.heads, c // config.heads),) * config.depth
        self.null_class = config.classes
        self.class_embedding = nn.Embedding(config.classes + 1, c)
        self.pos_start = nn.Parameter(torch.zeros(self.schedule.lengths[0], c))
        self.pos_embedding = nn.Parameter(torch.zeros(self.schedule.tokens, c))
        self.level_embedding = nn.Parameter(torch.zeros(len(self.schedule), c))
        self.word_embedding = nn.Linear(config.code_dim, c)
        self.shared_ada_lin = nn.Linear(c, 6 * c) if config.shared_adaln else None
        last = max(1, config.depth - 1)
        self.blocks = nn.ModuleList(Block(config, config.drop_path * i / last) for i in range(config.depth))
        self.head_ada_lin = nn.Linear(c, 2 * c)
        self.head_lin = nn.Linear(c, config.codes)

    def check(self, schedule: ScaleSchedule) -> None:
        if schedule.sizes != self.schedule.sizes[: len(schedule)]:
            raise PlanError(f"this VAR was trained on the scales {self.schedule} and cannot draw the scales {schedule}")

    def condition(self, features: Tensor, branches: int = 1) -> Condition:
        if branches not in (1, 2):
            raise PlanError(f"VAR knows 1 branch (class) or 2 (class, null), not {branches}")
        labels = features if branches == 1 else torch.cat([features, torch.full_like(features, self.null_class)])
        vector = self.class_embedding(labels)
        activated = nn.functional.silu(vector)
        shared = None if self.shared_ada_lin is None else self.shared_ada_lin(activated)
        return Condition(
            start=vector[:, None] + self.pos_start,
            vector=vector,
            modulation=tuple(block.modulation(activated, shared) for block in self.blocks),
        )

    def forward(self, inputs: Sequence[Tensor], condition: Condition) -> Tensor:
        x = torch.cat([self._embed(x_k, k, condition) for k, x_k in enumerate([None, *inputs])], 1)
        mask = BlockCausalMask(self.schedule, x.device)
        for i, block in enumerate(self.blocks):
            x = block(x, condition.modulation[i], mask)
        return self.head(x, condition)

    def step(
        self, inputs: Tensor | None, k: int, condition: Condition, memory: Slots, blocks: Sequence[int] | None = None
    ) -> Tensor:
        x = self._embed(inputs, k, condition)
        for i in range(len(self.blocks)) if blocks is None else blocks:
            x = self.blocks[i](x, condition.modulation[i], memory.slot(i))
        return x

    def head(self, hidden: Tensor, condition: Condition) -> Tensor:
        scale, shift = self.head_ada_lin(nn.functional.silu(condition.vector))[:, None].chunk(2, -1)
        return self.head_lin(modulate(hidden, scale, shift, self.config.norm_eps)).float()

    def _embed(self, inputs: Tensor | None, k: int, condition: Condition) -> Tensor:
        """Input of scale k: tokens (R, l, C) with their position and level."""
        if inputs is None:
            x = condition.start
        else:
            x = self.word_embedding(inputs.flatten(2).transpose(1, 2).to(self.word_embedding.weight.dtype))
            x = x.repeat(condition.rows // x.shape[0], 1, 1)
        return x + (self.pos_embedding[self.schedule.slice(k)] + self.level_embedding[k])

    def condition_flops(self, rows: int) -> int:
        projections = 1 if self.config.shared_adaln else self.config.depth
        return 2 * rows * projections * 6 * self.config.width**2

    def step_flops(self, schedule: ScaleSchedule, k: int, images: int, rows: int, blocks: Sequence[int] | None) -> int:
        c, n, seen = self.config.width, schedule.lengths[k], schedule.offsets[k + 1]
        hidden = round(c * self.config.mlp_ratio)
        embed = 2 * images * n * self.config.code_dim * c if k else 0
        block = 2 * rows * n * (4 * c * c + 2 * c * hidden) + 4 * rows * n * seen * c
        return embed + block * (self.config.depth if blocks is None else len(blocks))

    def head_flops(self, tokens: int, rows: int) -> int:
        c = self.config.width
        return 2 * rows * (2 * c * c + tokens * c * self.config.codes)

    @torch.no_grad()
    def init_weights(self, gamma: float = 1e-3, head: float = 0.02) -> None:
        """The official initialisation (sheet, section 4): truncated normal of std sqrt(1 / 3C), residual gates times ``gamma``,
        the head times ``head``, outputs of attention and feed-forward divided by sqrt(2 depth). Call before training."""
        c, std = self.config.width, math.sqrt(1 / (3 * self.config.width))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for embedding in (self.pos_start, self.pos_embedding, self.level_embedding):
            nn.init.trunc_normal_(embedding, std=std)
        self.head_lin.weight.mul_(head)
        self.head_ada_lin.weight.mul_(0.5)
        for block in self.blocks:
            block.init_weights(gamma, math.sqrt(2 * self.config.depth), c)  # type: ignore[operator]


class Block(nn.Module):
    """Attention and feed-forward, each behind an AdaLN and a learned gate:
    x + gamma1 Attn(LN(x)(1 + s1) + b1), then x + gamma2 FFN(LN(x)(1 + s2) + b2)."""

    def __init__(self, config: VARConfig, drop_path: float) -> None:
        super().__init__()
        c = config.width
        self.eps = config.norm_eps
        self.attention = Attention(c, config.heads, config.l2_norm)
        self.ffn = FeedForward(c, round(c * config.mlp_ratio))
        self.drop_path = DropPath(drop_path)
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
        x = x + self.drop_path(gamma1 * self.attention(modulate(x, s1, b1, self.eps), slot))
        return x + self.drop_path(gamma2 * self.ffn(modulate(x, s2, b2, self.eps)))

    def init_weights(self, gamma: float, shrink: float, c: int) -> None:
        self.attention.proj.weight.div_(shrink)
        self.ffn.fc2.weight.div_(shrink)
        if self.ada_lin is not None:
            self.ada_lin.weight[: 2 * c].mul_(gamma)
            self.ada_lin.weight[2 * c :].mul_(0.5)
        else:
            assert self.ada_gss is not None
            self.ada_gss[:2].mul_(gamma)
            self.ada_gss[2:].mul_(0.5)
