"""The blocks of a text-to-image transformer: Infinity's (arXiv 2412.04431), whose attention sees all scales, and what
M-VAR's decoupling (arXiv 2411.10433) makes of it.

Shape letters as in ``models/base.py``; ``T`` tokens of a text.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from nextscale.layers.adaln import FeedForward, modulate
from nextscale.layers.attention import Attention
from nextscale.layers.cross_attention import CrossAttention
from nextscale.layers.mamba2 import Mamba2
from nextscale.layers.slots import AttentionSlot, Count, SlotSpec, StateSlot


class Block(nn.Module):
    """Self-attention, cross-attention to the text, feed-forward. The first and the last stand behind a shared AdaLN
    and a gate, the middle one behind a norm of its own.
    """

    gates = 2

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        text_length: int,
        eps: float,
        reads: Literal["own", "past"] = "past",
    ) -> None:
        super().__init__()
        self.eps, self.text_length = eps, text_length
        self.attention = Attention(width, heads, l2_norm=True, reads=reads)
        self.cross_norm = nn.LayerNorm(width, eps)
        self.cross = CrossAttention(width, heads)
        self.ffn = FeedForward(width, hidden)
        self.ada_gss = nn.Parameter(torch.randn(3 * self.gates, width) / math.sqrt(width))

    @property
    def specs(self) -> tuple[SlotSpec, ...]:
        """Of the slots that :meth:`forward` takes."""
        return (self.attention.spec,)

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        text: tuple[Tensor, ...],
        mask: Tensor,
        table: Tensor,
        slot: AttentionSlot,
    ) -> Tensor:
        """x (R, l, C) to (R, l, C). text: keys and values; mask: (R, T) of them; table: rotary positions."""
        gamma1, gamma2, s1, s2, b1, b2 = modulation.unbind(2)
        x = x + gamma1 * self.attention(modulate(x, s1, b1, self.eps), slot, table)
        x = x + self.cross(self.cross_norm(x), *text, mask)
        return x + gamma2 * self.ffn(modulate(x, s2, b2, self.eps))

    def flops(self, tokens: int, seen: Count) -> int:
        """FLOPs of :meth:`forward` for ``tokens`` tokens of one row that see ``seen`` keys and the longest text."""
        text = self.cross.flops(tokens, self.text_length)
        return self.attention.flops(tokens, seen) + text + self.ffn.flops(tokens)

    def init_weights(self, gamma: float, shift: float, shrink: float) -> None:
        """See ``Infinity.init_weights``."""
        for last in (self.attention.proj, self.cross.proj, self.ffn.fc2):
            last.weight.div_(shrink)
        self.ada_gss[: self.gates].mul_(gamma)
        self.ada_gss[self.gates :].mul_(shift)


class DecoupledBlock(Block):
    """Attention inside the scale, a mixer between scales, cross-attention to the text, feed-forward.

    The first two stand together where the other block has its self-attention, and mean the same: a token has seen its
    scale and all that was drawn before when it asks the text. The mixer has an AdaLN and a gate like its neighbours.
    """

    gates = 3

    def __init__(self, width: int, heads: int, hidden: int, text_length: int, eps: float, *, mixer: Mamba2) -> None:
        super().__init__(width, heads, hidden, text_length, eps, reads="own")
        self.mixer = mixer

    @property
    def specs(self) -> tuple[SlotSpec, ...]:
        """Of the slots that :meth:`forward` takes."""
        return (self.attention.spec, self.mixer.spec)

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        modulation: Tensor,
        text: tuple[Tensor, ...],
        mask: Tensor,
        table: Tensor,
        own: AttentionSlot,
        past: StateSlot,
    ) -> Tensor:
        """As of the other block. own: the attention's slot; past: the mixer's."""
        gamma1, gamma2, gamma3, s1, s2, s3, b1, b2, b3 = modulation.unbind(2)
        x = x + gamma1 * self.attention(modulate(x, s1, b1, self.eps), own, table)
        x = x + gamma2 * self.mixer(modulate(x, s2, b2, self.eps), past)
        x = x + self.cross(self.cross_norm(x), *text, mask)
        return x + gamma3 * self.ffn(modulate(x, s3, b3, self.eps))

    def flops(self, tokens: int, own: int, seen: Count) -> int:  # type: ignore[override]
        """As of the other block, for tokens that see ``own`` keys of their scale; ``seen``: what the mixer sees."""
        return super().flops(tokens, own) + self.mixer.flops(tokens, seen)

    def init_weights(self, gamma: float, shift: float, shrink: float) -> None:
        """As of the other block; the mixer starts as M-VAR's, whose output is not divided by ``shrink``."""
        super().init_weights(gamma, shift, shrink)
        self.mixer.init_weights()
