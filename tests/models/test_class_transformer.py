"""What training asks of VAR and M-VAR alike: stochastic depth per sample, and activations that are computed again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from nextscale.conditions.classes import class_features
from nextscale.memory.segments import TeacherForcing
from nextscale.models.class_transformer import ClassTransformer
from tests.makers import CLASS_MODELS, CLASSES, some_inputs

LABELS = torch.tensor([3, CLASSES])


@pytest.fixture(params=CLASS_MODELS)
def model(request: pytest.FixtureRequest) -> ClassTransformer:
    made = CLASS_MODELS[request.param]()
    assert isinstance(made, ClassTransformer)
    made.config = replace(made.config, drop_path=0.5)
    return made


def logits(model: ClassTransformer, chance: Tensor) -> Tensor:
    return model(some_inputs(model), model.drop_paths(model.condition(class_features(LABELS)), chance))


def test_a_dropped_branch_adds_nothing_and_the_others_grow(model: ClassTransformer) -> None:
    depth = model.config.depth
    chance = torch.full((2, depth, model.gates), 0.9)  # nothing is dropped
    chance[1, -1] = 0.1  # the last block of the second row
    dropped = model.drop_paths(model.condition(class_features(LABELS)), chance).modulation
    plain = model.condition(class_features(LABELS)).modulation
    for i in range(depth):
        rate = 0.5 * i / (depth - 1)
        torch.testing.assert_close(dropped[i][0, :, : model.gates], plain[i][0, :, : model.gates] / (1 - rate))
        assert torch.equal(dropped[i][:, :, model.gates :], plain[i][:, :, model.gates :])
    assert dropped[-1][1, :, : model.gates].abs().max() == 0
    hidden = torch.randn(1, model.schedule.tokens, model.config.width, generator=torch.Generator().manual_seed(0))
    memory = TeacherForcing(model.slots, model.schedule, hidden.device)
    slots = [memory.slot(i) for i in range(len(model.slots))][-(len(model.slots) // depth) :]
    assert torch.equal(model.blocks[-1](hidden, dropped[-1][1:], *slots), hidden)
    assert not torch.equal(model.blocks[-1](hidden, plain[-1][1:], *slots), hidden)


def test_dropping_touches_its_own_sample_only(model: ClassTransformer) -> None:
    chance = torch.full((2, model.config.depth, model.gates), 0.9)
    before = logits(model, chance)
    chance[1] = 0.0
    after = logits(model, chance)
    torch.testing.assert_close(after[0], before[0])
    assert (after[1] - before[1]).abs().max() > 1e-3


def test_without_a_rate_nothing_is_dropped(model: ClassTransformer) -> None:
    model.config = replace(model.config, drop_path=0.0)
    condition = model.condition(class_features(LABELS))
    assert model.drop_paths(condition, torch.zeros(2, model.config.depth, model.gates)) is condition


def test_recomputed_activations_give_the_same_gradients(model: ClassTransformer) -> None:
    def gradients(recompute: bool) -> dict[str, Tensor]:
        model.zero_grad()
        out = model(some_inputs(model), model.condition(class_features(LABELS)), recompute=recompute)
        out.logsumexp(-1).mean().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.requires_grad_(True).train()
    plain, again = gradients(False), gradients(True)
    used = {name for name, _ in model.named_parameters() if not name.startswith("mask_")}  # which a first pass is not
    assert plain.keys() == again.keys() == used
    assert [name for name in plain if not torch.equal(plain[name], again[name])] == []
