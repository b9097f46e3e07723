"""The price of a plan against what really happens: PyTorch's FLOP counter and the bytes of live tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from nextscale.errors import PlanError
from nextscale.generate import generate
from nextscale.models.base import NextScaleModel
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import Plan, default_plan
from nextscale.price import price, table
from nextscale.sampling import IndependentNoise, Uniform
from nextscale.state import ScaleEvent
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from tests.makers import CODES, MODELS, TEXT_MODELS, few, tiny_tokenizer, tokenizer_of
from tests.toys import free_model

TOKENIZER = tiny_tokenizer()


def cpu_attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """PyTorch's counter knows the CPU's attention kernel no price until it is told one."""
    return sdpa_flop_count(query, key, value)


def counted(plan: Plan, model: NextScaleModel, images: int, **parts: Any) -> tuple[int, list[int]]:
    """FLOPs of a real generation with decoding, and the live bytes of the memory after each scale."""
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention}
    features, noise = model.blank(images, torch.device("cpu")), IndependentNoise(range(images))
    tokenizer, live = tokenizer_of(model), []
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter, torch.no_grad():
        for event in generate(plan, {"tokenizer": tokenizer, "model": model} | parts, features, noise):
            live.append(event.memory.live_bytes)
        tokenizer.decode(event.canvas)
    return counter.get_total_flops(), live


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("guidance_scale", "images"), [(1.0, 1), (2.0, 3)])
def test_predictions_hold(name: str, guidance_scale: float, images: int) -> None:
    model = MODELS[name]()
    plan = default_plan(model, guidance_scale=guidance_scale, top_k=few(model, 3))
    predicted = price(plan, {"tokenizer": tokenizer_of(model), "model": model}, images)
    flops, live = counted(plan, model, images)
    assert predicted.flops == pytest.approx(flops, rel=0.02)
    assert [line.memory for line in predicted.lines[1:-1]] == live


def first_ones(event: ScaleEvent, count: int, noise: Uniform) -> list[int]:
    return [i % len(event.tokens) for i in range(count)]


def with_rows(plan: Plan, **columns: Callable[[int], Any]) -> Plan:
    rows = tuple(replace(row, **{n: of(k) for n, of in columns.items()}) for k, row in enumerate(plan.rows))
    return replace(plan, rows=rows)


def handed(plan: Plan, k: int, takeover: str = "catch_up") -> Plan:
    rows = tuple(replace(row, model="refiner") if j >= k else row for j, row in enumerate(plan.rows))
    first = plan.memories["model"]
    return replace(plan, rows=rows, memories={"model": first, "refiner": replace(first, takeover=takeover)})


def culled(plan: Plan) -> Plan:
    sizes = {0: 6, 2: 2, 3: 1}
    plan = with_rows(plan, population=sizes.get, cull=lambda k: "best" if k in sizes else None)
    return replace(plan, candidates=4)


METHODS: dict[str, Callable[[Plan], Plan]] = {
    "smooth": lambda plan: plan.with_column(smooth=(1.0, 0.5)),
    "handed over": lambda plan: handed(plan, 2),
    "handed over, empty": lambda plan: handed(plan, 2, "empty"),
    "culled": culled,
    "hidden": lambda plan: with_rows(plan, condition=lambda k: () if k >= 2 else None),
    "hidden and culled": lambda plan: culled(with_rows(plan, condition=lambda k: () if k >= 2 else None)),
    "hidden and handed over": lambda plan: handed(with_rows(plan, condition=lambda k: () if k < 2 else None), 2),
    "fewer blocks": lambda plan: with_rows(plan, blocks=lambda k: (0, 1) if k < 2 else (1,)),
    "mixed inside": lambda plan: plan.with_column(guidance_block=0),
    "all": lambda plan: culled(handed(with_rows(plan, condition=lambda k: () if k == 3 else None), 1)).prefix(3),
}
"""Plans with what the columns say beside sampling."""


def possible(name: str) -> list[tuple[str, str]]:
    """The methods for a model: smooth sampling mixes codes, and a bit is none."""
    return [(name, method) for method in METHODS if name not in TEXT_MODELS or method != "smooth"]


@pytest.mark.parametrize(("name", "method"), [pair for name in MODELS for pair in possible(name)])
def test_what_methods_make_of_a_plan_is_priced(name: str, method: str) -> None:
    model = MODELS[name]()
    plan = METHODS[method](default_plan(model, guidance_scale=2.0))
    parts = {"refiner": model, "best": first_ones}
    predicted = price(plan, {"tokenizer": tokenizer_of(model), "model": model} | parts, 2)
    flops, live = counted(plan, model, 2, **parts)
    assert predicted.flops == pytest.approx(flops, rel=0.02)
    decoding = 1 if plan.decode else 0
    assert [line.memory for line in predicted.lines[1 : len(predicted.lines) - decoding]] == live


@pytest.mark.parametrize("again", [None, (1.0, 0.0)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"reads": "past"},
        {"reads": "past", "prefix": 3},
        {"reads": "past", "prefix": 3, "with_first": True},
        {"prefix": 3},
        {"prefix": 3, "with_first": True},
    ],
)
def test_prefixes_and_passes_are_priced(settings: dict[str, Any], again: Any) -> None:
    model = free_model(**settings)
    plan = default_plan(model, guidance_scale=2.0)
    split = {4: (1, 3), 9: (2, 3, 4), 16: (4, 12)}
    rows = tuple(
        replace(row, passes=split[row.size[0] ** 2], again_guidance=again) if row.size[0] > 1 else row
        for row in plan.rows
    )
    for asked in (plan, replace(plan, rows=rows), handed(plan, 2), handed(plan, 2, "empty")):
        parts = {"tokenizer": TOKENIZER, "model": model, "refiner": model}
        flops, live = counted(asked, model, 2, refiner=model)
        predicted = price(asked, parts, 2)
        assert predicted.flops == pytest.approx(flops, rel=0.01)
        assert [line.memory for line in predicted.lines[1:-1]] == live


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_smooth_sampling_of_bits_has_no_price(name: str) -> None:
    model = MODELS[name]()
    plan = METHODS["smooth"](default_plan(model, guidance_scale=2.0))
    with pytest.raises(PlanError, match="smooth mixes codes, but a token here is 8 draws"):
        price(plan, {"tokenizer": tokenizer_of(model), "model": model}, 2)


def test_a_plan_that_cannot_be_carried_out_has_no_price() -> None:
    model = MODELS["var"]()
    plan, parts = default_plan(model), {"tokenizer": TOKENIZER, "model": model}
    for asked, sentence in (
        (plan.with_column(blocks=(0, 9)), "runs block 9, but 'model' has blocks 0 to"),
        (plan.with_column(guidance_block=9), "mixes after block 9"),
        (plan.with_column(model="refiner"), "a part named 'refiner', but the parts are model, tokenizer"),
        (plan.with_column(top_k=CODES + 1), "top_k is"),
    ):
        with pytest.raises(PlanError, match=sentence):
            price(asked, parts)


def test_the_published_sizes_are_priced_without_weights() -> None:
    """VAR-d30 at 256 px caches 2 x 424 x 1920 x 30 numbers per row: the last scale's keys and values are not stored."""
    with torch.device("meta"):
        tokenizer, model = ResidualTokenizer(ResidualConfig()), VAR(VARConfig.published(30))
    parts = {"tokenizer": tokenizer, "model": model}
    plan = default_plan(model, guidance_scale=2.5)
    priced = price(plan, parts, 1, element=2)
    assert priced.memory == 2 * 2 * 424 * 1920 * 30 * 2
    assert pytest.approx(0.376, abs=1e-3) == 1 - 424 / 680
    text = table(plan, priced)
    assert text.count("\n") == 13
    assert "decode" in text
    assert "16x16" in text
    assert "attended" not in text  # all there is, which nobody need be told
