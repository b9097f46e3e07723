"""The toy's model: scales are predicted from inputs and words, by blocks that look at their own scale alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.conditions.base import Branches, Features, Source
from nextscale.errors import PlanError
from nextscale.layers.attention import Attention
from nextscale.layers.slots import AttentionSlot
from nextscale.models.base import Again, Condition, NextScaleModel
from nextscale.scales import ScaleSchedule


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Sizes of the toy."""

    width: int = 16
    layers: int = 2
    words: int
    bits: int = 4
    sides: tuple[int, ...] = (1, 2, 4)


class Toy(NextScaleModel):
    """Draws bits by any schedule of square scales, with no memory."""

    memory, guidance, sources, choices = "none", "constant", ("words",), 2

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config, self.schedule = config, ScaleSchedule.of(config.sides)
        self.draws = self.code_dim = config.bits
        self.words, self.null = nn.Linear(config.words, config.width), nn.Parameter(torch.zeros(config.width))
        self.inputs = nn.Linear(config.bits, config.width)
        blocks = [ToyBlock(config.width) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.slots = tuple(replace(block.attention.spec, block=i) for i, block in enumerate(blocks))
        self.out = nn.Linear(config.width, 2 * config.bits)

    @property
    def reads(self) -> Mapping[str, int]:
        return {"words": self.config.words}

    def check(self, schedule: ScaleSchedule) -> None:
        if any(h != w for h, w in schedule):
            raise PlanError(f"the toy draws square scales and cannot draw the scales {schedule}")

    def blank(self, images: int, device: torch.device) -> Features:
        counts = torch.zeros(images, self.config.words, device=device)
        return Features(images, {"words": Source("words", {"counts": counts})})

    def condition(
        self, features: Features, branches: Branches | None = None, schedule: ScaleSchedule | None = None
    ) -> Condition:
        vectors = []
        for branch in (tuple(features.sources),) if branches is None else branches:
            source, null = features.seen(branch, "words"), self.null.expand(features.images, -1)
            if source is None:
                vectors.append(null)
                continue
            said = self.words(source.tensors["counts"].to(null))
            vectors.append(said if source.dropped is None else torch.where(source.dropped[:, None], null, said))
        vector = torch.cat(vectors)
        return Condition(start=vector[:, None], vector=vector)

    def embed(
        self, inputs: Tensor | None, k: int, condition: Condition, schedule: ScaleSchedule, again: Again | None = None
    ) -> Tensor:
        if inputs is None:
            return condition.start.expand(-1, schedule.lengths[0], -1)
        assert condition.vector is not None
        x = self.inputs(inputs.flatten(2).mT.to(self.inputs.weight.dtype))
        return x.repeat(condition.rows // len(x), 1, 1) + condition.vector[:, None]

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
        return self.blocks[i](x, *slots)

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        return self.out(hidden).unflatten(-1, (self.draws, 2)).float()

    def condition_flops(self, rows: int) -> int:
        return 2 * rows * self.config.words * self.config.width

    def embed_flops(self, tokens: int, k: int, images: int) -> int:
        return 2 * images * tokens * self.draws * self.config.width if k else 0

    def head_flops(self, tokens: int, rows: int) -> int:
        return 2 * rows * tokens * self.config.width * 2 * self.draws


class ToyBlock(nn.Module):
    """Attention inside the scale, and a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(width, 2, True, reads="own"), nn.Linear(width, width)

    def forward(self, x: Tensor, slot: AttentionSlot) -> Tensor:
        x = x + self.attention(x, slot)
        return x + torch.tanh(self.mlp(x))

    def flops(self, tokens: int, seen: int) -> int:
        c = self.mlp.in_features
        return self.attention.flops(tokens, seen) + 2 * tokens * c * c
