"""What a bitwise tokenizer is trained on: its losses, which scales it leaves out, and that stuck bits are noticed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from nextscale.checkpoints.store import load_component
from nextscale.data.folder import load_data
from nextscale.errors import CheckpointError, InputError
from nextscale.tokenizers.bitwise import BitwiseTokenizer
from nextscale.training.bits import commitment, entropies
from nextscale.training.objectives.bitwise import BitwiseObjective
from nextscale.training.order import SampleNoise
from nextscale.training.recipe import load_recipe
from nextscale.training.recipes.bitwise import BitwiseTokenizerRecipe
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from tests.training.tiny import SIDE, TINY_BITWISE

BATCH = 4
NAME = "tokenizer-bitwise-emoji"


def recipe_of(*overrides: str) -> BitwiseTokenizerRecipe:
    recipe = load_recipe(NAME, [*TINY_BITWISE, *overrides])
    assert isinstance(recipe, BitwiseTokenizerRecipe)
    return recipe


def objective(images: Path, *overrides: str) -> BitwiseObjective:
    torch.manual_seed(0)
    data = [load_data(images, SIDE, split) for split in ("train", "heldout")]
    return recipe_of(*overrides).new_objective(data[0], data[1], torch.device("cpu"))


def noise(step: int = 0, part: slice = slice(None)) -> SampleNoise:
    return SampleNoise(0, step, BATCH, part)


def test_the_published_weights_are_the_defaults(images: Path) -> None:
    """4 (0.25 commitment + 0.1 (own entropy - that of the batch) / 100), beside the pixels."""
    chosen = objective(images, "loss={}", "data.shift=0", "data.flip=0", "data.recolour=0", "bits={}")
    loss, parts = chosen.loss(chosen.module, torch.arange(BATCH), noise())
    pixels = chosen.train.read(torch.arange(BATCH), noise().uniform(2)).float() / 127.5 - 1
    reconstruction, units, tokens = chosen.module(pixels)
    own, batch = entropies(units, 6)
    committed = commitment(units, [chosen.module.codes(one) for one in tokens])
    wanted = F.l1_loss(reconstruction, pixels) + 4 * (0.25 * committed + 0.1 * (own - batch) / 100)
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert set(parts) == {"l2", "l1", "commitment", "token_entropy", "batch_entropy"}
    assert set(chosen.state()) == {"frequency", "low", "warned", "steps"}


def test_scales_are_left_out_as_often_as_asked_and_the_last_never(images: Path) -> None:
    chosen, kept = objective(images, "bits.scale_dropout=0.25"), []
    for step in range(300):
        whole = chosen._kept(noise(step))
        parts = [chosen._kept(noise(step, part)) for part in (slice(0, 1), slice(1, 4))]
        assert whole is not None
        assert torch.equal(torch.cat([part for part in parts if part is not None]), whole)
        kept.append(whole)
    shares = torch.cat(kept).float().mean(0).tolist()
    assert shares == pytest.approx([0.75, 0.75, 1.0], abs=0.05)
    assert shares[2] == 1
    assert objective(images, "bits.scale_dropout=0")._kept(noise()) is None


def test_a_scale_that_is_left_out_is_not_drawn(images: Path) -> None:
    """With all but the last left out, what is drawn are the bits of the last scale, found as if nothing stood there."""
    chosen = objective(images, "bits.scale_dropout=1")
    pixels = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    (found,), _, _ = chosen.quantized(chosen.module, pixels, SampleNoise(0, 0, 2, slice(None)))
    latent = chosen.module.latent(pixels)
    codes = torch.where(latent > 0, 1.0, -1.0) / 6**0.5
    torch.testing.assert_close(found, chosen.module.decoder(codes))


def test_a_short_run_learns_and_is_exported(images: Path, tmp_path: Path) -> None:
    settings = [*TINY_BITWISE, "schedule.steps=15", "run.validate_every=15", "optim.lr=0.005", "optim.ema=0"]
    trainer = start("tokenizer-bitwise", NAME, images, tmp_path / "run", None, settings, "cpu")
    before = trainer.objective.validate(trainer.objective.module)
    after = trainer.run()
    assert after["psnr"] > before["psnr"] + 2
    names = {f"{name}{scale}" for name in ("bit_entropy", "stuck_bits") for scale in ("", "_0", "_1", "_2")}
    assert names <= after.keys()
    exported = load_component(tmp_path / "run" / "export", "tokenizer")
    assert isinstance(exported, BitwiseTokenizer)
    assert exported.config == recipe_of().model
    assert exported.draws == 6


def test_stuck_bits_are_warned_of_once(images: Path) -> None:
    """An encoder four of whose six channels are far above 0 everywhere: their bits are 1 at every scale. The two others
    are 0 at the coarsest scale and 1 at the next, which makes good for it.
    """
    chosen = objective(images, "bits={collapsed_after: 15}", "run.log_every=5")
    last = chosen.module.encoder.conv_out
    torch.nn.init.zeros_(last.weight)
    last.bias = torch.nn.Parameter(torch.tensor([9.0, 9, 9, 9, 0, 0]))
    optimizer, said = torch.optim.AdamW(chosen.module.parameters(), lr=0.0), []
    for step in range(30):
        chosen.loss(chosen.module, torch.arange(BATCH), noise(step))
        found = chosen.after_step(optimizer, chosen.module, torch.Generator())
        said += chosen.warnings
        chosen.warnings.clear()
    assert found["stuck_bits"] == pytest.approx(4 / 6)
    assert (found["stuck_bits_0"], found["stuck_bits_1"], found["collapsed"]) == (1, 1, 4)
    assert said == [
        "the bits have collapsed: 67% of them have one value nearly always; loss.entropy is what evens them out"
    ]
    assert "at the scale 2x2: 60%" in chosen.warning(2, {"stuck_bits": torch.tensor([0.1, 0.2, 0.6])})


def test_the_quantisers_loss_reaches_the_encoder_and_not_the_decoder(images: Path) -> None:
    for weights in ("commitment: 0", "entropy: 0"):
        chosen = objective(images, f"loss={{l1: 0, {weights}}}")
        chosen.loss(chosen.module, torch.arange(BATCH), noise())[0].backward()
        gradients = {name: p.grad.abs().sum() for name, p in chosen.module.named_parameters() if p.grad is not None}
        assert all(gradient == 0 for name, gradient in gradients.items() if name.startswith("decoder"))
        assert 0 < gradients["encoder.conv_in.weight"] < math.inf


def test_a_healthy_run_is_not_warned_of(images: Path) -> None:
    chosen = objective(images, "bits.collapsed_after=10", "run.log_every=5")
    for step in range(20):
        chosen.loss(chosen.module, torch.randperm(13)[:BATCH], noise(step))
        chosen.bits._now += 10  # every bit has both values
        chosen.after_step(torch.optim.AdamW(chosen.module.parameters()), chosen.module, torch.Generator())
    assert chosen.warnings == []


def test_a_refined_decoder_leaves_the_bits_as_they_were(images: Path, tmp_path: Path) -> None:
    for name, more, init in (("first", [], None), ("more", ["decoder_only=true"], str(tmp_path / "first"))):
        settings = [*TINY_BITWISE, "schedule.steps=2", "optim.ema=0", *more]
        start("tokenizer-bitwise", NAME, images, tmp_path / name, None, settings, "cpu", init=init).run()
    before, after = (load_component(tmp_path / name / "export", "tokenizer").state_dict() for name in ("first", "more"))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}


def test_a_patchified_tokenizer_is_trained(images: Path) -> None:
    chosen = objective(images, "model.patchify=true", "model.sizes=[1, 2]")
    loss, _ = chosen.loss(chosen.module, torch.arange(BATCH), noise())
    assert math.isfinite(float(loss.detach()))
    assert chosen.bits.frequency.shape == (2, 24, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.bits=7", "the latent has 6 channels but a code 7 bits"),
        ("model.patchify=true", "times a stride of 8 is 32x32, not data.resolution"),
        ("loss.vq=1", "no key 'loss.vq'"),
        ("codebook.kmeans=1", "no key 'codebook'"),
        ("bits.scale_dropout=2", "less than or equal to 1"),
        ("loss.entropy=-1", "greater than or equal to 0"),
    ],
)
def test_what_a_recipe_cannot_say(override: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        recipe_of(override)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_run_starts_from_a_tokenizer_of_another_schedule_and_of_no_other_bits(images: Path, tmp_path: Path) -> None:
    """A stage at more pixels goes on from one at fewer: the schedule shapes no weights, the bits do."""

    def begin(run: str, *more: str, init: Path | None = None) -> Trainer:
        kept = None if init is None else str(init)
        overrides = [*TINY_BITWISE, "schedule.steps=1", *more]
        return start("tokenizer-bitwise", "emoji", images, tmp_path / run, None, overrides, "cpu", init=kept)

    begin("small", "data.resolution=8", "model.sizes=[1, 2]").run()
    small, larger = tmp_path / "small", begin("large", init=tmp_path / "small")
    known = load_component(small / "export", "tokenizer").state_dict()
    assert all(torch.equal(known[name], weight) for name, weight in larger.objective.module.state_dict().items())
    larger.run()
    exported = load_component(tmp_path / "large" / "export", "tokenizer")
    assert isinstance(exported, BitwiseTokenizer)
    assert exported.schedule.sizes == ((1, 1), (2, 2), (4, 4))
    for setting, more in {
        "bits is 6": ["model.bits=4", "model.autoencoder.z=4"],
        "autoencoder.ch is 8": ["model.autoencoder.ch=16"],
    }.items():
        with pytest.raises(CheckpointError, match=f"another architecture: its {setting}"):
            begin("other", *more, init=small)
