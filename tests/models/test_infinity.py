"""Infinity: bits that are drawn are bits that are taught, texts that stay with their images, guidance, bits that are
given, and how it begins to train (properties of arXiv 2412.04431 and its code).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.conditions.base import Features, Source
from nextscale.errors import InputError, PlanError
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.memory.base import MemoryPlan
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.plan import Plan, default_plan
from nextscale.sampling import IndependentNoise, filter_logits
from nextscale.scales import ScaleSchedule
from nextscale.state import ScaleEvent
from nextscale.tokenizers.bitwise import BitwiseTokenizer
from tests.makers import (
    CODE_DIM,
    LETTERS,
    LONGEST,
    SIZES,
    SQUARE,
    TALL,
    WIDE,
    features_of,
    some_inputs,
    text_source,
    tiny_bitwise,
    tiny_infinity,
)

TEXT, NEGATIVE, NULL = ("text",), ("negative",), ()


def run(plan: Plan, model: Infinity, features: Features | None = None, **more: Any) -> list[ScaleEvent]:
    features = features or features_of(model, 2)
    parts = {"tokenizer": tiny_bitwise(bits=CODE_DIM), "model": model} | more
    return list(generate(plan, parts, features, IndependentNoise([3 + i for i in range(features.images)])))


def logits(model: Infinity, features: Features, branch: tuple[str, ...] = TEXT) -> Tensor:
    return model(some_inputs(model, features.images), model.condition(features, (branch,)))


@pytest.mark.parametrize("patchify", [False, True])
@pytest.mark.parametrize("sizes", [SQUARE, WIDE[:4], TALL], ids=["1.0", "0.666", "3.0"])
def test_bits_of_the_loop_are_taught_as_they_were_drawn(sizes: Any, patchify: bool) -> None:
    """Teacher forcing of the bits gives the logits of the steps, and inputs are those of the walk over the bits."""
    schedule, model = ScaleSchedule(sizes), tiny_infinity()
    tokenizer: BitwiseTokenizer = tiny_bitwise(bits=CODE_DIM // (4 if patchify else 1), patchify=patchify)
    plan = default_plan(model, schedule=schedule, guidance_scale=2.0)
    events = run(plan, model, tokenizer=tokenizer)
    walked = tokenizer.follow(events[-1].history, schedule)
    assert torch.equal(walked.canvas.latent, events[-1].canvas.latent)
    whole = model(walked.inputs, model.condition(features_of(model), (TEXT,)), schedule)
    for k, event in enumerate(events):
        taught = whole[:, schedule.slice(k)]
        torch.testing.assert_close(event.branch_logits[:2], taught, atol=2e-5, rtol=2e-5)
    assert tokenizer.decode(events[-1].canvas).shape[2:] == tokenizer.pixels(schedule)
    another = model([x + 0.1 for x in walked.inputs], model.condition(features_of(model), (TEXT,)), schedule)
    assert (another - whole).abs().max() > 1e-3


@pytest.mark.parametrize("patchify", [False, True])
def test_all_bits_given_are_the_picture_whatever_the_text(patchify: bool) -> None:
    model, tokenizer = tiny_infinity(), tiny_bitwise(bits=CODE_DIM // (4 if patchify else 1), patchify=patchify)
    encoded = tokenizer.encode(tokenizer.latent(torch.rand(2, 3, *tokenizer.pixels()) * 2 - 1))
    given = GivenTokens(encoded.tokens, [torch.ones(size, dtype=torch.bool) for size in SIZES])
    plan = default_plan(model).with_column(keep="given")
    last = run(plan, model, tokenizer=tokenizer, given=given)[-1]
    assert torch.equal(tokenizer.decode(last.canvas), tokenizer.decode(encoded.canvas))
    assert not torch.equal(run(default_plan(model), model, tokenizer=tokenizer)[-1].tokens, encoded.tokens[-1])


# Texts


def test_a_text_reaches_its_own_image_alone() -> None:
    model, features = tiny_infinity(), features_of(tiny_infinity(), 3)
    states = features.sources["text"].tensors["states"].clone()
    states[1] += 1
    changed = dict(features.sources["text"].tensors) | {"states": states}
    moved = logits(model, replace(features, sources={"text": Source("text", changed)})) - logits(model, features)
    assert moved[[0, 2]].abs().max() == 0
    assert moved[1].abs().max() > 1e-2


@pytest.mark.parametrize("image", [0, 1, 2])
def test_padding_is_not_seen(image: int) -> None:
    """A text in a batch of longer ones, or with numbers in its padding, draws what it draws packed alone."""
    model, features = tiny_infinity(), features_of(tiny_infinity(), 3)
    one = features.select(torch.tensor([image])).sources["text"].tensors
    count = int(one["mask"].sum())
    alone = {"states": one["states"][:, :count], "mask": one["mask"][:, :count]}
    packed = model(
        [x[image : image + 1] for x in some_inputs(model, 3)],
        model.condition(Features(1, {"text": Source("text", alone)})),
    )
    torch.testing.assert_close(logits(model, features)[image : image + 1], packed, atol=1e-5, rtol=1e-5)
    junk = torch.where(one["mask"][..., None], one["states"], 50.0)
    other = Features(1, {"text": Source("text", {"states": junk, "mask": one["mask"]})})
    torch.testing.assert_close(
        logits(model, other), logits(model, features.select(torch.tensor([image]))), atol=0, rtol=0
    )


def test_the_null_is_as_long_as_the_text_it_stands_for() -> None:
    model, features = tiny_infinity(), features_of(tiny_infinity(), 3)
    mask = features.sources["text"].tensors["mask"]
    null = {"states": model.null.expand(3, -1, -1), "mask": mask}
    as_text = Features(3, {"text": Source("text", null)})
    torch.testing.assert_close(logits(model, features, NULL), logits(model, as_text), atol=1e-6, rtol=1e-6)
    longer = Features(3, {"text": Source("text", null | {"mask": torch.ones_like(mask)})})
    assert (logits(model, features, NULL) - logits(model, longer)).abs().max() > 1e-3


def test_a_dropped_text_is_the_null_in_a_mixed_batch_too() -> None:
    model, features = tiny_infinity(), features_of(tiny_infinity(), 3)
    mixed = logits(model, features.drop("text", torch.tensor([False, True, False])))
    torch.testing.assert_close(mixed[[0, 2]], logits(model, features)[[0, 2]], atol=0, rtol=0)
    torch.testing.assert_close(mixed[1], logits(model, features, NULL)[1], atol=1e-6, rtol=1e-6)
    assert (mixed[1] - logits(model, features)[1]).abs().max() > 1e-2


def test_a_negative_text_takes_the_place_of_the_null() -> None:
    """Of its own length, and for the images that have one alone."""
    model, features = tiny_infinity(), features_of(tiny_infinity(), 3)  # the second image has none
    negative, null = logits(model, features, NEGATIVE), logits(model, features, NULL)
    torch.testing.assert_close(negative[1], null[1], atol=1e-6, rtol=1e-6)
    assert (negative[[0, 2]] - null[[0, 2]]).abs().amax((1, 2, 3)).min() > 1e-2
    said = Features(3, {"text": replace(features.sources["negative"], dropped=None)})
    torch.testing.assert_close(negative[[0, 2]], logits(model, said)[[0, 2]], atol=1e-6, rtol=1e-6)
    plan = default_plan(model, guidance_scale=3.0)
    assert plan.branches == (TEXT, NEGATIVE)
    with_one, without = run(plan, model), run(replace(plan, branches=(TEXT, NULL)), model)
    torch.testing.assert_close(with_one[0].branch_logits[:2], without[0].branch_logits[:2], atol=1e-5, rtol=1e-5)
    assert (with_one[0].logits[0] - without[0].logits[0]).abs().max() > 1e-3
    torch.testing.assert_close(with_one[0].logits[1], without[0].logits[1], atol=1e-4, rtol=1e-4)


def test_a_text_that_is_too_long_is_refused() -> None:
    states = torch.zeros(1, LONGEST + 1, LETTERS)
    source = Source("text", {"states": states, "mask": torch.ones(1, LONGEST + 1, dtype=torch.bool)})
    with pytest.raises(InputError, match=f"a text has {LONGEST + 1} states; this Infinity reads at most {LONGEST}"):
        tiny_infinity().condition(Features(1, {"text": source}))


# Guidance and sampling


def test_guidance_of_one_is_the_conditional_half_alone() -> None:
    model = tiny_infinity()
    one, alone = default_plan(model, guidance_scale=2.0).with_column(guidance=(1.0, 0.0)), default_plan(model)
    for a, b in zip(run(one, model), run(alone, model), strict=True):
        assert torch.equal(a.tokens, b.tokens)
        torch.testing.assert_close(a.logits, b.logits, atol=1e-5, rtol=1e-5)
    inside = run(one.with_column(guidance_block=1), model)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(inside, run(alone, model), strict=True))
    guided = run(default_plan(model, guidance_scale=2.0), model)
    assert not all(torch.equal(a.tokens, b.tokens) for a, b in zip(guided, run(alone, model), strict=True))


def test_guidance_after_a_block_and_temperatures_per_scale() -> None:
    model = tiny_infinity()
    plan = default_plan(model, guidance_scale=2.0)
    after = [run(plan.with_column(guidance_block=n), model)[0].logits for n in (0, 1, 2)]
    assert all((a - b).abs().max() > 1e-4 for a, b in pairwise(after))
    cold = tuple(replace(row, temperature=1e-4 if k == 2 else 1.0) for k, row in enumerate(plan.rows))
    events, plain = run(replace(plan, rows=cold), model), run(plan, model)
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(events[:2], plain[:2], strict=True))
    assert torch.equal(events[2].tokens.flatten(1, 2), events[2].logits.argmax(-1))
    assert not torch.equal(plain[2].tokens.flatten(1, 2), plain[2].logits.argmax(-1))


def test_top_p_makes_a_bit_sure_when_the_rarer_value_is_rare_enough() -> None:
    bits = torch.tensor([[0.9701, 0.0299], [0.965, 0.035], [0.03, 0.97001]]).log()
    kept = filter_logits(bits, temperature=1.0, top_k=0, top_p=0.97) > -torch.inf
    assert kept.tolist() == [[True, False], [True, True], [False, True]]


def test_the_past_is_read_and_a_memory_that_keeps_nothing_is_refused() -> None:
    model = tiny_infinity()
    plan = default_plan(model)
    assert plan.memories["model"].policy == "full"
    with pytest.raises(PlanError, match="'none' keeps nothing, but this model reads keys and values of earlier scales"):
        run(replace(plan, memories={"model": MemoryPlan("none")}), model)


# Scales and levels


def test_positions_are_counted_on_the_map_of_the_nearest_ratio() -> None:
    """A schedule that is no start of a trained one takes the reference of the trained ratio that is nearest."""
    wide, only = tiny_infinity(), tiny_infinity(schedules=(WIDE,))
    square = tiny_infinity(schedules=(SQUARE,))
    schedule = ScaleSchedule.of([(1, 1), (2, 3), (3, 4)])  # 3:4 is nearer to 6:9 than to 7:7
    inputs, features = [torch.randn(2, CODE_DIM, h, w) for h, w in schedule.sizes[1:]], features_of(wide)
    found, alone, other = (m(inputs, m.condition(features), schedule) for m in (wide, only, square))
    torch.testing.assert_close(found, alone, atol=0, rtol=0)
    assert (found - other).abs().max() > 1e-3


def test_positions_of_a_start_are_counted_on_the_end() -> None:
    """The first scales of a trained schedule may have another aspect ratio than its last one, and stand on that."""
    square, wide = ((1, 1), (2, 2), (5, 5)), ((1, 1), (3, 3), (4, 7))
    both, one = tiny_infinity(schedules=(square, wide)), tiny_infinity(schedules=(wide,))
    for count in (2, 3):
        start, cpu = ScaleSchedule(wide).prefix(count), torch.device("cpu")
        assert torch.equal(both.rotary(start, cpu), one.rotary(start, cpu))
    assert not torch.equal(both.rotary(ScaleSchedule(square[:2]), cpu), one.rotary(ScaleSchedule(square[:2]), cpu))


def test_levels_may_be_added_again_in_front_of_every_chunk() -> None:
    once, again = tiny_infinity(), tiny_infinity(per_chunk=True)
    features, inputs = features_of(once), some_inputs(once)
    condition = once.condition(features)
    assert (once(inputs, condition) - again(inputs, condition)).abs().max() > 1e-3
    for model in (once, again):
        model.level_embedding.zero_()
    torch.testing.assert_close(once(inputs, condition), again(inputs, condition), atol=0, rtol=0)


# Training


def test_a_dropped_branch_adds_nothing_and_the_others_grow() -> None:
    model = tiny_infinity(drop_path=0.5)
    plain = model.condition(features_of(model))
    chance = torch.full((2, 3, model.gates), 0.9)
    chance[1, 2] = 0.1
    dropped = model.drop_paths(plain, chance)
    for i, rate in enumerate((0.0, 0.25, 0.5)):
        torch.testing.assert_close(dropped.modulation[i][0, :, :2], plain.modulation[i][0, :, :2] / (1 - rate))
        assert torch.equal(dropped.modulation[i][:, :, 2:], plain.modulation[i][:, :, 2:])
    assert dropped.modulation[2][1, :, :2].abs().max() == 0
    assert dropped.modulation[1][1, :, :2].abs().min() > 0
    assert tiny_infinity().drop_paths(plain, chance * 0) is plain


def test_recomputed_activations_give_the_same_gradients() -> None:
    model = tiny_infinity(per_chunk=True).requires_grad_(True).train()
    found = []
    for recompute in (False, True):
        model.zero_grad()
        model(some_inputs(model), model.condition(features_of(model)), recompute=recompute).square().mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys() == {name for name, _ in model.named_parameters()} - {"null"}
    assert [name for name in found[0] if not torch.equal(found[0][name], found[1][name])] == []


def test_a_drawing_in_between_leaves_training_as_it_was() -> None:
    """Samples are drawn in inference mode while a model trains; tables of positions are kept beyond that."""
    model = tiny_infinity(schedules=(((1, 1), (2, 2), (3, 3), (5, 5)),))
    run(default_plan(model), model)
    model.requires_grad_(True).train()
    model(some_inputs(model), model.condition(features_of(model))).square().mean().backward()
    assert model.word_embedding.weight.grad is not None


@pytest.mark.parametrize("cast", ["autocast", "bfloat16"])
def test_bfloat16_is_finite_and_near_float32(cast: str) -> None:
    model = tiny_infinity(seed=2)
    exact, inputs = logits(model, features_of(model)), some_inputs(model)
    if cast == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(inputs, model.condition(features_of(model)))
    else:
        model = model.bfloat16()
        rough = model(inputs, model.condition(features_of(model)))
    assert rough.dtype == torch.float32
    assert rough.isfinite().all()
    assert 0 < float((rough - exact).norm() / exact.norm()) < 0.1


def test_initialisation() -> None:
    """The published one: a block adds next to nothing, and every bit is as likely as the other one."""
    c = 192
    config = InfinityConfig(depth=2, width=c, heads=4, hidden=768, bits=16, text_width=64, text_length=32, text_heads=2)
    model, std = Infinity(config).requires_grad_(False), (1 / (3 * c)) ** 0.5
    model.init_weights()
    block: Any = model.blocks[1]
    for tensor, wanted in (
        (model.word_embedding.weight, std),
        (model.level_embedding, std),
        (model.shared_ada_lin.weight, std),
        (block.attention.qkv.weight, std),
        (block.cross.text.kv.weight, std),
        (block.ffn.fc1.weight, std),
        (block.attention.proj.weight, std / 2),
        (block.cross.proj.weight, std / 2),
        (block.ffn.fc2.weight, std / 2),
        (model.head_lin.weight, 0.02 * std),
        (model.head_ada_lin.weight, 1e-3 * std),
        (block.ada_gss[2:], 1e-3 / c**0.5),
        (block.ada_gss[:2], 5e-6 / c**0.5),
    ):
        assert float(tensor.std()) == pytest.approx(wanted, rel=0.15)
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") and "norm" not in name]
    assert all(not p.any() for p in biases)
    x = [torch.randn(2, 16, h, w) for h, w in model.schedule.sizes[1:]]
    texts = torch.randn(2, 8, 64), torch.ones(2, 8, dtype=torch.bool)
    found = model(x, model.condition(Features(2, {"text": Source("text", {"states": texts[0], "mask": texts[1]})})))
    assert float(found.softmax(-1).sub(0.5).abs().max()) < 0.1


# Sizes


def sized(depth: int, width: int, heads: int, hidden: int, bits: int = 32) -> Callable[[], Infinity]:
    text_heads = 32 if width > 4096 else 16
    return lambda: Infinity(
        InfinityConfig(depth=depth, width=width, heads=heads, hidden=hidden, bits=bits, text_heads=text_heads)
    )


@pytest.mark.parametrize(
    ("make", "millions"),
    [
        (sized(12, 768, 8, 3072), 125.2),
        (sized(16, 1152, 12, 4608), 361.6),
        (sized(24, 1536, 16, 6144), 940.9),
        (sized(32, 2048, 16, 8192), 2204.6),
        (sized(32, 2080, 20, 8192), 2256.7),
        (sized(40, 2688, 24, 10752), 4716),
        (sized(48, 3360, 28, 13312), 8767),
        (sized(40, 3584, 28, 14336, 56), 8376),
        (sized(58, 4608, 36, 18432), 19950),
    ],
)
def test_published_sizes_have_the_counted_parameters(make: Callable[[], Infinity], millions: float) -> None:
    with torch.device("meta"):
        model = make()
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=5e-4)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"heads": 5}, "width of 32 cannot be split into 5 heads of a multiple of 4 channels"),
        ({"heads": 16}, "32 cannot be split into 16 heads of a multiple of 4"),
        ({"text_heads": 3}, "32 cannot be split into 3 heads for the text"),
        ({"chunks": 2}, "3 blocks cannot be split into 2 chunks"),
        ({"levels": 3}, "a schedule has 4 scales; expected at most as many as levels, 3"),
        ({"lengths": (6,)}, "lengths has 6; expected 1 to 5"),
        ({"drop_path": 1.0}, "drop_path is 1.0; expected 0 or more, below 1"),
        ({"norm_eps": 0.0}, "norm_eps is 0.0; expected a small number above 0"),
    ],
)
def test_impossible_sizes_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        tiny_infinity(**changed)


def test_texts_have_no_order_of_their_own() -> None:
    """Positions of words are the encoder's affair: the states of a text may come in any order."""
    model, source = tiny_infinity(), text_source([4, 4])
    turned = Source("text", {"states": source.tensors["states"][:, [2, 0, 3, 1, 4]], "mask": source.tensors["mask"]})
    found, other = (logits(model, Features(2, {"text": one})) for one in (source, turned))
    torch.testing.assert_close(found, other, atol=1e-5, rtol=1e-5)
