"""Small tokenizers and models of other kinds than VAR's, for the laws: bits, free schedules, no memory, passes,
prefixes, positions, and adapters around a slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.conditions.base import Branches, Features
from nextscale.conditions.classes import class_features
from nextscale.layers.attention import Attention, attend
from nextscale.layers.slots import AttentionSlot, SlotWrapper
from nextscale.models.base import Again, Condition, NextScaleModel, Prefix
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Canvas, Tokenizer
from tests.makers import CLASSES, CODE_DIM, CODES, SIZES, randomise

C = 16


class BitTokenizer(Tokenizer):
    """Bits: the signs of what the canvas lacks, one per channel of the latent. Any schedule will do."""

    draws, choices, code_dim, stride = CODE_DIM, 2, CODE_DIM, 4

    def __init__(self) -> None:
        super().__init__()
        self.schedule = ScaleSchedule(SIZES)
        self.encoder, self.decoder = nn.Conv2d(3, CODE_DIM, 1), nn.Conv2d(CODE_DIM, 3, 1)

    def latent(self, images: Tensor) -> Tensor:
        return self.encoder(F.avg_pool2d(images, self.stride))

    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        residual = F.interpolate(latent - canvas.latent, canvas.schedule[k], mode="area")
        return (residual > 0).long().permute(0, 2, 3, 1)

    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        schedule = schedule or self.schedule
        return Canvas(torch.zeros(batch, CODE_DIM, *schedule.grid, device=self.decoder.weight.device), schedule)

    def codes(self, tokens: Tensor) -> Tensor:
        value = tokens[..., 1] - tokens[..., 0] if tokens.is_floating_point() else 2.0 * tokens - 1
        return value.permute(0, 3, 1, 2) / CODE_DIM**0.5

    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        larger = F.interpolate(codes, canvas.schedule.grid, mode="bilinear")
        return replace(canvas, latent=canvas.latent + larger, done=k + 1)

    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        return F.interpolate(canvas.latent, canvas.schedule[k], mode="area")

    def decode(self, canvas: Canvas) -> Tensor:
        return F.interpolate(self.decoder(canvas.latent), scale_factor=self.stride).clamp(-1, 1)

    def accumulate_flops(self, schedule: ScaleSchedule, k: int) -> int:
        return 0

    def decode_flops(self, schedule: ScaleSchedule, done: int) -> int:
        return 2 * 3 * CODE_DIM * schedule.grid[0] * schedule.grid[1]


class PlacingTokenizer(BitTokenizer):
    """Token k stands at place k of a grid of 3 x 3: with a schedule of nine 1x1 scales any model predicts token after
    token.
    """

    def __init__(self) -> None:
        super().__init__()
        self.schedule = ScaleSchedule.of([1] * 9)

    def pixels(self, schedule: ScaleSchedule | None = None) -> tuple[int, int]:
        return 3 * self.stride, 3 * self.stride

    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        return (latent.flatten(2)[..., k] > 0).long()[:, None, None]

    def start(self, batch: int, schedule: ScaleSchedule | None = None) -> Canvas:
        return Canvas(torch.zeros(batch, CODE_DIM, 3, 3), schedule or self.schedule)

    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        latent = canvas.latent.flatten(2).clone()
        latent[..., k] = codes.flatten(1)
        return replace(canvas, latent=latent.unflatten(2, (3, 3)), done=k + 1)

    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        return canvas.latent.flatten(2)[..., k - 1, None, None]


class LastMapTokenizer(BitTokenizer):
    """Every scale holds all of the latent at its size, and the canvas is the last map alone (arXiv 2502.20313)."""

    whole_maps = True

    def quantize(self, latent: Tensor, canvas: Canvas, k: int) -> Tensor:
        return (F.interpolate(latent, canvas.schedule[k], mode="area") > 0).long().permute(0, 2, 3, 1)

    def accumulate(self, canvas: Canvas, codes: Tensor, k: int) -> Canvas:
        return replace(canvas, latent=codes, done=k + 1)

    def next_input(self, canvas: Canvas, k: int) -> Tensor:
        return F.interpolate(canvas.latent, canvas.schedule[k], mode="bicubic")


class FreeModel(NextScaleModel):
    """A transformer without positions, so that any schedule will do. It can go over a scale again.

    reads: its own scale, or the past; draws, choices: of the tokens; prefix: tokens in front of the first scale.
    """

    guidance, sources, has_passes = "constant", ("class",), True

    def __init__(
        self,
        reads: Literal["own", "past"] = "own",
        draws: int = 1,
        choices: int = CODES,
        prefix: int = 0,
        with_first: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = ScaleSchedule(SIZES)
        self.memory = {"own": "none", "past": "full"}[reads]
        self.classes, self.words = nn.Embedding(CLASSES + 1, C), nn.Linear(CODE_DIM, C)
        self.level, self.mask = nn.Parameter(torch.zeros(C)), nn.Parameter(torch.zeros(C))
        self.ahead, self.prefix, self.prefix_with_first = nn.Parameter(torch.zeros(3, C)), prefix, with_first
        blocks = [FreeBlock(reads) for _ in range(3)]
        self.blocks = nn.ModuleList(blocks)
        self.slots = tuple(replace(block.attention.spec, block=i) for i, block in enumerate(blocks))
        self.out, self.code_dim = nn.Linear(C, draws * choices), CODE_DIM
        self.draws, self.choices = draws, choices

    @property
    def reads(self) -> Mapping[str, int]:
        return {"class": CLASSES}

    def check(self, schedule: ScaleSchedule) -> None: ...

    def prefix_tokens(self, schedule: ScaleSchedule) -> int:
        return self.prefix

    def blank(self, images: int, device: torch.device) -> Features:
        return class_features(torch.zeros(images, dtype=torch.long, device=device))

    def condition(
        self, features: Features, branches: Branches | None = None, schedule: ScaleSchedule | None = None
    ) -> Condition:
        vectors = []
        for branch in (tuple(features.sources),) if branches is None else branches:
            source = features.seen(branch, "class")
            null = torch.full((features.images,), CLASSES, device=self.level.device)
            vectors.append(self.classes(null if source is None else source.tensors["ids"]))
        vector = torch.cat(vectors)
        ahead = Prefix(vector[:, None] + self.ahead[: self.prefix], (1, self.prefix), 0, self.prefix_with_first)
        return Condition(start=vector[:, None], vector=vector, prefix=ahead if self.prefix else None)

    def embed(
        self, inputs: Tensor | None, k: int, condition: Condition, schedule: ScaleSchedule, again: Again | None = None
    ) -> Tensor:
        if inputs is None:
            x = condition.start.expand(-1, schedule.lengths[0], -1)
        else:
            x = self.words(inputs.flatten(2).mT)
        if again is not None:
            known = self.words(again.inputs.flatten(2).mT)
            seen = torch.where(again.masked[..., None], self.mask, known)
            x = x + (seen if inputs is not None else seen.repeat(condition.rows // len(seen), 1, 1))
        x = x.repeat(condition.rows // len(x), 1, 1)
        assert condition.vector is not None
        return x + condition.vector[:, None] + k * self.level

    def run_block(
        self,
        i: int,
        x: Tensor,
        k: int | None,
        condition: Condition,
        slots: Any,
        schedule: ScaleSchedule,
        number: int = 0,
    ) -> Tensor:
        return self.blocks[i](x, *slots)

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        logits = self.out(hidden).float()
        return logits.unflatten(-1, (self.draws, self.choices)) if self.draws > 1 else logits

    def condition_flops(self, rows: int) -> int:
        return 0

    def embed_flops(self, tokens: int, k: int, images: int) -> int:
        return 2 * images * tokens * C * CODE_DIM if k else 0

    def head_flops(self, tokens: int, rows: int) -> int:
        return 2 * rows * tokens * C * self.draws * self.choices


class FreeBlock(nn.Module):
    """Attention and a linear layer."""

    def __init__(self, reads: Literal["own", "past"]) -> None:
        super().__init__()
        self.attention, self.mlp = Attention(C, 2, True, reads), nn.Linear(C, C)

    def forward(self, x: Tensor, slot: AttentionSlot) -> Tensor:
        x = x + self.attention(x, slot)
        return x + F.silu(self.mlp(x))

    def flops(self, tokens: int, seen: int) -> int:
        return self.attention.flops(tokens, seen) + 2 * tokens * C * C


class PlacedModel(FreeModel):
    """Every block adds where its tokens stand: a place of the last map, as rotary positions have it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.axes = nn.Parameter(torch.zeros(2, C))

    def run_block(
        self,
        i: int,
        x: Tensor,
        k: int | None,
        condition: Condition,
        slots: Any,
        schedule: ScaleSchedule,
        number: int = 0,
    ) -> Tensor:
        ahead = 0 if condition.prefix is None else condition.prefix.vectors.shape[1]
        sizes = schedule.sizes if k is None else schedule.sizes[k : k + 1] if k >= 0 else ()
        places = [torch.cartesian_prod(torch.arange(h) / h, torch.arange(w) / w) for h, w in sizes]
        scaled = torch.cat([torch.zeros(ahead, 2), *places]) * torch.tensor(schedule.grid)
        at = scaled[: x.shape[1]] if k in (None, -1) else scaled[-x.shape[1] :]
        return super().run_block(i, x + at @ self.axes, k, condition, slots, schedule, number)


