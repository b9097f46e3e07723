"""A small folder of pictures with classes and a split of its own, a small set of emoji in three styles, tiny models
that know their classes, and a tiny classifier.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from nextscale.data.emoji import FORMAT_VERSION
from nextscale.evaluation.subject import Judge, Subject
from nextscale.features.classifier import Classifier, ClassifierConfig
from tests.evaluation.cells import draw_cells
from tests.makers import randomise, tiny_pipeline, tiny_pipeline_of_styles

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


def draw_emoji(folder: Path, train: int = 3, heldout: int = 2, side: int = 16) -> Path:
    """A set as ``nextscale data emoji`` builds it: ``train`` and ``heldout`` things of every class of
    ``tiny_pipeline_of_styles`` in every style; the families of class "flag" are one.
    """
    rng, records, vocabulary = np.random.default_rng(0), [], tiny_pipeline_of_styles().vocabulary
    folder.mkdir()
    for style in vocabulary.styles:
        for name in vocabulary.names:
            for i in range(train + heldout):
                thing, split = f"{name} {i}", "train" if i < train else "heldout"
                pixels = np.kron(
                    rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((side // 4, side // 4, 1), np.uint8)
                )
                file = f"{style}-{name}-{i}.png"
                Image.fromarray(pixels).save(folder / file)
                family = f"flags, {split}" if name == "flag" else thing
                more = {"name": thing, "class": name, "style": style, "split": split, "family": family}
                records.append({"file": file, "keywords": [], "tones": [], **more})
    recipe = {"format_version": FORMAT_VERSION, "resolution": side, "styles": list(vocabulary.styles)}
    description = {"recipe": recipe, "classes": list(vocabulary.names)}
    (folder / "dataset.json").write_text(json.dumps(description))
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def tiny_classifier(names: Sequence[str], styles: Sequence[str] = ()) -> Classifier:
    """Random weights; for pictures of 8 pixels and more."""
    network = Classifier(ClassifierConfig(tuple(names), tuple(styles), widths=(8, 16)))
    randomise(network, std=0.8)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 pictures to train on and 10 held out, in five classes."""
    return draw_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """27 drawings to train on and 36 held out, in three classes and three styles."""
    return draw_emoji(tmp_path_factory.mktemp("sets") / "emoji", train=3, heldout=4)


@pytest.fixture(scope="session")
def emoji_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """34 drawings to train on and 15 held out by texts, in three styles."""
    return draw_cells(tmp_path_factory.mktemp("sets") / "cells")


@pytest.fixture(scope="session")
def styled() -> Subject:
    """A subject that draws in three styles."""
    pipe = tiny_pipeline_of_styles()
    return Subject("styled", "456789abcdef", pipe.tokenizer, pipe.model, pipe.vocabulary, {"top_k": 5})


@pytest.fixture(scope="session")
def judge() -> Judge:
    """A classifier that knows the classes and styles of ``emoji``, in another order."""
    vocabulary = tiny_pipeline_of_styles().vocabulary
    return Judge("classifier", "aaaabbbbcccc", tiny_classifier(vocabulary.names[::-1], vocabulary.styles[::-1]))


@pytest.fixture(scope="session")
def subject() -> Subject:
    pipe = tiny_pipeline()
    return Subject("tiny", "0123456789ab", pipe.tokenizer, pipe.model, pipe.vocabulary)
