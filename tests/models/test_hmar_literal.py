"""HMAR written down once more from the paper's equations: in float64, from weights under their official names, scale by
scale, each pass from nothing but the tokens so far. There are no numbers of the authors' to hold it against.

Shape letters: ``B`` images, ``l`` tokens of one scale, ``L`` of all, ``C`` width, ``H`` heads, ``P`` side of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.checkpoints.convert import hmar as convert
from nextscale.conditions.classes import class_features
from nextscale.generate import generate
from nextscale.methods.refine import refined
from nextscale.models.base import Again
from nextscale.models.hmar import HMAR
from nextscale.plan import Plan, default_plan
from nextscale.sampling import GivenNoise, OfficialNoise
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.residual import ResidualTokenizer
from nextscale.training.objectives.masked import MaskedLesson
from nextscale.training.objectives.teacher_forcing import lognorm, teacher_forcing
from tests.makers import CLASSES, CODES, SIZES, tiny_hmar, tiny_tokenizer

SIDES = [h for h, _ in SIZES]
LABELS = torch.tensor([1, 3])
SCHEDULES: dict[str, list[list[int]]] = {
    "none": [[1], [4], [9], [16]],
    "paper": [[1], [1, 3], [1, 1, 2, 5], [16]],
    "every scale": [[1], [1, 1, 2], [9], [2, 3, 11]],
    "token by token": [[1], [1] * 4, [1] * 9, [16]],
}


class Literal:
    """Both branches and their sampler. w: official tensors of both stages in one, v: the tokenizer's quantiser's."""

    def __init__(self, model: HMAR, tokenizer: ResidualTokenizer) -> None:
        self.w = {name: t.double() for name, t in convert.to_official(model.state_dict(), model.config).items()}
        self.v = {name: t.double() for name, t in tokenizer.quantizer.state_dict().items()}
        self.heads = model.config.heads
        self.starts = [0, *np.cumsum([side**2 for side in SIDES]).tolist()]

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    # the tokenizer

    def enlarged(self, tokens: Tensor, k: int) -> Tensor:
        """phi_k(bicubic(E[r])): tokens (B, p, p) to (B, c, P, P)."""
        h = self.v["codebook.weight"][tokens].permute(0, 3, 1, 2)
        if k < len(SIDES) - 1:
            h = F.interpolate(h, size=(SIDES[-1],) * 2, mode="bicubic")
        ticks = [1 / 12, 1 / 12 + 10 / 36, 1 / 12 + 20 / 36, 11 / 12]
        i = min(range(4), key=lambda i: abs(ticks[i] - k / (len(SIDES) - 1)))
        phi = f"phi.{i}.conv"
        return 0.5 * h + 0.5 * F.conv2d(h, self.v[f"{phi}.weight"], self.v[f"{phi}.bias"], padding=1)

    def shrunk(self, f: Tensor, k: int) -> Tensor:
        """(B, c, P, P) to (B, l, c)."""
        return F.interpolate(f, size=(SIDES[k],) * 2, mode="area").flatten(2).mT

    # the transformer

    def norm(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, correction=0)
        return (x - mean) / (variance + 1e-6).sqrt()

    def block(self, name: str, x: Tensor, vector: Tensor) -> Tensor:
        six = self.linear(f"{name}.ada_lin.1", F.silu(vector))[:, None].chunk(6, -1)
        gamma1, gamma2, scale1, scale2, shift1, shift2 = six
        w, h = self.w, self.norm(x) * (1 + scale1) + shift1
        bias = torch.cat([w[f"{name}.attn.q_bias"], w[f"{name}.attn.zero_k_bias"], w[f"{name}.attn.v_bias"]])
        qkv = h @ w[f"{name}.attn.mat_qkv.weight"].T + bias
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
        q, k = (one / one.norm(dim=-1, keepdim=True) for one in (q, k))
        q = q * w[f"{name}.attn.scale_mul_1H11"].clamp(max=math.log(100)).exp()
        seen = (q @ k.mT).softmax(-1) @ v
        x = x + gamma1 * self.linear(f"{name}.attn.proj", seen.transpose(1, 2).flatten(2))
        inner = self.linear(f"{name}.ffn.fc1", self.norm(x) * (1 + scale2) + shift2)
        gelu = 0.5 * inner * (1 + torch.tanh(math.sqrt(2 / math.pi) * (inner + 0.044715 * inner**3)))
        return x + gamma2 * self.linear(f"{name}.ffn.fc2", gelu)

    def count(self, kind: str) -> int:
        return len({name.split(".")[1] for name in self.w if name.startswith(f"{kind}_blocks.")})

    def through(self, x: Tensor, vector: Tensor, branch: str) -> Tensor:
        for kind in ("base", branch):
            for i in range(self.count(kind)):
                x = self.block(f"{kind}_blocks.{i}", x, vector)
        scale, shift = self.linear(f"{branch}_head_nm.ada_lin.1", F.silu(vector))[:, None].chunk(2, -1)
        return self.linear(f"{branch}_head", self.norm(x) * (1 + scale) + shift)

    def logits(self, k: int, f: Tensor, labels: Tensor, tokens: Tensor | None = None, masked: Any = None) -> Tensor:
        """(B, l, V) of scale k. f: canvas before it; tokens (B, p, p), masked (B, l): in a later pass."""
        vector = self.w["class_emb.weight"][labels]
        here = self.w["pos_1LC"][:, self.starts[k] : self.starts[k + 1]] + self.w["lvl_embed.weight"][k]
        branch = "ns" if tokens is None else "mask"
        if k == 0:
            return self.through(vector[:, None] + self.w["pos_start"] + here, vector, branch)
        x = self.shrunk(f, k) @ self.w["word_embed.weight"].T
        if tokens is not None:
            own = self.shrunk(self.enlarged(tokens, k), k) @ self.w["word_embed.weight"].T
            x = x + torch.where(masked[..., None], self.w["mask_embed.weight"], own)
        return self.through(x + self.w["word_embed_bias"] + here, vector, branch)

    # the sampler

    def run(
        self, labels: Tensor, schedule: list[list[int]], cfg: float, top_k: int, top_p: float, noise: Any
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Token maps (B, l), the last canvas, and the filtered logits of every pass."""
        null, tokens, every = torch.full_like(labels, CLASSES), list[Tensor](), list[Tensor]()
        f = torch.zeros(len(labels), 8, SIDES[-1], SIDES[-1], dtype=torch.float64)

        def drawn(k: int, p: int, t: float, *again: Any) -> tuple[Tensor, Tensor]:
            with_class, without = (self.logits(k, f, ids, *again) for ids in (labels, null))
            filtered = only((1 + t) * with_class - t * without, top_k, top_p)
            every.append(filtered)
            probs = filtered.softmax(-1)
            found = (probs / noise(k, p)).argmax(-1)
            return found, probs.gather(-1, found[..., None])[..., 0]

        for k, side in enumerate(SIDES):
            r, sure = drawn(k, 0, cfg * k / (len(SIDES) - 1))
            masked = torch.ones_like(r, dtype=torch.bool)
            for step in range(1, len(schedule[k])):
                left = sum(schedule[k][step:])
                lowest = torch.where(masked, sure, torch.inf).argsort(dim=1, stable=True)[:, :left]
                masked = torch.zeros_like(masked).scatter(1, lowest, True)
                new, sure = drawn(k, step, cfg * 1e-6, r.view(-1, side, side), masked)
                r = torch.where(masked, new, r)
            tokens.append(r)
            f = f + self.enlarged(r.view(-1, side, side), k)
        return tokens, f, every


