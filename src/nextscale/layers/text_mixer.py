"""What makes a text of words that know neither order nor neighbours: positions, and a small transformer.

A frozen encoder that looks at every word alone gives the same states for "left arrow curving right" and "right arrow
curving left", and cross-attention adds no positions. So they are mixed once, in front of everything that reads them.

Shape letters: ``R`` texts, ``T`` tokens, ``c`` their width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nextscale.layers.adaln import FeedForward
from nextscale.layers.attention import attend

EACH = 32
"""Channels of a head, of which there is one at least."""


def heads_of(width: int) -> int:
    """Heads of a mixer of this width."""
    return max(1, width // EACH)


class TextMixer(nn.Module):
    """Learned positions, then ``layers`` pre-norm transformer layers of the width of the states."""

    def __init__(self, width: int, length: int, layers: int) -> None:
        """length: tokens that there are at most."""
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(length, width))
        self.layers = nn.ModuleList(TextLayer(width) for _ in range(layers))

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States (R, T, c) and their mask (R, T) bool to states (R, T, c)."""
        x = states.to(self.positions.dtype) + self.positions[: states.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        return x

    def flops(self, tokens: int) -> int:
        """FLOPs of a text of ``tokens`` tokens."""
        return sum(layer.flops(tokens) for layer in self.layers)  # type: ignore[operator]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Start with the states as they are, but for a trace of their places: the last matrix of each branch is zero,
        positions are small, other matrices a normal of std 1 / sqrt(c). A mixer that starts by mixing hides the words
        from a model that has yet to learn them.
        """
        nn.init.trunc_normal_(self.positions, std=0.02)
        for layer in self.layers:
            layer.init_weights()  # type: ignore[operator]


class TextLayer(nn.Module):
    """Attention among the tokens of a text, and a feed-forward of four times the width, each behind a layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = heads_of(width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.ffn = FeedForward(width, 4 * width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x (R, T, c) to (R, T, c); a token sees those where mask (R, T) is True."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = attend(q * q.shape[-1] ** -0.5, k, v, mask[:, None, None])
        x = x + self.proj(seen.transpose(1, 2).flatten(2))
        return x + self.ffn(self.norm2(x))

    def flops(self, tokens: int) -> int:
        """FLOPs of :meth:`forward` for one text of ``tokens`` tokens."""
        c = self.proj.in_features
        return 8 * tokens * c * c + 4 * tokens * tokens * c + self.ffn.flops(tokens)

    def init_weights(self) -> None:
        """See :meth:`TextMixer.init_weights`."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(self.proj.in_features))
                nn.init.zeros_(module.bias)
        for last in (self.proj, self.ffn.fc2):
            nn.init.zeros_(last.weight)
