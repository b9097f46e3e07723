"""What a tokenizer is trained on: its losses, its codebook's health, and that nothing depends on how a batch is cut.

Most tests drive the objective by a bare loop; runs of the trainer show that a resumed one is the same to the last bit.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from nextscale.checkpoints.store import save_checkpoint
from nextscale.data.folder import load_data
from nextscale.errors import InputError, NextscaleError
from nextscale.features.perceptual import Perceptual, PerceptualConfig
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from nextscale.training.codebook import residuals
from nextscale.training.objectives.residual import ResidualObjective
from nextscale.training.order import Buckets, SampleNoise, generator
from nextscale.training.recipe import load_recipe
from nextscale.training.recipes.residual import ResidualTokenizerRecipe
from nextscale.training.start import start
from tests.training.tiny import SIDE, TINY_TOKENIZER

BATCH = 4
ALL = slice(None)
SMALL = AutoencoderConfig(ch=8, mult=(1,), groups=4)


def all_losses(eyes: Path, network: str = "patch") -> list[str]:
    perceptual = {"weight": 0.3, "network": str(eyes)}
    adversarial = {"weight": 0.2, "start": 0.25, "network": network, "width": 8, "layers": 2}
    return [f"loss.perceptual={json.dumps(perceptual)}", f"loss.adversarial={json.dumps(adversarial)}"]


def objective(images: Path, *overrides: str) -> ResidualObjective:
    recipe = load_recipe("tokenizer-emoji", [*TINY_TOKENIZER, *overrides])
    assert isinstance(recipe, ResidualTokenizerRecipe)
    torch.manual_seed(0)
    data = [load_data(images, SIDE, split) for split in ("train", "heldout")]
    return recipe.new_objective(data[0], data[1], torch.device("cpu"))


class Loop:
    """Training with nothing around it: AdamW and the objective. ``parts``: how each step's batch is cut."""

    def __init__(self, chosen: ResidualObjective, parts: tuple[slice, ...] = (ALL,)) -> None:
        self.objective, self.parts = chosen, parts
        self.optimizer = torch.optim.AdamW(chosen.module.parameters(), lr=2e-3)
        self.average = copy.deepcopy(chosen.module).requires_grad_(False)
        self.metrics: list[dict[str, float]] = []
        self.warnings: list[str] = []

    def run(self, steps: int) -> Loop:
        chosen = self.objective
        chosen.begin(generator(0, "codebook"))
        order = Buckets(torch.zeros(chosen.images, dtype=torch.int64))
        for step in range(steps):
            batch, metrics = order.rows(BATCH, 0, step), {}
            for part in self.parts:
                noise = SampleNoise(0, step, BATCH, part)
                loss, numbers = chosen.loss(chosen.module, batch[part], noise)
                (loss * len(noise) / BATCH).backward()
                metrics = {name: float(value) for name, value in numbers.items()}
            self.optimizer.step()
            self.optimizer.zero_grad()
            metrics |= chosen.after_step(self.optimizer, self.average, generator(0, "codebook", step + 1))
            self.metrics.append(metrics)
            self.warnings += chosen.warnings
            chosen.warnings.clear()
        return self


def test_without_weights_nothing_is_built_and_the_loss_is_that_of_the_pixels_and_codes(images: Path) -> None:
    chosen = objective(images, "loss={l2: 0.7, l1: 0.2, vq: 0.5}")
    assert chosen.perceptual is None
    assert chosen.adversary is None
    assert set(chosen.state()) == {"share", "frequency", "low", "warned", "steps"}
    batch = torch.arange(BATCH)
    loss, parts = chosen.loss(chosen.module, batch, SampleNoise(0, 0, BATCH, ALL))
    ((_, pixels),) = chosen._seen
    reconstruction, vq, _ = chosen.module(pixels)
    wanted = 0.7 * F.mse_loss(reconstruction, pixels) + 0.2 * F.l1_loss(reconstruction, pixels) + 0.5 * vq
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert set(parts) == {"l2", "l1", "vq"}


def test_losses_come_in_when_they_are_told_to(images: Path, eyes: Path) -> None:
    """Eight steps: perceptual from a half on, adversarial from a quarter on, at its own weight."""
    chosen = objective(images, *all_losses(eyes), "loss.perceptual.start=0.5", "loss.adversarial.adaptive=false")
    loop = Loop(chosen).run(8)
    assert ["perceptual" in metrics for metrics in loop.metrics] == [False] * 4 + [True] * 4
    assert ["discriminator" in metrics for metrics in loop.metrics] == [False] * 2 + [True] * 6
    batch = torch.arange(BATCH)
    loss, parts = chosen.loss(chosen.module, batch, SampleNoise(0, 8, BATCH, ALL))
    weights = {"l2": 1.0, "l1": 0.1, "vq": 1.0, "perceptual": 0.3, "adversarial": 0.2}
    assert float(loss.detach()) == pytest.approx(sum(w * float(parts[name]) for name, w in weights.items()), rel=1e-4)


