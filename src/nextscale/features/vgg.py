"""VGG16 (arXiv 1409.1556) as published, and the LPIPS distance (arXiv 1801.03924) on it.

Both kinds of weights come from files the user has: torchvision's ``vgg16-397923af.pth`` and LPIPS' ``vgg.pth`` of
version 0.1. Nothing is downloaded.

Shape letters: ``B`` batch, ``C`` channels, ``h w`` places. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.errors import CheckpointError, one_line
from nextscale.features.classifier import check_images
from nextscale.features.perceptual import layer_distance, stages
from nextscale.files import kind_of

CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Channels of the convolutions between two poolings."""

CLASSIFIER = {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}
"""The published file's last layers, by their numbers; they are checked and left out."""

MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for images in [-1, 1], rounded as LPIPS has them."""


class VGG16(nn.Module):
    """The convolutions of VGG16, and the weights by which LPIPS adds up its channels (ones unless they are loaded)."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        channels = [3, *(width for stage in CHANNELS for width in stage)]
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.weights = nn.ParameterList(torch.ones(stage[-1]) for stage in CHANNELS)
        for name, value in (("mean", MEAN), ("deviation", DEVIATION)):
            self.register_buffer(name, torch.tensor(value)[:, None, None], persistent=False)

    def layers(self, images: Tensor) -> list[Tensor]:
        """The last layer (B, C, h, w) of every stage, before it is pooled. Raises ``InputError`` for no images."""
        check_images(images, 2 ** (len(CHANNELS) - 1))
        return stages(self.convolutions, CHANNELS, (images - self.mean) / self.deviation)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """LPIPS of two batches of images, (B,)."""
        triples = zip(self.layers(a), self.layers(b), self.weights, strict=True)
        return torch.stack([layer_distance(x, y, w) for x, y, w in triples]).sum(0)


UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, pickle.PickleError)
"""What ``torch.load`` raises for files that are damaged or something else."""


def load_vgg16(file: Path | str, linear: Path | str | None = None) -> VGG16:
    """VGG16 with torchvision's weights from ``file`` and LPIPS' from ``linear``, frozen, float32.

    Raises ``CheckpointError`` for a file that is missing, damaged or something else.
    """
    network = VGG16()
    state = _read(Path(file), _published(network), "torchvision's weights of VGG16")
    for number, convolution in zip(_numbers(), network.convolutions, strict=True):
        convolution.load_state_dict({kind: state[f"features.{number}.{kind}"] for kind in ("weight", "bias")})
    if linear is not None:
        shapes = {f"lin{i}.model.1.weight": (1, len(w), 1, 1) for i, w in enumerate(network.weights)}
        found = _read(Path(linear), shapes, "LPIPS' weights for VGG16")
        network.weights = nn.ParameterList(found[name].float().flatten() for name in shapes)
    return network.eval().requires_grad_(False)


def _numbers() -> list[int]:
    """Places of the convolutions in torchvision's sequence of convolutions, rectifiers and poolings."""
    found, place = [], 0
    for stage in CHANNELS:
        found += [place + 2 * i for i in range(len(stage))]
        place += 2 * len(stage) + 1
    return found


def _published(network: VGG16) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in torchvision's file."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, convolution in zip(_numbers(), network.convolutions, strict=True):
        for kind, tensor in convolution.state_dict().items():
            shapes[f"features.{number}.{kind}"] = tuple(tensor.shape)
    for place, shape in CLASSIFIER.items():
        shapes |= {f"classifier.{place}.weight": shape, f"classifier.{place}.bias": shape[:1]}
    return shapes


def _read(file: Path, shapes: Mapping[str, tuple[int, ...]], what: str) -> dict[str, Tensor]:
    """The tensors of a file by torch.save, which must be exactly those of ``shapes``."""
    if not file.is_file():
        kind = f"is {kind_of(file)}" if os.path.lexists(file) else "does not exist"
        raise CheckpointError(f"{file} {kind}; expected {what}")
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    except UNREADABLE:
        raise CheckpointError(f"{file} cannot be read; expected {what}") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds a {type(state).__name__}; expected {what}")
    found = {name: tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__ for name, t in state.items()}
    for name in [*shapes, *found]:
        if found.get(name) != shapes.get(name):
            seen, wanted = found.get(name, "missing"), shapes.get(name, "nothing of that name")
            raise CheckpointError(f"{file} is not {what}: {one_line(name)} is {seen}; expected {wanted}")
    for name, tensor in state.items():
        plain = tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_meta
        if not plain or not all(math.isfinite(end) for end in tensor.float().aminmax()):
            raise CheckpointError(f"{file} is not {what}: {name} has values that are not finite numbers")
    return state
