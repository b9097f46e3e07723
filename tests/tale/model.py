"""The tale's model: a transformer of the past and of its own scale, that looks at letters through cross-attention, has
a prefix made of them, and goes over a scale again. Its unconditional branch sees the negative text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.conditions.base import Branches, Features, Source
from nextscale.layers.attention import Attention, attend
from nextscale.layers.slots import AttentionSlot
from nextscale.models.base import Again, Condition, NextScaleModel, Prefix
from nextscale.scales import ScaleSchedule
from tests.tale.conditioner import LONGEST


@dataclass(frozen=True, kw_only=True)
class TaleConfig:
    """Sizes of the tale."""

    width: int = 16
    layers: int = 2
    letters: int
    codes: int = 12
    code_dim: int = 4
    sizes: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (4, 4))
    schedules: tuple[tuple[tuple[int, int], ...], ...] = ()
    lengths: tuple[int, ...] = ()


class Tale(NextScaleModel):
    """Draws codes by any schedule."""

    memory, guidance, has_passes = "full", "constant", True
    sources, away_from = ("text",), ("negative",)

    def __init__(self, config: TaleConfig) -> None:
        super().__init__()
        self.config, self.schedule = config, ScaleSchedule(config.sizes)
        self.choices, self.code_dim, width = config.codes, config.code_dim, config.width
        self.letters, self.null = nn.Linear(config.letters, width), nn.Parameter(torch.zeros(width))
        self.first, self.mask = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.inputs = nn.Linear(config.code_dim, width)
        blocks = [TaleBlock(width) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.slots = tuple(replace(block.attention.spec, block=i) for i, block in enumerate(blocks))
        self.out = nn.Linear(width, config.codes)

    @property
    def schedules(self) -> tuple[ScaleSchedule, ...]:
        return tuple(map(ScaleSchedule, self.config.schedules)) or super().schedules

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.config.lengths or super().lengths

    @property
    def reads(self) -> Mapping[str, int]:
        return {"text": self.config.letters}

    def check(self, schedule: ScaleSchedule) -> None:
        """Any will do."""

    def prefix_tokens(self, schedule: ScaleSchedule) -> int:
        return 1

    def blank(self, images: int, device: torch.device) -> Features:
        states = torch.zeros(images, LONGEST, self.config.letters, device=device)
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=device)
        source = Source("text", {"states": states, "mask": mask})
        return Features(images, {"text": source, "negative": source})

    def condition(
        self, features: Features, branches: Branches | None = None, schedule: ScaleSchedule | None = None
    ) -> Condition:
        texts, masks = [], []
        for branch in (self.sources,) if branches is None else branches:
            source = features.seen(branch, "text")
            shape = (features.images, LONGEST)
            states, mask = self.null.expand(*shape, -1), torch.zeros(shape, dtype=torch.bool, device=self.null.device)
            mask[:, 0] = True
            if source is not None:
                said, seen = self.letters(source.tensors["states"].to(states)), source.tensors["mask"]
                if source.dropped is not None:
                    said = torch.where(source.dropped[:, None, None], states, said)
                    seen = torch.where(source.dropped[:, None], mask, seen)
                states, mask = said, seen
            texts.append(states)
            masks.append(mask)
        text, mask = torch.cat(texts), torch.cat(masks)
        mean = (text * mask[..., None]).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        start = self.first.expand(len(text), 1, -1)
        context = tuple(block.look(text) for block in self.blocks)  # type: ignore[operator]
        return Condition(start, context=context, mask=mask, prefix=Prefix(mean, (1, 1), 0))

    def embed(
        self, inputs: Tensor | None, k: int, condition: Condition, schedule: ScaleSchedule, again: Again | None = None
    ) -> Tensor:
        if inputs is None:
            x = condition.start.expand(-1, schedule.lengths[0], -1)
        else:
            x = self.inputs(inputs.flatten(2).mT.to(self.inputs.weight.dtype))
            x = x.repeat(condition.rows // len(x), 1, 1)
        if again is None:
            return x
        drawn = self.inputs(again.inputs.flatten(2).mT.to(self.inputs.weight.dtype))
        drawn = torch.where(again.masked[..., None], self.mask.to(drawn), drawn)
        return x + drawn.repeat(condition.rows // len(drawn), 1, 1)

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
        assert condition.mask is not None
        return self.blocks[i](x, condition.context[i], condition.mask[:, None, None], *slots)

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        return self.out(hidden).float()

    def condition_flops(self, rows: int) -> int:
        return 2 * rows * LONGEST * self.config.letters * self.config.width

    def embed_flops(self, tokens: int, k: int, images: int) -> int:
        return 2 * images * tokens * self.config.code_dim * self.config.width if k else 0

    def head_flops(self, tokens: int, rows: int) -> int:
        return 2 * rows * tokens * self.config.width * self.config.codes


class TaleBlock(nn.Module):
    """Attention to the past, then to the letters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention, self.query = Attention(width, 2, True), nn.Linear(width, width)
        self.key, self.value = nn.Linear(width, width, bias=False), nn.Linear(width, width)

    def look(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (R, 1, T, C) of the letters (R, T, C)."""
        return self.key(text)[:, None], self.value(text)[:, None]

    def forward(self, x: Tensor, letters: tuple[Tensor, ...], mask: Tensor, slot: AttentionSlot) -> Tensor:
        x = x + self.attention(x, slot)
        return x + torch.tanh(attend(self.query(x)[:, None], letters[0], letters[1], mask)[:, 0])

    def flops(self, tokens: int, seen: int) -> int:
        c = self.query.in_features
        return self.attention.flops(tokens, seen) + 2 * tokens * c * c + 4 * tokens * LONGEST * c
