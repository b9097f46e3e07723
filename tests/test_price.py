"""The price of a plan against what really happens: PyTorch's FLOP counter and the bytes of live tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from nextscale.generate import generate
from nextscale.models.base import NextScaleModel
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import Plan, default_plan
from nextscale.price import price, table
from nextscale.sampling import IndependentNoise
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from tests.makers import MODELS, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def cpu_attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """PyTorch's counter knows the CPU's attention kernel no price until it is told one."""
    return sdpa_flop_count(query, key, value)


def counted(plan: Plan, model: NextScaleModel, images: int) -> tuple[int, list[int]]:
    """FLOPs of a real generation with decoding, and the live bytes of the memory after each scale."""
    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention}
    features, noise = model.blank(images, torch.device("cpu")), IndependentNoise(range(images))
    live = []
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter, torch.no_grad():
        for event in generate(plan, {"tokenizer": TOKENIZER, "model": model}, features, noise):
            live.append(event.memory.live_bytes)
        TOKENIZER.decode(event.canvas)
    return counter.get_total_flops(), live


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("guidance_scale", "images"), [(1.0, 1), (2.0, 3)])
def test_predictions_hold(name: str, guidance_scale: float, images: int) -> None:
    model = MODELS[name]()
    plan = default_plan(model, guidance_scale=guidance_scale, top_k=3)
    predicted = price(plan, {"tokenizer": TOKENIZER, "model": model}, images)
    flops, live = counted(plan, model, images)
    assert predicted.flops == pytest.approx(flops, rel=0.02)
    assert [line.memory for line in predicted.lines[1:-1]] == live


def test_smooth_sampling_and_taking_over_are_priced() -> None:
    model = MODELS["var"]()
    plain = default_plan(model)
    rows = (*plain.rows[:2], *(Plan(plain.rows[2:]).with_column(model="refiner").rows))
    for plan in (default_plan(model, smooth=True), Plan(rows)):
        parts = {"tokenizer": TOKENIZER, "model": model, "refiner": model}
        mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: cpu_attention}
        with FlopCounterMode(display=False, custom_mapping=mapping) as counter, torch.no_grad():
            events = list(generate(plan, parts, model.blank(2, torch.device("cpu")), IndependentNoise([0, 1])))
            TOKENIZER.decode(events[-1].canvas)
        assert price(plan, parts, 2).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


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
