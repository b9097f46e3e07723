"""What a tokenizer's recipe refuses, and that the published one is the published one."""

from __future__ import annotations

import pytest
import torch

from nextscale.errors import InputError
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.residual import ResidualTokenizer
from nextscale.training.recipe import load_recipe
from nextscale.training.recipes.bitwise import BitwiseTokenizerRecipe
from nextscale.training.recipes.residual import ResidualTokenizerRecipe


def test_vars_tokenizer_has_its_published_size_and_training() -> None:
    recipe = load_recipe("tokenizer-var-256")
    assert isinstance(recipe, ResidualTokenizerRecipe)
    with torch.device("meta"):
        tokenizer = ResidualTokenizer(recipe.model)
    assert sum(p.numel() for p in tokenizer.parameters()) == pytest.approx(108.95e6, rel=1e-4)
    assert tokenizer.schedule == ScaleSchedule.preset("256")
    assert (tokenizer.choices, tokenizer.code_dim, tokenizer.stride) == (4096, 32, 16)
    loss, optim, run = recipe.loss, recipe.optim, recipe.run
    assert (loss.l2, loss.l1, loss.vq, loss.perceptual.weight, recipe.model.beta) == (1.0, 0.2, 1.0, 1.0, 0.25)
    assert (loss.adversarial.weight, loss.adversarial.start, loss.adversarial.warmup) == (0.4, 0.2, 0.02)
    assert loss.adversarial.adaptive
    assert (optim.lr, optim.betas, optim.clip, optim.ema) == (3e-4, (0.5, 0.9), 10.0, 0.9999)
    assert (recipe.schedule.form, recipe.schedule.end, recipe.schedule.epochs, run.batch) == ("cosine", 0.3, 250, 768)


def test_infinitys_tokenizer_has_its_published_size_and_losses() -> None:
    recipe = load_recipe("tokenizer-bitwise-256")
    assert isinstance(recipe, BitwiseTokenizerRecipe)
    with torch.device("meta"):
        tokenizer = recipe.new_tokenizer()
    assert sum(p.numel() for p in tokenizer.parameters()) == pytest.approx(110.12e6, rel=1e-4)
    assert tokenizer.schedule.lengths == (1, 4, 16, 36, 64, 144, 256)
    loss, judge = recipe.loss, recipe.loss.adversarial
    assert (loss.l2, loss.l1, loss.perceptual.weight) == (0, 1, 1)
    assert (loss.quantizer, loss.commitment, loss.entropy) == (4, 0.25, 0.1)
    assert (judge.weight, judge.width, judge.lr_ratio, judge.start * recipe.schedule.total(1, 1)) == (0.3, 128, 2, 5e4)
    assert (recipe.optim.lr, recipe.run.batch, recipe.schedule.steps) == (1e-4, 256, 500_000)


def test_the_bits_for_emoji_fit_into_the_library() -> None:
    """At most 5 MiB in bfloat16, without attention, at widths that 32 divides."""
    recipe = load_recipe("tokenizer-bitwise-emoji")
    assert isinstance(recipe, BitwiseTokenizerRecipe)
    assert 2 * sum(p.numel() for p in recipe.new_tokenizer().parameters()) < 5 * 2**20
    sizes = recipe.model.autoencoder
    assert not sizes.attention
    assert not sizes.mid_attention
    assert all(width % 32 == 0 for width in sizes.widths)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.perceptual={weight: 1, network: vgg}", "vgg needs two files"),
        ("data.resolution=64", "256x256, not data.resolution"),
        ("loss.adversarial={weight: 1, layers: 7}", "of at least 384 pixels, but data.resolution is 256; lower"),
        ("loss.adversarial={weight: 1, width: 12}", "multiple of 8"),
        ("loss.adversarial={weight: 1, network: patches}", "'patch' or 'features'"),
        ("loss.adversarial={weight: -1}", "greater than or equal to 0"),
        ("loss.perceptual.wieght=1", "no key 'loss.perceptual.wieght'; did you mean 'loss.perceptual.weight'?"),
        ("run.compile=true", "set run.compile or loss.adversarial.adaptive to false"),
    ],
)
def test_what_a_recipe_cannot_say(override: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        load_recipe("tokenizer-var-256", [override])
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("override", ["loss.adversarial={weight: 0, layers: 7}", "loss.adversarial.network=patch"])
def test_what_it_may_say(override: str) -> None:
    load_recipe("tokenizer-var-256", [override])
