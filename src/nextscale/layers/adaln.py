"""Adaptive layer norm and feed-forward: the small parts every block of the family shares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LN(x) (1 + scale) + shift, the norm without parameters of its own. x (B, l, C); scale, shift (B, 1, C)."""
    return torch.addcmul(shift, F.layer_norm(x, (x.shape[-1],), eps=eps), 1 + scale)


class FeedForward(nn.Module):
    """Linear, GELU (tanh form), Linear."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        """out: width of the result, by default that of the input."""
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width if out is None else out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))

    def flops(self, tokens: int) -> int:
        """FLOPs of ``tokens`` tokens of one row."""
        return 2 * tokens * self.fc1.out_features * (self.fc1.in_features + self.fc2.out_features)
