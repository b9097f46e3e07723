"""The discriminator learns, the tokenizer is pushed as hard as it should be, and neither trains the other's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nextscale.features.perceptual import Perceptual, PerceptualConfig
from nextscale.training.adversarial import ADAPTIVE_RANGE, Adversary, FeatureDiscriminator, adaptive_weight
from nextscale.training.sections import OptimSection
from nextscale.training.tokenizer_recipe import AdversarialLoss

SIDE, TOTAL = 16, 100


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def adversary(network: str = "patch", **settings: Any) -> Adversary:
    torch.manual_seed(0)
    eyes = Perceptual(PerceptualConfig(("a", "b"), widths=(8, 8))).requires_grad_(False)
    chosen = {"weight": 0.5, "start": 0.0, "warmup": 0.0, "width": 8, "layers": 2, "network": network} | settings
    optim = OptimSection(lr=1e-2, betas=(0.5, 0.9), weight_decay=0.0)
    return Adversary(AdversarialLoss.model_validate(chosen), optim, TOTAL, torch.device("cpu"), eyes.layers)


def decoder() -> nn.Conv2d:
    torch.manual_seed(1)
    return nn.Conv2d(3, 3, 3, padding=1)


def one_loss(judge: Adversary, last: nn.Conv2d, batch: Tensor, share: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    reconstruction = last(batch)
    return judge.loss(batch, reconstruction, F.mse_loss(reconstruction, batch), last.weight, 0, share)


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


@pytest.mark.parametrize("network", ["patch", "features"])
def test_an_image_is_judged_alike_in_any_batch(network: str) -> None:
    judge, batch = adversary(network).module, images()
    for together, alone in zip(judge(batch), judge(batch[2:3]), strict=True):
        torch.testing.assert_close(together[2:3], alone)
        assert together.shape[1] == 1


@pytest.mark.parametrize(("network", "least"), [("patch", 0.2), ("features", 0.8)])
def test_it_learns_to_tell_originals_from_reconstructions(network: str, least: float) -> None:
    """Pixels of noise, and of random features of them: what lies in single places of the latter is hard to tell."""
    judge, last = adversary(network), decoder()
    found = []
    for _ in range(30):
        found.append(float(one_loss(judge, last, images())[1]["discriminator"]))
        judge.update(1e-2)
    assert found[0] == pytest.approx(1.0, abs=0.3)  # the hinge of verdicts near 0
    assert found[-1] < least


def test_the_frozen_network_is_no_part_of_the_discriminator() -> None:
    module = adversary("features").module
    assert isinstance(module, FeatureDiscriminator)
    assert {name.split(".")[0] for name in module.state_dict()} == {"heads"}


@pytest.mark.parametrize("network", ["patch", "features"])
def test_each_learns_from_its_own_loss_alone(network: str) -> None:
    judge, last, batch = adversary(network), decoder(), images()
    loss, parts = one_loss(judge, last, batch)
    after_loss = gradients(judge.module)
    loss.backward()
    assert all(torch.equal(a, b) for a, b in zip(after_loss, gradients(judge.module), strict=True))
    assert float(loss.detach()) == pytest.approx(0.5 * float(parts["adaptive"]) * float(parts["adversarial"]))

    fresh, pushed = adversary(network), gradients(last)
    originals, others = fresh.module(batch), fresh.module(last(batch).detach())
    hinges = [(F.relu(1 - a).mean() + F.relu(1 + b).mean()) / 2 for a, b in zip(originals, others, strict=True)]
    torch.stack(hinges).mean().backward()
    for mine, wanted in zip(after_loss, gradients(fresh.module), strict=True):
        torch.testing.assert_close(mine, wanted)

    last.zero_grad()
    verdict = torch.stack([v.mean() for v in fresh.module(last(batch))]).mean()
    (-0.5 * parts["adaptive"] * verdict).backward()
    for mine, wanted in zip(pushed, gradients(last), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_the_adaptive_weight_makes_the_gradients_of_the_last_layer_equally_long() -> None:
    last, batch = decoder(), images()
    x = last(batch)
    rest, adversarial = 3 * F.mse_loss(x, batch), x.abs().mean()
    ratio = adaptive_weight(rest, adversarial, last.weight)
    lengths = []
    for loss in (rest, ratio * adversarial):
        last.zero_grad()
        loss.backward(retain_graph=True)
        assert last.weight.grad is not None
        lengths.append(float(last.weight.grad.norm()))
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)
    assert float(adaptive_weight(1e9 * rest, adversarial, last.weight)) == ADAPTIVE_RANGE[1]
    assert float(adaptive_weight(1e-9 * rest, adversarial, last.weight)) == pytest.approx(ADAPTIVE_RANGE[0])


def test_a_fixed_weight_is_one() -> None:
    loss, parts = one_loss(adversary(adaptive=False), decoder(), images())
    assert float(parts["adaptive"]) == 1
    assert float(loss.detach()) == pytest.approx(0.5 * float(parts["adversarial"]))


def test_it_starts_late_and_warms_up() -> None:
    judge = adversary(start=0.2, warmup=0.04)
    weights = [judge.weight(step) for step in range(TOTAL)]
    assert weights[:20] == [0.0] * 20
    assert weights[20:25] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    assert weights[-1] == 0.5


def test_a_batch_in_parts_teaches_the_discriminator_the_same() -> None:
    whole, parts, last, batch = adversary(), adversary(), decoder(), images()
    one_loss(whole, last, batch)
    for part in batch.split(3):
        one_loss(parts, last, part, share=0.5)
    for a, b in zip(gradients(whole.module), gradients(parts.module), strict=True):
        torch.testing.assert_close(a, b)


def test_its_learning_rate_follows_the_tokenizers() -> None:
    judge = adversary(lr_ratio=2.0)
    one_loss(judge, decoder(), images())
    judge.update(3e-4)
    assert {group["lr"] for group in judge.optimizer.param_groups} == {6e-4}
    assert gradients(judge.module) == []


def test_a_restored_one_goes_on_bit_for_bit() -> None:
    def steps(judge: Adversary, seeds: range) -> None:
        for seed in seeds:
            one_loss(judge, decoder(), images(seed=seed))
            judge.update(1e-2)

    whole, first, second = adversary(), adversary(), adversary()
    steps(whole, range(5))
    steps(first, range(3))
    second.load_state({key: t.clone() for key, t in first.state().items()} | {"something else": torch.zeros(1)})
    steps(second, range(3, 5))
    a, b = whole.state(), second.state()
    assert a.keys() == b.keys()
    assert any("optimizer" in key for key in a)
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