def only(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    kth = logits.sort(-1, descending=True).values[..., top_k - 1, None]
    logits = torch.where(logits < kth, -torch.inf, logits)
    ascending, places = logits.sort(-1)
    gone = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    gone[..., -1] = False
    return torch.where(torch.zeros_like(gone).scatter(-1, places, gone), -torch.inf, logits)


@pytest.fixture(scope="module")
def tokenizer() -> ResidualTokenizer:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model() -> HMAR:
    return tiny_hmar(2)


@pytest.fixture(scope="module")
def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(CODES, (2, side, side), generator=generator) for side in SIDES]


def literally(model: HMAR, tokenizer: ResidualTokenizer, maps: Sequence[Tensor], masks: Any = None) -> Tensor:
    """Logits (B, L, V) of all scales, each alone."""
    literal, found = Literal(model, tokenizer), []
    f = torch.zeros(2, 8, SIDES[-1], SIDES[-1], dtype=torch.float64)
    for k, tokens in enumerate(maps):
        found.append(literal.logits(k, f, LABELS, *(() if masks is None else (tokens, masks[k]))))
        f = f + literal.enlarged(tokens, k)
    return torch.cat(found, 1)


def test_the_first_branch_over_all_scales_is_each_scale_from_its_canvas_alone(
    model: HMAR, tokenizer: ResidualTokenizer, maps: list[Tensor]
) -> None:
    ours = model(tokenizer.follow(maps).inputs, model.condition(class_features(LABELS)))
    torch.testing.assert_close(ours.double(), literally(model, tokenizer, maps), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("leak", [True, False])
def test_the_masked_branch_over_all_scales(tokenizer: ResidualTokenizer, maps: list[Tensor], leak: bool) -> None:
    model = tiny_hmar(2)
    masks = [torch.rand(2, side**2, generator=torch.Generator().manual_seed(side)) < 0.6 for side in SIDES]
    told: list[Again | None] = [None]
    for k, tokens in enumerate(maps[1:], 1):
        own = tokenizer.own_input(tokens, k, None, None if leak else masks[k])
        told.append(Again(tokens, own, masks[k], 1))
    ours = model(tokenizer.follow(maps).inputs, model.condition(class_features(LABELS)), again=told)
    difference = (ours.double() - literally(model, tokenizer, maps, masks)).abs().amax((0, 2))
    assert difference[:1].max() < 1e-4
    assert difference.max() < 1e-4 if leak else difference[1:].max() > 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_refined_picture_is_the_one_of_the_equations(model: HMAR, tokenizer: ResidualTokenizer, name: str) -> None:
    schedule, generator = SCHEDULES[name], torch.Generator().manual_seed(7)
    shapes = {(k, p): (2, side**2, CODES) for k, side in enumerate(SIDES) for p in range(len(schedule[k]))}
    noise = {at: torch.empty(shape).exponential_(generator=generator) for at, shape in shapes.items()}
    tokens, f, every = Literal(model, tokenizer).run(LABELS, schedule, 1.7, 30, 0.95, lambda k, p: noise[k, p].double())
    plan = default_plan(model, guidance_scale=2.7, top_k=30, top_p=0.95)
    plan = refined(plan, schedule[1:])
    exact = tuple(
        row if row.passes is None else replace(row, again_guidance=(1 + 1.7e-6, -1.7e-6)) for row in plan.rows
    )
    first = {k: t for (k, p), t in noise.items() if not p}
    given = GivenNoise(first, passes={at: t for at, t in noise.items() if at[1]})
    for chosen in (plan, replace(plan, rows=exact)):  # unguided is as good as published
        events = list(draw(chosen, model, tokenizer, given))
        for event, expected in zip(events, tokens, strict=True):
            assert torch.equal(event.tokens.flatten(1), expected)
        torch.testing.assert_close(events[-1].canvas.latent.double(), f, atol=1e-4, rtol=1e-4)
    assert len(every) == sum(map(len, schedule))
    torch.testing.assert_close(
        only(events[-1].logits, 30, 0.95).double().softmax(-1), every[-1].softmax(-1), atol=1e-4, rtol=1e-4
    )


def draw(plan: Plan, model: HMAR, tokenizer: ResidualTokenizer, noise: Any) -> Any:
    return generate(plan, {"tokenizer": tokenizer, "model": model}, class_features(LABELS), noise)


def test_an_official_generator_is_used_in_the_order_of_the_passes(model: HMAR, tokenizer: ResidualTokenizer) -> None:
    schedule, generator = SCHEDULES["paper"], torch.Generator().manual_seed(5)

    def official(k: int, p: int) -> Tensor:
        return torch.empty(2, SIDES[k] ** 2, CODES).exponential_(generator=generator).double()

    tokens, _, _ = Literal(model, tokenizer).run(LABELS, schedule, 1.7, 30, 0.95, official)
    plan = refined(default_plan(model, guidance_scale=2.7, top_k=30, top_p=0.95), "paper")
    events = list(draw(plan, model, tokenizer, OfficialNoise(torch.Generator().manual_seed(5))))
    assert all(torch.equal(event.tokens.flatten(1), one) for event, one in zip(events, tokens, strict=True))


def test_a_masked_token_adds_its_embedding_and_nothing_else(model: HMAR, tokenizer: ResidualTokenizer) -> None:
    """Where all are masked nothing depends on the tokens; where none is, nothing on the mask's embedding."""
    k, other = 2, tiny_hmar(2)
    other.mask_embedding.data += 1
    condition, inputs = model.condition(class_features(LABELS)), torch.randn(2, 8, 3, 3)
    tokens = torch.randint(CODES, (2, 2, 3, 3), generator=torch.Generator().manual_seed(1))

    def embedded(model: HMAR, tokens: Tensor, masked: Tensor) -> Tensor:
        again = Again(tokens, tokenizer.own_input(tokens, k), masked, 1)
        return model.embed(inputs, k, condition, model.schedule, again)

    every, none = torch.ones(2, 9, dtype=torch.bool), torch.zeros(2, 9, dtype=torch.bool)
    assert torch.equal(embedded(model, tokens[0], every), embedded(model, tokens[1], every))
    assert torch.equal(embedded(model, tokens[0], none), embedded(other, tokens[0], none))
    assert not torch.equal(embedded(model, tokens[0], every), embedded(other, tokens[0], every))


SHARES = {
    "256": ".0247 .0642 .1150 .1379 .1402 .1329 .1208 .1054 .0882 .0709",
    "512": ".0196 .0667 .1141 .1389 .1379 .1246 .1112 .1037 .0958 .0877",
}


@pytest.mark.parametrize("name", SHARES)
def test_the_shares_of_scales_are_those_of_the_authors(name: str) -> None:
    ours = lognorm(ScaleSchedule.preset(name))
    assert ours == pytest.approx([float(share) for share in SHARES[name].split()], abs=6e-5)
    assert sum(ours) == pytest.approx(1)


class Fixed:
    """Noise of a step that is known: half is masked, in order."""

    def __init__(self, share: float) -> None:
        self.share = share

    def shared(self, *shape: int) -> Tensor:
        return torch.arange(shape[0]).float() if shape else torch.tensor(self.share)


def test_both_lessons_are_the_losses_of_the_equations(
    model: HMAR, tokenizer: ResidualTokenizer, maps: list[Tensor]
) -> None:
    encoded, features = tokenizer.follow(maps), class_features(LABELS)
    flat = torch.cat([one.flatten(1) for one in maps], 1)
    losses = F.cross_entropy(literally(model, tokenizer, maps).movedim(-1, 1), flat, reduction="none")
    sides = torch.tensor(SIDES, dtype=torch.float64) / SIDES[-1]
    z = (sides.flip(0) - sides.mean()) / sides.std()
    shares = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    shares = shares / shares.sum()
    weights = torch.cat([share.expand(side**2) / side**2 for share, side in zip(shares, SIDES, strict=True)])
    ours, _ = teacher_forcing(model, encoded, features, Fixed(0.5), scale_weights="lognorm")  # type: ignore[arg-type]
    assert float(ours) == pytest.approx(float((losses * weights).sum(1).mean()), rel=1e-5)
    equal, _ = teacher_forcing(model, encoded, features, Fixed(0.5), scale_weights="equal")  # type: ignore[arg-type]
    by_scale = torch.stack([part.mean() for part in losses.split([side**2 for side in SIDES], 1)])
    assert float(equal) == pytest.approx(float(by_scale.mean()), rel=1e-5)
    masks = [torch.arange(side**2).expand(2, -1) < math.ceil(0.45 * side**2) for side in SIDES]
    masks[0] = torch.zeros_like(masks[0])
    again = F.cross_entropy(literally(model, tokenizer, maps, masks).movedim(-1, 1), flat, reduction="none")
    found, parts = MaskedLesson(tokenizer)(model, encoded, features, Fixed(0.45))  # type: ignore[arg-type]
    hidden = torch.cat(masks, 1)
    assert int(hidden[0].sum()) == 2 + 5 + 8
    assert float(found) == pytest.approx(float(again[hidden].mean()), rel=1e-5)
    assert float(parts["masked"]) == pytest.approx(0.45)
