"""The frozen network whose features a tokenizer's losses look at: our own, or VGG16 with published weights."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast

import torch
from torch import Tensor

from nextscale.checkpoints.load import BUNDLED
from nextscale.checkpoints.store import load_component
from nextscale.errors import InputError
from nextscale.features.vgg import load_vgg16
from nextscale.training.tokenizer_recipe import PerceptualLoss


class PerceptualNetwork(Protocol):
    """Shape letters: ``B`` batch, ``C`` channels, ``h w`` places. Images are (B, 3, H, W) in [-1, 1]."""

    def layers(self, images: Tensor) -> list[Tensor]:
        """Features (B, C, h, w) of several depths."""

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """How different the images of two batches look, (B,)."""


def load_perceptual(settings: PerceptualLoss, resolution: int, device: torch.device) -> PerceptualNetwork:
    """The network that ``settings.network`` names, frozen.

    Raises ``InputError`` or ``CheckpointError`` where it is not there, damaged, or made for larger images.
    """
    network = load_vgg16(*settings.files).to(device) if settings.network == "vgg" else _own(settings.network, device)
    with torch.no_grad():
        network.layers(torch.zeros(1, 3, resolution, resolution, device=device))
    return network


def _own(name: str, device: torch.device) -> PerceptualNetwork:
    folder = BUNDLED / "perceptual" if name == "emoji" else Path(name)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"loss.perceptual.network {name!r} has no checkpoint in {folder}; "
            "expected emoji, vgg, or the folder of a perceptual network"
        )
    return cast(PerceptualNetwork, load_component(folder, "perceptual", device))