def free_model(seed: int = 0, kind: type[FreeModel] = FreeModel, **settings: Any) -> FreeModel:
    """Randomised."""
    model = kind(**settings)
    randomise(model, seed, 0.4)
    return model.eval().requires_grad_(False)


def bit_tokenizer(tokenizer: BitTokenizer | None = None) -> BitTokenizer:
    """Randomised."""
    tokenizer = tokenizer or BitTokenizer()
    randomise(tokenizer)
    return tokenizer.eval().requires_grad_(False)


@dataclass(frozen=True)
class Reference:
    """An adapter's slot around a slot: attention to keys and values of its own, (R, H, T, D), weighed by ``w0``."""

    keys: Tensor
    values: Tensor
    w0: float

    def wrap(self, slot: Any, k: int | None, schedule: ScaleSchedule) -> Any:
        return _Around(slot, self)

    def select(self, rows: Tensor) -> SlotWrapper:
        return replace(self, keys=self.keys[rows], values=self.values[rows])


@dataclass(frozen=True)
class Pinned:
    """A slot around a slot: from scale ``first`` on every query sees ``keys`` and ``values``, (R, H, T, D), too."""

    keys: Tensor
    values: Tensor
    first: int
    prefix: int = 0

    def wrap(self, slot: Any, k: int | None, schedule: ScaleSchedule) -> Any:
        return _Beside(slot, self, k, schedule)

    def select(self, rows: Tensor) -> SlotWrapper:
        return replace(self, keys=self.keys[rows], values=self.values[rows])


