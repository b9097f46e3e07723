"""The direct tokenizer: maps are the down-sampled latent, whatever other scales there are, and unit vectors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nextscale.errors import InputError
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.direct import DirectConfig, DirectTokenizer
from tests.makers import tiny_direct


@pytest.fixture(scope="module")
def tokenizer() -> DirectTokenizer:
    return tiny_direct()


@pytest.fixture(scope="module")
def latent(tokenizer: DirectTokenizer) -> torch.Tensor:
    images = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return tokenizer.latent(images)


def test_the_tokens_of_a_map_do_not_depend_on_the_other_scales(
    tokenizer: DirectTokenizer, latent: torch.Tensor
) -> None:
    many = tokenizer.encode(latent, ScaleSchedule.of([1, 2, (2, 3), 4])).tokens
    few = tokenizer.encode(latent, ScaleSchedule.of([(2, 3), 3])).tokens
    assert torch.equal(many[2], few[0])
    assert not torch.equal(many[1], many[3][:, :2, :2])


def test_averaging_before_and_after_the_projection_is_the_same(tokenizer: DirectTokenizer) -> None:
    images = torch.rand(1, 3, 16, 16) * 2 - 1
    encoded = tokenizer.encoder(images)
    before = tokenizer.quant_conv(F.interpolate(encoded, (3, 3), mode="area"))
    torch.testing.assert_close(before, F.interpolate(tokenizer.latent(images), (3, 3), mode="area"), atol=1e-5, rtol=0)


def test_a_map_is_the_nearest_code_by_angle(tokenizer: DirectTokenizer, latent: torch.Tensor) -> None:
    codes = tokenizer.codebook.weight
    angles = F.cosine_similarity(latent.movedim(1, -1)[..., None, :], codes, dim=-1)
    found = tokenizer.encode(latent).tokens[-1]
    assert torch.equal(found, angles.argmax(-1))
    assert not torch.equal(found, torch.cdist(latent.movedim(1, -1).flatten(0, 2), codes).argmin(1).view_as(found))
    torch.testing.assert_close(tokenizer.codes(found).norm(dim=1), torch.ones(found.shape))


def test_every_map_decodes_to_a_picture_of_its_size(tokenizer: DirectTokenizer, latent: torch.Tensor) -> None:
    tokens = tokenizer.encode(latent, ScaleSchedule.of([1, (2, 3), 4])).tokens
    for k, size in enumerate([(4, 4), (8, 12), (16, 16)], start=1):
        canvas = tokenizer.follow(tokens[:k], ScaleSchedule.of([1, (2, 3), 4])).canvas
        assert tokenizer.decode(canvas).shape[-2:] == size
        assert tokenizer.decode_flops(canvas.schedule, k) == tokenizer.decode_flops(canvas.schedule.prefix(k), k)


def test_a_map_that_is_larger_than_the_latent_is_refused(tokenizer: DirectTokenizer, latent: torch.Tensor) -> None:
    with pytest.raises(InputError, match=r"the latent is \(4, 4\), but a scale of 5x5 was asked for; expected less"):
        tokenizer.encode(latent, ScaleSchedule.of([1, 5]))


def test_gradients_pass_the_codes_and_the_losses_are_of_unit_vectors(
    tokenizer: DirectTokenizer, latent: torch.Tensor
) -> None:
    leaf = latent.clone().requires_grad_()
    scales = tiny_direct(beta=0.5, entropy=0.1).straight_through(leaf)
    whole = scales[-1]
    z = F.normalize(latent, dim=1)
    torch.testing.assert_close(whole.codes, tokenizer.codes(whole.tokens))
    torch.testing.assert_close(whole.vq, F.mse_loss(tokenizer.codes(whole.tokens), z))
    torch.testing.assert_close(whole.commit, whole.vq / 2)
    assert whole.entropy != 0
    assert tokenizer.straight_through(latent)[-1].entropy == 0
    (gradient,) = torch.autograd.grad((whole.codes * z.roll(1, 0)).sum(), leaf, retain_graph=True)
    torch.testing.assert_close((gradient * latent).sum(1), torch.zeros(2, 4, 4), atol=1e-5, rtol=0)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("name", ["beta", "entropy"])
def test_weights_of_losses_are_not_negative(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} is -1; expected a finite number, 0 or more"):
        DirectConfig(**{name: -1})  # type: ignore[arg-type]
