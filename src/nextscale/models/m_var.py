"""M-VAR: decoupled scale-wise autoregressive modelling (arXiv 2411.10433).

VAR with its attention split in two: softmax attention inside each scale only, and one linear-cost causal
mixer, Mamba-2, over all tokens in order, which carries information from scale to scale. So nothing is
remembered of earlier scales but a recurrent state of fixed size. The factorisation is VAR's: p(scale k |
scales < k).

Shape letters as in ``models/base.py``; embeddings and head stand in ``models/class_transformer.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from nextscale.errors import InputError
from nextscale.layers.adaln import FeedForward, modulate
from nextscale.layers.attention import Attention
from nextscale.layers.mamba2 import Mamba2
from nextscale.layers.slots import AttentionSlot, Count
from nextscale.models.class_transformer import ClassTransformer, ClassTransformerConfig
from nextscale.scales import ScaleSchedule
from nextscale.settings import check_bounds

InterScaleMixer = Mamba2 | Attention
"""What stands between scales: ``mixer(x (R, l, C), slot) -> (R, l, C)``, with ``spec`` and ``flops(tokens,
seen)``.
"""


@dataclass(frozen=True, kw_only=True)
class MVARConfig(ClassTransformerConfig):
    """Sizes of an M-VAR transformer. mixer: the layer between scales, Mamba-2 (as published) or attention
    over all scales; state, head_dim: states and channels per head of Mamba-2.
    """

    mixer: Literal["mamba2", "attention"] = "mamba2"
    state: int = 64
    head_dim: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixer not in ("mamba2", "attention"):
            raise InputError(f"there is no inter-scale mixer {self.mixer!r}; expected 'mamba2' or 'attention'")
        check_bounds(self, state=(1, 65_536), head_dim=(1, 65_536))
        if 2 * self.width % self.head_dim:
            raise InputError(f"an inner width of {2 * self.width} cannot be split into heads of {self.head_dim}")

    @classmethod
    def published(cls, depth: int, pixels: int = 256) -> MVARConfig:
        """The official configuration of depth 12 to 32. L2-normalised attention is off up to depth 20 and on
        at 32, as the authors say; 24 is unspecified and taken as on.
        """
        return cls(
            depth=depth,
            width=64 * depth,
            heads=depth,
            sizes=ScaleSchedule.preset(str(pixels)).sizes,
            l2_norm=depth > 20,
            drop_path=0.1 * depth / 24,
        )


class MVAR(ClassTransformer):
    """See :class:`~nextscale.models.base.NextScaleModel` for the methods. Two slots per block: attention,
    then mixer.
    """

    name = "M-VAR"
    gates = 3
    config: MVARConfig

    def __init__(self, config: MVARConfig) -> None:
        super().__init__(config)
        c = config.width
        blocks = [Block(config, inter_scale_mixer(config)) for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.slots = tuple(
            replace(spec, block=i)
            for i, block in enumerate(blocks)
            for spec in (block.attention.spec, block.mixer.spec)
        )
        self.memory = "recurrent" if config.mixer == "mamba2" else "full"
        self.head_ada_lin = nn.Linear(c, 2 * c)
        self.head_lin = nn.Linear(c, config.codes)

    def modulation(self, activated: Tensor) -> tuple[Tensor, ...]:
        return tuple(block.modulation(activated) for block in self.blocks)  # type: ignore[operator]

    def condition_flops(self, rows: int) -> int:
        return 2 * rows * self.config.depth * 9 * self.config.width**2

    @torch.no_grad()
    def init_weights(self, gamma: float = 1e-3, head: float = 0.02, official: bool = False) -> None:
        """The official initialisation: that of ``init_outside``, the mixer's convolution of std 0.02, outputs
        of attention and feed-forward divided by sqrt(2 depth), gates times ``gamma``. Call before training.

        official: as the authors' code does, scale the first two of the three gates only (it still counts
        VAR's six chunks), so that the feed-forward's gate starts at 0.5 like the rest; by default all three
        gates start small.
        """
        self.init_outside(head)
        for block in self.blocks:
            block.init_weights(gamma, math.sqrt(2 * self.config.depth), 2 if official else 3)  # type: ignore[operator]


class Block(nn.Module):
    """Attention inside the scale, the mixer between scales, feed-forward; each behind an AdaLN and a learned
    gate.
    """

    def __init__(self, config: MVARConfig, mixer: InterScaleMixer) -> None:
        super().__init__()
        c = config.width
        self.eps = config.norm_eps
        self.attention = Attention(c, config.heads, config.l2_norm, reads="own")
        self.mixer = mixer
        self.ffn = FeedForward(c, round(c * config.mlp_ratio))
        self.ada_lin = nn.Linear(c, 9 * c)

    def modulation(self, activated: Tensor) -> Tensor:
        """gamma1..3, s1..3, b1..3 as (R, 1, 9, C) from SiLU of the condition (R, C)."""
        return self.ada_lin(activated).unflatten(-1, (1, 9, -1))

    def forward(self, x: Tensor, modulation: Tensor, own: AttentionSlot, past: object) -> Tensor:
        """x (R, l, C) to (R, l, C). own: the attention's slot; past: the mixer's, of the kind its spec asks
        for.
        """
        gamma1, gamma2, gamma3, s1, s2, s3, b1, b2, b3 = modulation.unbind(2)
        x = x + gamma1 * self.attention(modulate(x, s1, b1, self.eps), own)
        x = x + gamma2 * self.mixer(modulate(x, s2, b2, self.eps), past)
        return x + gamma3 * self.ffn(modulate(x, s3, b3, self.eps))

    def flops(self, tokens: int, own: int, seen: Count) -> int:
        """FLOPs of :meth:`forward` for ``tokens`` tokens of one row that see ``own`` keys of their scale; ``seen``:
        what the mixer sees.
        """
        return self.attention.flops(tokens, own) + self.mixer.flops(tokens, seen) + self.ffn.flops(tokens)

    def init_weights(self, gamma: float, shrink: float, gates: int) -> None:
        """See ``MVAR.init_weights``; gates: how many chunks of the AdaLN are scaled by ``gamma``."""
        self.attention.proj.weight.div_(shrink)
        self.ffn.fc2.weight.div_(shrink)
        if isinstance(self.mixer, Mamba2):
            self.mixer.init_weights()
        else:
            self.mixer.proj.weight.div_(shrink)
        rows = gates * self.ada_lin.in_features
        self.ada_lin.weight[:rows].mul_(gamma)
        self.ada_lin.weight[rows:].mul_(0.5)


def inter_scale_mixer(config: MVARConfig) -> InterScaleMixer:
    """The layer between scales that the configuration names."""
    if config.mixer == "mamba2":
        return Mamba2(config.width, config.state, config.head_dim)
    return Attention(config.width, config.heads, config.l2_norm)
