"""A small folder of pictures with classes and a split of its own, and a tiny model that knows its classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from nextscale.evaluation.report import Subject
from tests.makers import tiny_pipeline

settings.register_profile("unhurried", deadline=None)  # a busy machine may take longer than 200 ms over one example
settings.load_profile("unhurried")

CLASSES = ("animal", "face", "flag", "food", "tool")  # those of the tiny pipeline
TRAIN, HELDOUT = 15, 10


def draw_folder(
    folder: Path, classes: Sequence[str] = CLASSES, side: int = 16, train: int = 3, heldout: int = 2
) -> Path:
    """``train`` and ``heldout`` pictures of every class: a coloured square on a ground of another colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", heldout)):
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.tile(rng.integers(0, 256, 3, np.uint8), (side, side, 1))
                top, left = rng.integers(0, side // 2, 2)
                pixels[top : top + side // 2, left : left + side // 2] = rng.integers(0, 256, 3)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 pictures to train on and 10 held out, in five classes."""
    return draw_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def subject() -> Subject:
    pipe = tiny_pipeline()
    return Subject("tiny", "0123456789ab", pipe.tokenizer, pipe.model, pipe.vocabulary.names)
