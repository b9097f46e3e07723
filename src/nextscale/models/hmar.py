"""HMAR: hierarchical masked autoregressive generation (arXiv 2506.04421).

VAR whose tokens see their own scale alone: the coarser ones arrive through the canvas, which is the scale's input
anyway, so nothing is remembered. Beside it stands a masked branch, which shares all but the last blocks: in further
passes over a scale it draws those of its tokens anew that were the least sure, given the others.

Shape letters as in ``models/base.py``; embeddings and head stand in ``models/class_transformer.py``. Written from the
paper's equations and published tensors' names alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.errors import CheckpointError
from nextscale.models.base import Again, Condition, drop_paths
from nextscale.models.class_transformer import ClassTransformer
from nextscale.models.var import Block, VARConfig
from nextscale.scales import ScaleSchedule
from nextscale.settings import check_bounds


@dataclass(frozen=True, kw_only=True)
class HMARConfig(VARConfig):
    """Sizes of an HMAR. mask_blocks: how many of the last blocks the masked branch has of its own, 0: there is no such
    branch; leak: whether what a further pass is told of a scale was drawn with the tokens that are masked, too, whose
    traces stay in their neighbours (as published).
    """

    mask_blocks: int = 0
    leak: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_bounds(self, mask_blocks=(0, self.depth))

    @classmethod
    def published(cls, depth: int, pixels: int = 256) -> HMARConfig:
        """The official configuration of depth 16 to 30, eight blocks of which the masked branch has of its own."""
        return cls(
            depth=depth,
            width=64 * depth,
            heads=depth,
            sizes=ScaleSchedule.preset(str(pixels)).sizes,
            drop_path=0.1 * depth / 24,
            mask_blocks=min(8, depth),
        )


class HMAR(ClassTransformer):
    """See :class:`~nextscale.models.base.NextScaleModel` for the methods. ``blocks`` draw a scale first; in further
    passes ``mask_blocks`` stand where the last of them do.
    """

    name = "HMAR"
    gates = 2
    memory = "none"
    free = ("leak", "mask_blocks")
    config: HMARConfig

    def __init__(self, config: HMARConfig) -> None:
        super().__init__(config)
        c, self.has_passes = config.width, config.mask_blocks > 0
        self.hides_masked = not config.leak
        self.shared_ada_lin = nn.Linear(c, 6 * c) if config.shared_adaln else None
        blocks = [Block(config, reads="own") for _ in range(config.depth)]
        self.blocks = nn.ModuleList(blocks)
        self.slots = tuple(replace(block.attention.spec, block=i) for i, block in enumerate(blocks))
        self.head_ada_lin = nn.Linear(c, 2 * c)
        self.head_lin = nn.Linear(c, config.codes)
        self.mask_blocks = nn.ModuleList(Block(config, reads="own") for _ in range(config.mask_blocks))
        if self.has_passes:
            self.mask_embedding = nn.Parameter(torch.zeros(1, c))
            self.mask_head_ada_lin = nn.Linear(c, 2 * c)
            self.mask_head_lin = nn.Linear(c, config.codes)

    @property
    def shared_blocks(self) -> int:
        """How many of the first blocks both branches run."""
        return self.config.depth - self.config.mask_blocks

    def modulation(self, activated: Tensor) -> tuple[Tensor, ...]:
        """Of all blocks, then of the masked branch's own."""
        shared = None if self.shared_ada_lin is None else self.shared_ada_lin(activated)
        every = [*self.blocks, *self.mask_blocks]
        return tuple(block.modulation(activated, shared) for block in every)

    def drop_paths(self, condition: Condition, chance: Tensor) -> Condition:
        """A block of the masked branch drops as the one in whose place it stands."""
        if not self.config.drop_path:
            return condition
        places = [*range(self.config.depth), *range(self.shared_blocks, self.config.depth)]
        return drop_paths(condition, chance[:, places], [self.config.drop_path_of(i) for i in places])

    def embed(
        self, inputs: Tensor | None, k: int, condition: Condition, schedule: ScaleSchedule, again: Again | None = None
    ) -> Tensor:
        """In a further pass a token that stays adds what it alone draws to the input, W (u + v) + b, and one that is
        masked the mask's embedding, W u + b + e.
        """
        if again is None:
            return super().embed(inputs, k, condition, schedule)
        own = again.inputs.masked_fill(again.masked.view(-1, 1, *again.inputs.shape[2:]), 0)
        x = super().embed(None if inputs is None else inputs + own.to(inputs.dtype), k, condition, schedule)
        added = again.masked[..., None].to(x.dtype) * self.mask_embedding
        if inputs is None:
            weight = self.word_embedding.weight
            added = added + nn.functional.linear(own.flatten(2).mT.to(weight.dtype), weight)
        return x + added.repeat(len(x) // len(added), 1, 1)

    def run_block(
        self,
        i: int,
        x: Tensor,
        k: int | None,
        condition: Condition,
        slots: Sequence[Any],
        schedule: ScaleSchedule,
        number: int = 0,
    ) -> Tensor:
        if not number or i < self.shared_blocks:
            return super().run_block(i, x, k, condition, slots, schedule, number)
        j = i - self.shared_blocks
        return self.mask_blocks[j](x, condition.modulation[self.config.depth + j], *slots)

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        if not number:
            return super().head(hidden, condition)
        return self.logits(hidden, condition, self.mask_head_ada_lin, self.mask_head_lin)

    def condition_flops(self, rows: int) -> int:
        projections = 1 if self.config.shared_adaln else self.config.depth + self.config.mask_blocks
        return 2 * rows * projections * 6 * self.config.width**2

    def begun_from(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A first stage gives the masked branch the blocks and the head in whose places it stands."""
        there = {name.split(".")[1] for name in state if name.startswith("mask_blocks.")}
        if len(there) not in (0, self.config.mask_blocks) or (there and not self.has_passes):
            raise CheckpointError(
                f"the masked branch of the checkpoint has {len(there)} blocks of its own; expected "
                f"{self.config.mask_blocks}, or none"
            )
        if there or not self.has_passes:
            return state
        begun = {"mask_embedding": self.mask_embedding.detach()}
        for name, t in state.items():
            found = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
            if found is not None and int(found[1]) >= self.shared_blocks:
                begun[f"mask_blocks.{int(found[1]) - self.shared_blocks}.{found[2]}"] = t
            elif name.startswith("head_"):
                begun[f"mask_{name}"] = t
        return state | begun

    @torch.no_grad()
    def init_weights(self, gamma: float = 1e-3, head: float = 0.02) -> None:
        """The official initialisation, VAR's; the masked branch begins as the blocks and the head in whose places it
        stands. Call before training.
        """
        self.init_outside(head)
        for block in self.blocks:
            block.init_weights(gamma, math.sqrt(2 * self.config.depth))  # type: ignore[operator]
        if self.has_passes:
            nn.init.trunc_normal_(self.mask_embedding, std=math.sqrt(1 / (3 * self.config.width)))
            first = {name: t for name, t in self.state_dict().items() if not name.startswith("mask_")}
            self.load_state_dict(self.begun_from(first))
