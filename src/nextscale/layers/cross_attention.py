"""Attention to a text: of an image's tokens, block by block, and of one learned query that sums it up.

Shape letters: ``R`` rows (branches x images), ``l`` tokens of this call, ``T`` of the text, ``C`` width, ``c`` width of
what is looked at, ``H`` heads, ``D`` head width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nextscale.layers.attention import attend


class KeysAndValues(nn.Module):
    """Keys and values of a text; values have a bias, keys have none."""

    def __init__(self, seen: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv = nn.Linear(seen, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Text (R, T, c) to keys and values (R, H, T, D)."""
        k, v = self.kv(text).chunk(2, -1)
        k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (k, v + self.v_bias))
        return k, v

    def flops(self, tokens: int) -> int:
        """FLOPs of a text of ``tokens`` tokens."""
        return 2 * tokens * self.kv.in_features * self.kv.out_features


class CrossAttention(nn.Module):
    """Multi-head attention to keys and values that were made of the text before; softmax scale D^-0.5."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.text = KeysAndValues(width, width, heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """x (R, l, C) to (R, l, C). k, v: of ``text``; mask: (R, T) bool, True where there is a token."""
        q = self.q(x).unflatten(-1, (self.text.heads, -1)).transpose(1, 2)
        seen = attend(q * q.shape[-1] ** -0.5, k, v, mask[:, None, None])
        return self.proj(seen.transpose(1, 2).flatten(2))

    def flops(self, tokens: int, text: int) -> int:
        """FLOPs of ``tokens`` tokens of one row that look at ``text`` tokens."""
        c = self.q.in_features
        return 4 * tokens * c * c + 4 * tokens * text * c


class Pool(nn.Module):
    """A text in one vector: attention of one learned query."""

    def __init__(self, seen: int, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(heads, width // heads))
        self.text = KeysAndValues(seen, width, heads)
        self.proj = nn.Linear(width, width)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Text (R, T, c) and its mask (R, T) to vectors (R, C)."""
        k, v = self.text(text)
        q = (self.query * self.query.shape[-1] ** -0.5)[:, None].to(k.dtype)
        seen = attend(q.expand(len(text), -1, -1, -1), k, v, mask[:, None, None])
        return self.proj(seen[:, :, 0].flatten(1))

    def flops(self, text: int) -> int:
        """FLOPs of a text of ``text`` tokens."""
        c = self.proj.in_features
        return self.text.flops(text) + 4 * text * c + 2 * c * c
