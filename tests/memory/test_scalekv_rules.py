"""ScaleKV's rules, each on its own: against the authors' numbers, and what a rule must do whatever the numbers."""

from __future__ import annotations

import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from nextscale.memory.cut import kept_tokens
from nextscale.memory.scalekv_rules import (
    ALLOCATIONS,
    SCORES,
    allotted,
    compressed,
    drafters_of,
    logit_scores,
    lowest,
    selectivity,
    softmax_scores,
    window_of,
)
from nextscale.scales import ScaleSchedule

MEGAPIXEL = ScaleSchedule.of([1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64])
PUBLISHED = {
    "2b": (
        32,
        {8: {0, 23}, 9: {0, 23}, 10: {0, 23}, 11: {0, 23}, 12: {0}},
        [(920, 632, 921), (1490, 594, 1496), (2510, 526, 2514), (4100, 420, 4110), (6385, 465, 6404)],
    ),
    "8b": (
        40,
        {k: {0, 1, 2} for k in range(8, 13)},
        [(909, 629, 921), (1464, 584, 1485), (2463, 503, 2488), (4054, 374, 4063), (6200, 200, 6358)],
    ),
}
"""Depth, drafters, and Max, Min and Limit of scales 9 to 13."""

SCALEKV = Path(os.environ.get("NEXTSCALE_GOLDEN", "none"), "scalekv")
official = pytest.mark.skipif(not SCALEKV.is_dir(), reason="ScaleKV's files are not in the repository")


def vectors(case: str) -> tuple[dict[str, Tensor], dict[str, Any], float]:
    """Tensors, runs and tolerance of a file of official numbers."""
    with safe_open(SCALEKV / f"{case}.safetensors", framework="pt") as file:
        told = file.metadata()
        runs = json.loads(told["config"])["runs"]
        return {name: file.get_tensor(name) for name in file.keys()}, runs, float(told["tolerance_float"])  # noqa: SIM118


def budgets_of(run: dict[str, Any]) -> dict[int, tuple[int, ...]]:
    """The tokens of every block, by the scale whose queries see them."""
    return {
        int(name.split()[1]) - 1: tuple(row["Max" if row[f"Block {i}"] else "Min"] for i in range(run["layers"]))
        for name, row in run["budget"].items()
    }


@pytest.mark.parametrize("size", PUBLISHED)
def test_the_published_budgets_are_reproduced(size: str) -> None:
    depth, drafters, expected = PUBLISHED[size]
    frozen = {k: frozenset(blocks) for k, blocks in drafters.items()}
    found = allotted(MEGAPIXEL, frozen, depth, 650, 200)
    assert [(one.most, one.least, one.limit) for one in found.values()] == expected
    assert list(found) == list(compressed(MEGAPIXEL, 650)) == [8, 9, 10, 11, 12]
    assert {sum(one.of(block) for block in range(depth)) for one in found.values()} == {650 * depth}
    if SCALEKV.is_dir():
        table = vectors("selection_published_2b")[0][f"out/budget_{size}"]
        assert [[one.of(block) for block in range(depth)] for one in found.values()] == table.tolist()


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("budget", [20, 60, 300])
def test_every_rule_spends_the_budget_and_no_more(allocation: str, budget: int) -> None:
    schedule, floor, generator = ScaleSchedule.preset("256"), lowest(budget, 16), torch.Generator().manual_seed(0)
    for drawn in torch.rand(8, len(schedule), 7, generator=generator):
        drafters = {k: frozenset(torch.nonzero(drawn[k] < 0.2).flatten().tolist()) for k in range(len(schedule))}
        for k, one in allotted(schedule, drafters, 7, budget, floor, allocation).items():
            spent = sum(one.of(block) for block in range(7))
            assert spent <= 7 * budget
            assert spent > 7 * (budget - 1)
            assert floor <= one.least <= one.most <= max(one.limit, budget)
            assert schedule.offsets[k] > budget
            if allocation == "saturate":
                assert spent == 7 * budget


def test_the_papers_refiners_keep_less_from_scale_to_scale() -> None:
    """With so many drafters that none is full, which figure 6c has not."""
    found = allotted(MEGAPIXEL, dict.fromkeys(range(13), frozenset(range(16))), 32, 650, 200, "linear")
    assert [one.least for one in found.values()] == [600, 530, 460, 390, 320]
    assert [one.most for one in found.values()] == [700, 770, 840, 910, 980]
    full = allotted(MEGAPIXEL, dict.fromkeys(range(13), frozenset([0])), 32, 650, 200, "linear")
    assert [one.most for one in full.values()] == [one.limit for one in full.values()] == [921, 1497, 2521, 4121, 6425]


def test_nobody_named_means_equal_shares() -> None:
    for drafters in (frozenset[int](), frozenset(range(4))):
        found = allotted(MEGAPIXEL, dict.fromkeys(range(13), drafters), 4, 650, 200)
        assert {(one.most, one.least) for one in found.values()} == {(650, 650)}


def test_a_layer_that_looks_at_its_own_map_alone_is_a_refiner_unless_the_letter_counts() -> None:
    own, spread = (0.99, 0.009), (0.3, 0.1)
    assert selectivity(*own) > 0.8 > selectivity(*spread)
    assert selectivity(*own, literal=True) < selectivity(*spread, literal=True)
    assert selectivity(0.5, 0.25) == pytest.approx(0.25, rel=1e-5)


