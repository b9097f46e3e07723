"""Multi-head attention as VAR has it; what a head remembers of earlier scales is the memory slot's affair.

Shape letters: ``B`` rows (branches x images), ``l`` tokens of this call, ``C`` width, ``H`` heads, ``D`` head width.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.layers.rope import rotate
from nextscale.layers.slots import AttentionSlot, Count, SlotSpec

MAX_LOG_SCALE = math.log(100)


class Attention(nn.Module):
    """Fused q, k, v without a key bias. With ``l2_norm`` queries and keys are unit vectors and every head learns a
    temperature, exp(min(scale_mul, ln 100)), starting at 4; without it the softmax scale is 0.25 / sqrt(D)
    (arXiv 2404.02905; the factor 0.25 is the official code's)."""

    def __init__(self, width: int, heads: int, l2_norm: bool, reads: Literal["own", "past"] = "past") -> None:
        """reads: whether a token sees its own scale only, or all scales up to its own."""
        super().__init__()
        self.heads = heads
        self.spec = SlotSpec(reads, heads, width // heads)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.scale_mul = nn.Parameter(torch.full((heads, 1, 1), math.log(4.0))) if l2_norm else None
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, slot: AttentionSlot, turn: Tensor | None = None) -> Tensor:
        """x (B, l, C) to (B, l, C). turn: rotary positions (l, D / 2, 2) of the tokens, where they have some."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.scale_mul is None:
            q = q * (0.25 / math.sqrt(q.shape[-1]))
        else:
            q = F.normalize(q, dim=-1) * self.scale_mul.clamp_max(MAX_LOG_SCALE).exp()
            k = F.normalize(k, dim=-1)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        return self.proj(slot.attend(q, k, v, partial(self.plain_queries, x)).transpose(1, 2).flatten(2))

    def plain_queries(self, x: Tensor, at: Tensor) -> Tensor:
        """Queries (B, H, n, D) of the tokens ``at`` (n,) of x (B, l, C) as they are projected, and no more."""
        weight = self.qkv.weight[: self.proj.in_features]
        return F.linear(x[:, at], weight).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def flops(self, tokens: int, seen: Count) -> int:
        """FLOPs of ``tokens`` tokens of one row that see ``seen`` keys."""
        c = self.proj.in_features
        return 2 * tokens * 4 * c * c + int(4 * tokens * seen * c)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T + mask) v for (B, H, l, D) queries that carry their scale already: the one seam to faster kernels.

    ``mask``: bool, True where a query may look; ``None`` lets every query see every key.
    """
    if q.device.type == "cpu" and q.requires_grad:
        # PyTorch's kernel for CPUs goes backwards three times slower in bfloat16 than in float32.
        with torch.autocast("cpu", enabled=False):
            wide = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask, scale=1.0)
        return wide.to(v.dtype)
    return F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask, scale=1.0)
