"""What the benchmark of attention compares is the same attention, and it counts the pairs that a mask shows."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nextscale.layers.attention import attend
from nextscale.memory.mask import block_causal
from nextscale.scales import ScaleSchedule


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return import_module("attention")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_every_way_attends_to_the_pairs_of_its_mask(benchmark: ModuleType) -> None:
    schedule, device = ScaleSchedule.of([1, 2, 3, 4]), torch.device("cpu")
    past = block_causal(schedule, device)
    q, k, v = ((torch.randn(1, 2, schedule.tokens, 16) / 2).requires_grad_() for _ in range(3))
    for way, mask in zip(benchmark.ways(schedule, device, flex=True), (past, past & past.T) * 2, strict=True):
        assert way.pairs == int(mask.sum())
        if "Flex" in way.name:  # on a CPU it has no gradients
            plain = q.detach(), k.detach(), v.detach()
            torch.testing.assert_close(way.attend(*plain), attend(q, k, v, mask).detach())
            continue
        both = way.attend(q, k, v), attend(q, k, v, mask)
        torch.testing.assert_close(*both)
        grads = (torch.autograd.grad(out.square().sum(), (q, k, v)) for out in both)
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("pixels", "counts"), [("256", (286_434, 110_468)), ("1024", (56_954_392, 24_587_383))])
def test_published_schedules_have_so_many_pairs(benchmark: ModuleType, pixels: str, counts: tuple[int, int]) -> None:
    assert benchmark.pairs(ScaleSchedule.preset(pixels)) == counts


def test_slices_keep_no_mask_for_the_gradients(benchmark: ModuleType) -> None:
    schedule = ScaleSchedule.of([8, 8])
    qkv = tuple(torch.randn(1, 1, schedule.tokens, 4, requires_grad=True) for _ in range(3))
    past, own = (benchmark.kept(way, qkv) for way in benchmark.ways(schedule, torch.device("cpu"), flex=False))
    assert past - own >= schedule.tokens**2 * 3  # a number for each pair, less what slices keep twice
