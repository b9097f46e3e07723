"""The classifier: its price is the counted one, an image's features are its own, and it is saved with its names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nextscale.checkpoints.load import bundled_names, checkpoint_folder, load_classifier, load_perceptual
from nextscale.checkpoints.store import save_checkpoint
from nextscale.errors import CheckpointError, InputError
from nextscale.features.classifier import Classifier, ClassifierConfig
from nextscale.features.perceptual import Perceptual, PerceptualConfig

NAMES, STYLES = ("cold", "warm", "wet"), ("flat", "round")


def small(styles: tuple[str, ...] = STYLES) -> Classifier:
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(NAMES, styles, (8, 16))).eval()


def some_images(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand((count, 3, side, side), generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("resolution", [64, 57])
@pytest.mark.parametrize(
    "network",
    [Classifier(ClassifierConfig(NAMES, STYLES)), Perceptual(PerceptualConfig(NAMES, STYLES))],
    ids=["classifier", "perceptual"],
)
def test_the_price_is_what_pytorch_counts(network: Classifier | Perceptual, resolution: int) -> None:
    with FlopCounterMode(display=False) as counter:
        network(some_images(1, resolution))
    assert network.flops(resolution) == counter.get_total_flops()


def test_the_sizes_that_ship() -> None:
    names = tuple(map(str, range(98)))
    classifier, perceptual = Classifier(ClassifierConfig(names, STYLES)), Perceptual(PerceptualConfig(names, STYLES))
    assert sum(p.numel() for p in classifier.parameters()) <= 750_000
    assert sum(p.numel() for p in perceptual.parameters()) <= 180_000
    assert classifier.flops(64) <= 40e6


@pytest.mark.parametrize("side", [32, 45, 64])
def test_any_size_from_32_on_has_features_and_logits(side: int) -> None:
    network = Classifier(ClassifierConfig(NAMES, STYLES)).eval()
    said = network(some_images(2, side))
    assert (said.classes.shape, said.styles.shape) == ((2, 3), (2, 2))
    assert network.features(some_images(2, side)).shape == (2, 128)


def test_a_set_without_styles_gets_no_style_logits() -> None:
    assert small(())(some_images()).styles.shape == (3, 0)


def test_features_do_not_depend_on_the_batch_and_are_float32() -> None:
    network, images = small(), some_images()
    together = network.features(images)
    alone = torch.cat([network.features(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    assert network.to(torch.bfloat16).features(images.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 3, 31, 64)])
def test_what_are_no_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected \(B, 3, H, W\) with sides of at least 32"):
        Classifier(ClassifierConfig(NAMES))(torch.zeros(shape))


@pytest.mark.parametrize("widths", [(), (12,), (8, 0)])
def test_widths_that_cannot_be(widths: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="expected multiples of 8, one or more"):
        ClassifierConfig(NAMES, widths=widths)


def test_a_checkpoint_keeps_names_styles_and_weights(tmp_path: Path) -> None:
    network = small()
    save_checkpoint(tmp_path / "ck", {"classifier": network}, dtype=torch.bfloat16)
    again = load_classifier(tmp_path / "ck")
    assert again.config == network.config
    assert (again.config.names, again.config.styles) == (NAMES, STYLES)
    assert torch.equal(again.head.weight, network.head.weight.bfloat16().float())
    assert not again.training
    assert not any(p.requires_grad for p in again.parameters())


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "ck", {"classifier": small()})
    with pytest.raises(CheckpointError, match="has no perceptual; it has classifier"):
        load_perceptual(tmp_path / "ck")
    with pytest.raises(CheckpointError, match="has no classifier; it has tokenizer, model"):
        load_classifier("emoji")
    with pytest.raises(CheckpointError, match="no model 'nowhere'"):
        load_classifier("nowhere")


def test_feature_networks_are_no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundled classifier is found by its name, and is not offered to those who want to draw."""
    monkeypatch.setattr("nextscale.checkpoints.load.BUNDLED", tmp_path)
    save_checkpoint(tmp_path / "classifier", {"classifier": small()})
    assert (bundled_names(), bundled_names("classifier")) == ([], ["classifier"])
    assert checkpoint_folder("classifier") == tmp_path / "classifier"
    assert load_classifier().config.names == NAMES