class _Beside:
    def __init__(self, inner: AttentionSlot, pinned: Pinned, k: int | None, schedule: ScaleSchedule) -> None:
        self.inner, self.pinned, self.k, self.schedule = inner, pinned, k, schedule

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: Any = None) -> Tensor:
        pinned, queries = self.pinned, q.shape[2]
        keys, values, mask = self.inner.see(q, k, v, plain)
        if self.k is not None and self.k < pinned.first:
            return attend(q, keys, values, mask)
        seen = torch.ones(queries, keys.shape[2] + pinned.keys.shape[2], dtype=torch.bool)
        if self.k is None:
            seen[: pinned.prefix + self.schedule.offsets[pinned.first], keys.shape[2] :] = False
        if mask is not None:
            seen[:, : keys.shape[2]] = mask
        return attend(q, torch.cat([keys, pinned.keys], 2), torch.cat([values, pinned.values], 2), seen)


@dataclass(frozen=True)
class Pooled:
    """A slot around a slot: instead of the prefix, of ``count`` tokens, what a scale sees of it is its mean."""

    count: int

    def wrap(self, slot: Any, k: int | None, schedule: ScaleSchedule) -> Any:
        return _Mean(slot, self.count, k)

    def select(self, rows: Tensor) -> SlotWrapper:
        return self


class _Mean:
    def __init__(self, inner: AttentionSlot, count: int, k: int | None) -> None:
        self.inner, self.count, self.k = inner, count, k

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: Any = None) -> Tensor:
        keys, values, mask = self.inner.see(q, k, v, plain)
        if self.k == -1:
            return attend(q, keys, values, mask)
        means = [x[:, :, : self.count].mean(2, keepdim=True) for x in (keys, values)]
        if self.k is not None:
            keys, values = (
                torch.cat([m, x[:, :, self.count :]], 2) for m, x in zip(means, (keys, values), strict=True)
            )
            return attend(q, keys, values)
        assert mask is not None
        own = torch.arange(q.shape[2])[:, None] < self.count
        seen = torch.cat([mask & (own | (torch.arange(keys.shape[2]) >= self.count)), ~own], 1)
        return attend(q, torch.cat([keys, means[0]], 2), torch.cat([values, means[1]], 2), seen)


class _Around:
    def __init__(self, inner: AttentionSlot, reference: Reference) -> None:
        self.inner, self.reference = inner, reference

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: Any = None) -> Tensor:
        added = attend(q, self.reference.keys, self.reference.values)
        return self.inner.attend(q, k, v, plain) + self.reference.w0 * added
