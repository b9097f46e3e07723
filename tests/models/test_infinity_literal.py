"""Infinity written down once more, formula by formula from its code: in float64, from weights under their official
names, one text after the other and unpadded, all scales at once behind a mask, so nothing is cached.

It shows what the vector files do not: first maps of several tokens, many aspect ratios, guidance that changes from
scale to scale and lies inside the stack, texts of one token, negative texts that are longer than the texts.

Shape letters: ``L`` tokens of all scales, ``T`` of a text, ``C`` width, ``H`` heads, ``D`` head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.checkpoints.convert import infinity as convert
from nextscale.conditions.base import Features, Source
from nextscale.generate import generate
from nextscale.memory.base import MemoryPlan
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.plan import Plan
from nextscale.row import Row
from nextscale.sampling import GivenNoise
from nextscale.scales import ScaleSchedule
from tests.makers import randomise, tiny_bitwise

Inputs = Sequence[Tensor]
SETTINGS: dict[str, Any] = {"depth": 4, "width": 48, "heads": 3, "hidden": 80, "bits": 12, "chunks": 2, "levels": 6}
SETTINGS |= {"text_width": 10, "text_length": 9, "text_heads": 4}
SHAPES = {
    "square": (((1, 1), (2, 2), (3, 3), (5, 5)), (11, 11)),
    "several tokens first": (((2, 3), (3, 4), (4, 6)), (10, 15)),
    "tall": (((1, 1), (2, 1), (6, 2)), (19, 6)),
    "one map": (((3, 4),), (3, 4)),
}
"""Scales, and the last map of the schedule that was trained."""


class Literal:
    """The transformer. reference: the map that positions are counted on; per_chunk: where levels are added."""

    def __init__(self, model: Infinity, reference: tuple[int, int]) -> None:
        official = convert.model_to_official(model.state_dict(), model.config)
        self.w = {name: tensor.double() for name, tensor in official.items()}
        self.config, self.reference = model.config, reference

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def angles(self, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """(L, D / 2): half of them turn with the row, half with the column."""
        d = self.config.width // self.config.heads
        omega = torch.tensor([10_000 ** (-2 * i / (d / 2)) for i in range(d // 4)], dtype=torch.float64)
        rows = []
        for h, w in sizes:
            for y in range(h):
                for x in range(w):
                    at = round(y * self.reference[0] / h), round(x * self.reference[1] / w)
                    rows.append(torch.cat([at[0] * omega, at[1] * omega]))
        return torch.stack(rows)

    def text(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """States (T, c) as one vector (C,) and a context (T, C)."""
        states = states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.w["text_norm.weight"]
        sums = "text_proj_for_sos.ca."
        query = self.w[f"{sums}mat_q"][0]
        k, v = (states @ self.w[f"{sums}mat_kv.weight"].T).chunk(2, -1)
        v = v + self.w[f"{sums}v_bias"]
        heads = []
        for q, keys, values in zip(query, k.chunk(len(query), -1), v.chunk(len(query), -1), strict=True):
            heads.append((keys @ q / math.sqrt(len(q))).softmax(0) @ values)
        context = F.gelu(self.linear("text_proj_for_ca.0", states), approximate="tanh")
        return self.linear(f"{sums}proj", torch.cat(heads)), self.linear("text_proj_for_ca.2", context)

    def block(self, i: int, x: Tensor, vector: Tensor, context: Tensor, angles: Tensor, mask: Tensor) -> Tensor:
        c, heads, each = self.config.width, self.config.heads, self.config.depth // self.config.chunks
        name = f"block_chunks.{i // each}.module.{i % each}."
        shared = self.linear("shared_ada_lin.1", F.silu(vector)).view(6, c) + self.w[f"{name}ada_gss"].view(6, c)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = shared
        bias = torch.cat([self.w[f"{name}sa.q_bias"], torch.zeros(c).double(), self.w[f"{name}sa.v_bias"]])
        seen = F.layer_norm(x, (c,), eps=1e-6) * (1 + scale1) + shift1
        q, k, v = (seen @ self.w[f"{name}sa.mat_qkv.weight"].T + bias).chunk(3, -1)
        found = []
        for h in range(heads):
            own = slice(h * c // heads, (h + 1) * c // heads)
            sharp = self.w[f"{name}sa.scale_mul_1H11"].flatten()[h].clamp_max(math.log(100)).exp()
            turned = [self.turn(F.normalize(one[:, own], dim=-1), angles) for one in (q, k)]
            logits = sharp * turned[0] @ turned[1].T
            found.append(logits.masked_fill(~mask, -math.inf).softmax(-1) @ v[:, own])
        x = x + gamma1 * self.linear(f"{name}sa.proj", torch.cat(found, -1))
        normed = F.layer_norm(x, (c,), self.w[f"{name}ca_norm.weight"], self.w[f"{name}ca_norm.bias"], 1e-6)
        q, (k, v) = self.linear(f"{name}ca.mat_q", normed), (context @ self.w[f"{name}ca.mat_kv.weight"].T).chunk(2, -1)
        parts = zip(*(one.chunk(heads, -1) for one in (q, k, v + self.w[f"{name}ca.v_bias"])), strict=True)
        looked = [(q @ k.T / math.sqrt(c // heads)).softmax(-1) @ v for q, k, v in parts]
        x = x + self.linear(f"{name}ca.proj", torch.cat(looked, -1))
        seen = F.layer_norm(x, (c,), eps=1e-6) * (1 + scale2) + shift2
        hidden = F.gelu(self.linear(f"{name}ffn.fc1", seen), approximate="tanh")
        return x + gamma2 * self.linear(f"{name}ffn.fc2", hidden)

    def turn(self, x: Tensor, angles: Tensor) -> Tensor:
        turned, (cos, sin) = torch.empty_like(x), (angles.cos(), angles.sin())
        turned[:, 0::2] = x[:, 0::2] * cos - x[:, 1::2] * sin
        turned[:, 1::2] = x[:, 0::2] * sin + x[:, 1::2] * cos
        return turned

    def logits(
        self, sizes: Sequence[tuple[int, int]], inputs: Inputs, texts: Sequence[Tensor], mixed: Sequence[Any] = ()
    ) -> list[Tensor]:
        """(L, 2 D) for each of these texts. mixed: for every scale (block, cfg) where two texts are mixed, or None."""
        tokens = [h * w for h, w in sizes]
        scale = torch.tensor([k for k, count in enumerate(tokens) for _ in range(count)])
        levels, mask = self.w["lvl_embed.weight"][scale], scale[:, None] >= scale[None]
        angles, read, rows = self.angles(sizes), [self.text(states.double()) for states in texts], []
        for vector, _ in read:
            first = (vector + self.w["pos_start"].flatten()).expand(tokens[0], -1)
            words = [self.linear("word_embed", one.double().flatten(1).T) for one in inputs]
            rows.append(torch.cat([first, *words]) + levels)
        for i in range(self.config.depth):
            again = self.config.level_per_chunk and i and i % (self.config.depth // self.config.chunks) == 0
            rows = [x + levels if again else x for x in rows]
            rows = [self.block(i, x, *one, angles, mask) for x, one in zip(rows, read, strict=True)]
            for k, mix in enumerate(mixed):
                if mix is not None and mix[0] == i:
                    mixture = mix[1] * rows[0] + (1 - mix[1]) * rows[1]
                    rows = [torch.where((scale == k)[:, None], mixture, x) for x in rows]
        found = []
        for x, (vector, _) in zip(rows, read, strict=True):
            by, to = self.linear("head_nm.ada_lin.1", F.silu(vector)).chunk(2)
            found.append(self.linear("head", F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + by) + to))
        return found


def pair(shape: str, per_chunk: bool) -> tuple[Infinity, Literal]:
    sizes, reference = SHAPES[shape]
    trained = (*sizes[:-1], reference)
    model = Infinity(InfinityConfig(**SETTINGS, sizes=sizes, schedules=(trained,), level_per_chunk=per_chunk))
    randomise(model, 0, 0.5)
    first: Any = model.blocks[0]
    first.attention.scale_mul.data[0] = 6.0  # above ln 100, which is where it ends
    return model.eval().requires_grad_(False), Literal(model, reference)


def texts(lengths: Sequence[int], negative: Sequence[int]) -> Features:
    """Texts of so many tokens; a negative one of 0 is none."""
    generator, sources = torch.Generator().manual_seed(3), {}
    for name, counts in (("text", lengths), ("negative", negative)):
        longest, count = max(1, *counts), torch.tensor(counts)
        states = torch.randn(len(counts), longest, 10, generator=generator)
        mask = torch.arange(longest) < count[:, None]
        sources[name] = Source("text", {"states": states, "mask": mask}, count == 0)
    return Features(len(lengths), sources)


def read_by(model: Infinity, features: Features, image: int) -> tuple[Tensor, Tensor]:
    """The text of an image, and what guidance leads away from: its negative one, or as much of the null."""
    (text, seen), (negative, said) = (
        (source.tensors["states"][image], source.tensors["mask"][image]) for source in features.sources.values()
    )
    return text[seen], negative[said] if said.any() else model.null[: int(seen.sum())]


@pytest.mark.parametrize("per_chunk", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_teacher_forcing(shape: str, per_chunk: bool) -> None:
    model, literal = pair(shape, per_chunk)
    generator, (sizes, _), features = torch.Generator().manual_seed(1), SHAPES[shape], texts([1, 9, 4], [0, 0, 0])
    inputs = [torch.randn(3, 12, h, w, generator=generator) for h, w in sizes[1:]]
    found = model(inputs, model.condition(features)).flatten(2)
    for image in range(3):
        (wanted,) = literal.logits(sizes, [x[image] for x in inputs], read_by(model, features, image)[:1])
        torch.testing.assert_close(found[image].double(), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("cfg", "block"), [([3.0, 3.0, 3.0, 3.0], None), ([1.0, 4.0, 0.0, 2.0], None), ([2.0, 1.0, 3.0, 2.0], 1)]
)
def test_drawing(shape: str, cfg: list[float], block: int | None) -> None:
    """Patchified, three images at once: logits of every scale, and bits with top-p and noise that is given."""
    (sizes, _), (model, literal), noise = SHAPES[shape], pair(shape, True), torch.Generator().manual_seed(8)
    rows = [
        Row(size=size, guidance=(one, 1 - one), temperature=0.5 + k, top_p=0.9)
        for k, (size, one) in enumerate(zip(sizes, cfg, strict=False))
    ]
    if block is not None:
        rows = [row if row.guidance[0] == 1 else replace(row, guidance_block=block) for row in rows]
    plan = Plan(tuple(rows), (("text",), ("negative",)), {"model": MemoryPlan("full")})
    features, tokenizer = texts([1, 3, 9], [9, 0, 1]), tiny_bitwise(sizes, bits=3, patchify=True)
    given = {k: torch.empty(3, h * w, 12, 2).exponential_(generator=noise) for k, (h, w) in enumerate(sizes)}
    events = list(generate(plan, {"tokenizer": tokenizer, "model": model}, features, GivenNoise(given)))
    inputs = tokenizer.follow(events[-1].history, ScaleSchedule(sizes)).inputs
    inside = [None if row.guidance_block is None else (block, row.guidance[0]) for row in rows]
    for image in range(3):
        said, other = literal.logits(sizes, [x[image] for x in inputs], read_by(model, features, image), inside)
        for k, (event, part) in enumerate(zip(events, said.split([h * w for h, w in sizes]), strict=True)):
            away = other.split([h * w for h, w in sizes])[k]
            wanted = part if inside[k] else cfg[k] * part + (1 - cfg[k]) * away
            torch.testing.assert_close(event.logits[image].flatten(1).double(), wanted, atol=2e-4, rtol=1e-4)
            probabilities = (wanted.unflatten(-1, (12, 2)) / event.row.temperature).softmax(-1)
            sure = torch.where(probabilities <= 1 - 0.9, 0.0, probabilities)
            drawn = (sure / given[k][image]).argmax(-1).view(*sizes[k], 12)
            assert torch.equal(event.tokens[image], drawn)