def test_drafters_are_the_lowest_of_all_pairs_each_among_its_scale() -> None:
    indices = {3: [0.5, 0.1, 0.5, 0.5], 4: [0.04, 0.05, 0.06, 0.01], 5: [0.9, 0.9, 0.9, 0.9]}
    assert drafters_of(indices, 2) == {3: {1}, 4: {3}, 5: set()}
    assert drafters_of(indices, 3) == {3: {1}, 4: {3, 0}, 5: set()}
    assert drafters_of({1: [0.2, 0.2]}, 1) == {1: {0}}
    assert not any(drafters_of(indices, 0).values())


@pytest.mark.parametrize(
    ("length", "middles"), [(20, [2, 7, 12, 17]), (24, [2, 8, 14, 20]), (64, [7, 23, 39, 55]), (4, [0, 1, 2, 3])]
)
def test_the_window_is_the_middles_of_patches(length: int, middles: list[int]) -> None:
    assert window_of((length, length), 16) == tuple(row * length + column for row in middles for column in middles)


def test_a_small_map_is_its_own_window_and_a_wide_one_has_a_wide_grid() -> None:
    assert window_of((1, 1), 16) == (0,)
    assert window_of((2, 3), 16) == tuple(range(6))
    assert window_of((3, 9), 16) == tuple(row * 9 + column for row in range(3) for column in (0, 2, 4, 6))


@pytest.mark.parametrize("rule", SCORES)
def test_what_is_kept_is_ascending_has_the_window_and_knows_no_other_row(rule: str) -> None:
    generator = torch.Generator().manual_seed(3)
    queries, keys = (torch.randn(4, 2, n, 8, generator=generator) for n in (3, 30))
    window = torch.tensor([21, 25, 28])
    found = kept_tokens(SCORES[rule](queries, keys, window, 5), window, 11)
    assert found.shape == (4, 2, 11)
    assert bool((found.diff() > 0).all())
    assert bool(torch.isin(window, found[1, 0]).all())
    alone = kept_tokens(SCORES[rule](queries[2:3], keys[2:3], window, 5), window, 11)
    assert torch.equal(alone, found[2:3])
    assert not torch.equal(found[0], found[1])


def test_of_equals_the_first_stay() -> None:
    assert kept_tokens(torch.zeros(1, 1, 9), torch.tensor([4, 7]), 5).tolist() == [[[0, 1, 2, 4, 7]]]


def test_the_two_scores_are_what_they_say() -> None:
    generator = torch.Generator().manual_seed(5)
    queries, keys = (torch.randn(1, 1, n, 4, generator=generator, dtype=torch.float64).float() for n in (2, 7))
    window = torch.tensor([2, 6])
    logits = [sum(float(q @ key) for q in queries[0, 0]) / math.sqrt(4) for key in keys[0, 0]]
    shown = [-math.inf if j in (2, 6) else one for j, one in enumerate(logits)]
    best = [max(shown[max(0, j - 1) : j + 2]) for j in range(7)]
    torch.testing.assert_close(logit_scores(queries, keys, window, 3)[0, 0], torch.tensor(best))
    given = torch.stack([torch.softmax(keys[0, 0] @ q, 0) for q in queries[0, 0]]).sum(0)
    means = torch.stack([given[max(0, j - 1) : j + 2].mean() for j in range(7)])
    torch.testing.assert_close(softmax_scores(queries, keys, window, 3)[0, 0], means)


@official
@pytest.mark.parametrize("case", ["selection_small", "selection_published_2b"])
def test_the_authors_code_keeps_the_same_tokens(case: str) -> None:
    tensors, runs, tolerance = vectors(case)
    for name, run in runs.items():
        schedule, budgets = ScaleSchedule.of(run["sides"]), budgets_of(run)
        for layer in run["use_layers"]:
            q, k, v = (tensors[f"in/{name}/{what}_{layer}"] for what in "qkv")
            held = torch.empty((*q.shape[:2], 0), dtype=torch.int64)
            for i, (first, end) in enumerate(pairwise(schedule.offsets)):
                held = torch.cat([held, torch.arange(first, end).expand(*q.shape[:2], -1)], 2)
                keys, values = (x.gather(2, held[..., None].expand(-1, -1, -1, x.shape[3])) for x in (k, v))
                attended = (q[:, :, first:end] @ keys.mT).softmax(-1) @ values
                expected = tensors[f"out/{name}/attn_{layer}_{i}"]
                torch.testing.assert_close(attended, expected, atol=tolerance, rtol=tolerance)
                if i + 1 == len(schedule):
                    break
                count = budgets[i + 1][layer] if end > run["base_capacity"] else held.shape[2]
                if count < held.shape[2]:
                    here = torch.tensor(window_of(schedule[i], run["window_size"]))
                    window = here + held.shape[2] - schedule.lengths[i]
                    scores = logit_scores(q[:, :, first + here], keys, window, run["kernel_size"])
                    held = held.gather(2, kept_tokens(scores, window, count))
                assert torch.equal(held, tensors[f"out/{name}/kept_{layer}_{i}"]), (name, layer, i)
