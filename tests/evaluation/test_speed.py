"""The FLOPs speeds are judged by are those PyTorch counts, and the peak is a speed this machine can have."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from nextscale.conditions.classes import class_features
from nextscale.evaluation.speed import forward_flops, matmul_peak
from tests.makers import SIZES, tiny_tokenizer, tiny_var


def test_flops_are_those_of_the_products_and_of_attention() -> None:
    model, tokenizer = tiny_var(), tiny_tokenizer()
    seen = tokenizer.follow([torch.zeros(1, h, w, dtype=torch.int64) for h, w in SIZES]).inputs
    with FlopCounterMode(display=False) as counter:
        model(seen, model.condition(class_features(torch.tensor([1]))))
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counted.items() if "scaled_dot_product" not in str(op))
    lengths, offsets = model.schedule.lengths, model.schedule.offsets
    attention = sum(4 * n * offsets[k + 1] * model.config.width for k, n in enumerate(lengths)) * model.config.depth
    assert forward_flops(model) == products + attention


def test_the_peak_is_plausible() -> None:
    assert 1e8 < matmul_peak(torch.device("cpu"), torch.float32) < 1e14
