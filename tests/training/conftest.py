"""Settings of the property-based tests, and the tiny data set and tokenizer that trainings use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from nextscale.checkpoints.store import save_checkpoint
from nextscale.features.perceptual import Perceptual, PerceptualConfig
from nextscale.training.start import start
from tests.training.tiny import TINY_DIRECT, TINY_TOKENIZER, write_images, write_world

settings.register_profile("patient", deadline=None)  # on a busy machine the first example pays for everything
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bit-for-bit comparisons hold for one thread count."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 18 tiny pictures."""
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perceptual network with random weights, as a checkpoint."""
    folder = tmp_path_factory.mktemp("eyes") / "perceptual"
    torch.manual_seed(5)
    save_checkpoint(folder, {"perceptual": Perceptual(PerceptualConfig(("a", "b"), widths=(8, 8)))})
    return folder


@pytest.fixture(scope="session")
def tokenizer(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny trained tokenizer."""
    output = tmp_path_factory.mktemp("runs") / "tokenizer"
    start("tokenizer", "tokenizer-emoji", images, output, None, TINY_TOKENIZER, "cpu").run()
    return output


@pytest.fixture(scope="session")
def direct(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny trained tokenizer that encodes any scales."""
    output = tmp_path_factory.mktemp("runs") / "direct"
    start("tokenizer-direct", "tokenizer-direct-emoji", images, output, None, TINY_DIRECT, "cpu").run()
    return output


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See ``write_world``."""
    return write_world(tmp_path_factory.mktemp("world"))