def test_a_perceptual_weight_brings_the_reconstruction_nearer_in_the_networks_eyes(images: Path, eyes: Path) -> None:
    base = [*all_losses(eyes), "loss.adversarial.weight=0", "schedule.steps=25"]
    found = []
    for weight in (1e-9, 10):
        chosen = objective(images, *base, f"loss.perceptual.weight={weight}")
        Loop(chosen).run(25)
        found.append(chosen.validate(chosen.module)["perceptual"])
    assert found[1] < 0.9 * found[0]


def run_folder(folder: Path) -> dict[str, Any]:
    files = sorted((folder / "checkpoints").glob("step-000008/*"))
    tensors = {f"{file.stem}: {key}": t for file in files for key, t in load_file(file).items()}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    return tensors | {"losses": losses}


@pytest.mark.parametrize("network", ["patch", "features"])
def test_a_resumed_run_is_the_same_bit_for_bit(network: str, images: Path, eyes: Path, tmp_path: Path) -> None:
    overrides = [*TINY_TOKENIZER, *all_losses(eyes, network), "codebook.restart_every=3", "codebook.restart_below=0.9"]
    for name, stops in (("whole", [8]), ("parts", [3, 5, 8])):
        for stop in stops:
            start("tokenizer", "tokenizer-emoji", images, tmp_path / name, None, overrides, "cpu").run(stop)
    whole, parts = run_folder(tmp_path / "whole"), run_folder(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert any("discriminator_optimizer" in key for key in whole)
    assert whole.pop("losses") == parts.pop("losses")
    assert [key for key, tensor in whole.items() if not torch.equal(tensor, parts[key])] == []


def test_a_batch_may_be_cut_in_any_way(images: Path) -> None:
    """Use and places of the codes are the same, up to rounding which Adam makes larger."""
    settings = ["data.shift=2", "codebook.restart_every=2", "codebook.restart_below=0.99", "schedule.steps=100"]
    whole, parts = objective(images, *settings), objective(images, *settings)
    moved = Loop(whole).run(4).metrics
    assert [metrics.get("restarted", 0) > 0 for metrics in moved] == [False, True, False, True]
    Loop(parts, (slice(2, 3), slice(0, 2), slice(3, 4))).run(4)
    torch.testing.assert_close(whole.codes.share, parts.codes.share)
    ours, theirs = (x.module.quantizer.codebook.weight for x in (whole, parts))
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
    assert (ours - ours.roll(1, 0)).abs().max() > 0.1  # another choice of vectors would be far from it


def test_a_collapsed_codebook_is_warned_of_and_mended(images: Path) -> None:
    """Codes far from everything: all tokens are one code. Moved onto the data they come to life and describe it."""
    found, base = {}, ["codebook.start_images=0", "schedule.steps=100", "codebook.collapsed_after=15"]
    base += ["codebook.restart_every=10", "codebook.restart_until=1", "run.log_every=5"]
    for mending in ("0.5", "0"):
        chosen = objective(images, *base, f"codebook.restart_below={mending}")
        with torch.no_grad():
            chosen.module.quantizer.codebook.weight.add_(20)
        loop = Loop(chosen).run(100)
        found[mending] = loop.metrics[-1]
        what, consequence = loop.warnings[0].split("; ")
        assert re.fullmatch(r"the codebook has collapsed: it lives on about 1\.\d of 24 codes", what)
        assert consequence.startswith("rarely used codes are moved" if mending != "0" else "nothing mends it")
        assert len(loop.warnings) == 1
    alive, dead = found["0.5"], found["0"]
    assert (dead["collapsed"], alive["collapsed"]) == (4, 0)  # the whole codebook and its three scales
    assert alive["perplexity"] > 2.5 * dead["perplexity"]
    assert alive["vq"] < 0.1 * dead["vq"]


def test_a_collapsed_scale_is_called_by_its_size(images: Path) -> None:
    chosen = objective(images, "codebook.restart_until=0")
    said = chosen.warning(2, {"perplexity": torch.tensor([9.0, 9, 1.23])})
    assert said.startswith("the codebook has collapsed at the scale 2x2: it lives on about 1.2 of 24 codes; rarely")
    chosen.steps = 1
    assert chosen.warning(2, {"perplexity": torch.tensor([9.0, 9, 1.23])}).endswith(
        "codes are no longer moved after 0% of the run (codebook.restart_until)"
    )


def test_a_healthy_run_is_not_warned_of(images: Path) -> None:
    settings = ["schedule.steps=60", "codebook.collapsed_after=15", "run.log_every=5", "codebook.restart_every=10"]
    loop = Loop(objective(images, *settings)).run(60)
    assert loop.warnings == []
    assert loop.metrics[-1]["collapsed"] == 0
    assert loop.metrics[-1]["perplexity"] > 6


def test_a_collapsed_scale_is_given_codes_of_its_own(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image has nearly the same mean, and all codes lie elsewhere: the 1x1 map is one code for all images. All
    codes are in use at the other scales, so that none is rare, and only what the watch says can help.
    """
    found = {}
    for mending in (True, False):
        chosen = objective(images, "model.codes=64", "codebook.restart_below=0.001")
        quantizer, schedule = chosen.module.quantizer, chosen.module.schedule
        noise = torch.Generator().manual_seed(0)
        latent = torch.randn(BATCH, 4, 4, 4, generator=noise)
        latent = latent - latent.mean((2, 3), keepdim=True) + 0.05 * torch.randn(BATCH, 4, 1, 1, generator=noise)
        monkeypatch.setattr(chosen.module, "latent", lambda pixels, latent=latent: latent)
        with torch.no_grad():
            quantizer.codebook.weight.copy_(torch.randn(64, 4, generator=noise))
        chosen.codes.share += torch.rand(64, generator=noise)
        chosen._seen.append((range(BATCH), latent))
        chosen.watch.low[1] = mending * chosen.watch.after
        optimizer = torch.optim.AdamW(chosen.module.parameters())
        before = residuals(chosen.module, latent)[1][:, 0].unique()
        moved = chosen._restart(optimizer, copy.deepcopy(chosen.module), noise)
        assert moved == (BATCH if mending else 0)  # a sixteenth of the codes
        assert schedule.offsets[1] == 1
        found[mending] = (len(before), len(residuals(chosen.module, latent)[1][:, 0].unique()))
    assert found[False] == (1, 1)
    assert found[True] == (1, BATCH)


def test_use_and_perplexity_of_every_scale_are_logged(images: Path) -> None:
    loop = Loop(objective(images, "run.log_every=2")).run(2)
    assert loop.metrics[0].keys() == {"l2", "l1", "vq"}
    names = [f"{name}{scale}" for name in ("codes_used", "perplexity") for scale in ("", "_0", "_1", "_2")]
    assert {*names, "collapsed"} <= loop.metrics[1].keys()
    assert all(1 <= loop.metrics[1][name] <= 24 for name in names if "perplexity" in name)
    assert all(0 < loop.metrics[1][name] <= 1 for name in names if "codes_used" in name)


def test_the_gradient_goes_straight_through_the_quantiser() -> None:
    """To the latent: that of the canvas, unchanged, plus the commitment's. To the codes: of the VQ loss alone."""
    tokenizer = ResidualTokenizer(ResidualConfig(codes=16, sizes=((1, 1), (2, 2)), beta=0.25, autoencoder=SMALL))
    latent = torch.randn(3, 32, 2, 2, requires_grad=True)
    pull = torch.randn(3, 32, 2, 2)
    canvas, vq, _ = tokenizer.straight_through(latent)
    torch.testing.assert_close(torch.autograd.grad((canvas * pull).sum(), latent, retain_graph=True)[0], pull)
    assert (
        torch.autograd.grad(
            (canvas * pull).sum(), tokenizer.quantizer.codebook.weight, allow_unused=True, retain_graph=True
        )[0]
        is None
    )
    maps = tokenizer.encode(latent.detach()).tokens
    canvases = [tokenizer.follow(maps[: k + 1]).canvas.latent for k in range(len(maps))]
    commitment = torch.stack([2 * 0.25 * (latent - f_k) / latent.numel() for f_k in canvases]).mean(0)
    torch.testing.assert_close(torch.autograd.grad(vq, latent, retain_graph=True)[0], commitment.detach())
    assert torch.autograd.grad(vq, tokenizer.quantizer.codebook.weight)[0].abs().sum() > 0


def test_quantising_for_training_ignores_autocast() -> None:
    tokenizer = ResidualTokenizer(ResidualConfig(codes=64, sizes=((1, 1), (3, 3)), autoencoder=SMALL))
    latent = torch.randn(3, 32, 3, 3)
    exact = tokenizer.straight_through(latent)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tokenizer.straight_through(latent)
    flat: list[tuple[Tensor, Tensor]] = [*zip(exact[:2], mixed[:2], strict=True), *zip(exact[2], mixed[2], strict=True)]
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in flat)
    assert mixed[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loss.perceptual={weight: 1, network: vgg, files: [no.pth, nor.pth]}", r"no\.pth does not exist"),
        ("loss.perceptual={weight: 1, network: nowhere}", "network 'nowhere' has no checkpoint in nowhere"),
    ],
)
def test_networks_that_are_not_there(override: str, message: str, images: Path) -> None:
    with pytest.raises(NextscaleError, match=message):
        objective(images, override)


def test_images_too_small_for_the_perceptual_network(images: Path, tmp_path: Path) -> None:
    deep = PerceptualConfig(("a",), widths=(8, 8, 8, 8, 8))
    save_checkpoint(tmp_path / "deep", {"perceptual": Perceptual(deep)})
    with pytest.raises(InputError, match="sides of at least 32"):
        objective(images, f"loss.perceptual={{weight: 1, network: {tmp_path / 'deep'}}}")
