"""What bits lose is what the paper's formulas give, number by number; their use is counted, and stuck ones are seen."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.measures.tokenizer import bit_balance
from nextscale.scales import ScaleSchedule
from nextscale.training.bits import BitWatch, commitment, entropies

SCHEDULE = ScaleSchedule.of([1, 2])


def some_units(bits: int = 3, images: int = 2) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    return [F.normalize(torch.randn(images, bits, h, w, generator=noise), dim=1) for h, w in SCHEDULE]


def entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def test_commitment_is_the_mean_distance_to_the_nearest_corner() -> None:
    units = some_units()
    corners = [z.sign() / 3**0.5 for z in units]
    wanted = [
        sum((z - math.copysign(1 / 3**0.5, z)) ** 2 for z in scale.flatten().tolist()) / scale.numel()
        for scale in units
    ]
    assert float(commitment(units, corners)) == pytest.approx(sum(wanted) / len(wanted), rel=1e-5)
    assert float(commitment(corners, corners)) == 0


def test_entropies_are_sums_over_bits_of_means_over_images_and_places() -> None:
    units = [z / 50 for z in some_units()]  # small ones, for unit vectors are nearly certain
    own, batch = [], []
    for scale in units:
        p = [[1 / (1 + math.exp(-400 * z / 3**0.5)) for z in bit.flatten().tolist()] for bit in scale.unbind(1)]
        own.append(sum(sum(map(entropy, bit)) / len(bit) for bit in p))
        batch.append(sum(entropy(sum(bit) / len(bit)) for bit in p))
    found = [float(number) for number in entropies(units, 3)]
    assert found == pytest.approx([sum(own) / 2, sum(batch) / 2], rel=1e-4)


def test_a_patchified_token_loses_what_its_latent_positions_lose() -> None:
    """The official quantiser knows positions alone: how they are packed into tokens changes nothing."""
    positions = [torch.randn(2, 3, 2 * h, 2 * w, generator=torch.Generator().manual_seed(h)) / 50 for h, w in SCHEDULE]
    tokens = [F.pixel_unshuffle(z, 2) for z in positions]
    assert torch.stack(entropies(tokens, 3)).tolist() == pytest.approx(torch.stack(entropies(positions, 3)).tolist())
    one, other = (commitment(units, [z.sign() / 3**0.5 for z in units]) for units in (positions, tokens))
    assert float(one) == pytest.approx(float(other))


def test_the_entropy_loss_parts_images_and_decides_bits() -> None:
    """Its gradient moves numbers near 0 away from it, and evens out a bit that all images share; it stays finite."""
    z = torch.tensor([0.02, 0.02, 0.02, -0.01]).view(4, 1, 1, 1).requires_grad_()
    own, batch = entropies([z], 1)
    towards = -torch.autograd.grad(own, z, retain_graph=True)[0].flatten()
    assert towards.sign().tolist() == [1, 1, 1, -1]
    assert (-torch.autograd.grad(-batch, z)[0] < 0).all()  # three of four are 1: all are pushed to 0
    certain = torch.tensor([1.0, -1.0, 0.0, 1.0]).view(4, 1, 1, 1).requires_grad_()
    own, batch = entropies([certain], 1)
    assert torch.autograd.grad(own - batch, certain)[0].isfinite().all()
    assert float(own.detach()) == pytest.approx(math.log(2) / 4, abs=1e-4)


def test_entropy_and_stuck_bits_of_known_shares() -> None:
    found, stuck = bit_balance(torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.0, 1.0, 0.005, 0.11]]))
    assert found.tolist() == pytest.approx([1.0, (entropy(0.005) + entropy(0.11)) / math.log(2) / 4], abs=1e-4)
    assert stuck.tolist() == [0.0, 0.75]


def test_bits_are_counted_by_parts_and_by_scale() -> None:
    """Over all scales by their tokens: five tokens of an image, of which one is the coarse one's."""
    whole, parts = (BitWatch(2, SCHEDULE, torch.device("cpu")) for _ in range(2))
    coarse = torch.tensor([[1, 1], [1, 0]]).view(2, 1, 1, 2)
    fine = torch.tensor([[1, 0], [1, 0], [0, 0], [0, 0]]).view(1, 2, 2, 2).expand(2, 2, 2, 2)
    for _ in range(7):
        whole.count([coarse, fine])
        for image in (slice(0, 1), slice(1, 2)):
            parts.count([coarse[image], fine[image]])
        whole.end_step()
        parts.end_step()
    assert torch.equal(whole.frequency, parts.frequency)
    found, stuck = whole.measure()
    shares = [[0.2 + 0.4, 0.1], [1, 0.5], [0.5, 0]]
    wanted = [sum(map(entropy, row)) / 2 / math.log(2) for row in shares]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert stuck.tolist() == [0, 0.5, 0.5]


def test_what_was_counted_of_an_unfinished_step_is_forgotten() -> None:
    use = BitWatch(1, ScaleSchedule.of([1]), torch.device("cpu"))
    use.count([torch.ones(3, 1, 1, 1, dtype=torch.int64)])
    use.resume(torch.full((1, 1, 2), 0.5))
    use.count([torch.zeros(1, 1, 1, 1, dtype=torch.int64)])
    use.end_step()
    assert use.frequency.flatten().tolist() == pytest.approx([0.5 + 0.5 / 50, 0.5 - 0.5 / 50])
