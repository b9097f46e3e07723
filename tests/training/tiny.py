"""A data set and settings so small that a training step takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from nextscale.conditions.classes import ClassVocabulary
from nextscale.training.objectives.generator import GeneratorObjective

SIDE = 16

TINY_RUN = ["run.batch=4", "run.precision=fp32", "run.log_every=1", "run.seed=3"]
TINY_TOKENIZER = [
    *TINY_RUN,
    f"data.resolution={SIDE}",
    "model.codes=24",
    "model.code_dim=4",
    "model.sizes=[1, 2, 4]",
    "model.autoencoder={ch: 8, mult: [1, 1, 2], z: 4, res_blocks: 1, groups: 4}",
    "codebook.start_images=8",
    "loss.perceptual.weight=0",
    "loss.adversarial.width=8",
    "loss.adversarial.layers=2",
    "schedule.epochs=null",
    "schedule.steps=8",
]
TINY_BITWISE = [
    *TINY_RUN,
    f"data.resolution={SIDE}",
    "model.bits=6",
    "model.sizes=[1, 2, 4]",
    "model.patchify=false",
    "model.autoencoder={ch: 8, mult: [1, 1, 2], z: 6, res_blocks: 1, groups: 4}",
    "model.autoencoder.attention=false",
    "model.autoencoder.mid_attention=false",
    "loss.perceptual.weight=0",
    "loss.adversarial.width=8",
    "loss.adversarial.layers=2",
    "schedule.epochs=null",
    "schedule.steps=8",
]
TINY_VAR = [
    *TINY_RUN,
    f"data.resolution={SIDE}",
    "model.depth=2",
    "model.width=16",
    "model.heads=2",
    "sampling.top_k=0",
]
TINY_M_VAR = [*TINY_VAR, "model.state=8", "model.head_dim=8"]
TINY_CLASSIFIER = [*TINY_RUN, f"data.resolution={SIDE}", "model.widths=[8, 16]"]
TINY = {
    "tokenizer": TINY_TOKENIZER,
    "tokenizer-bitwise": TINY_BITWISE,
    "var": TINY_VAR,
    "m-var": TINY_M_VAR,
    "classifier": TINY_CLASSIFIER,
}


def write_images(folder: Path) -> Path:
    """13 training and 5 held-out pictures of two classes, in ImageNet's layout."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 13), ("val", 5)):
        for i in range(count):
            kind = "warm" if i % 2 else "cold"
            pixels = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
            pixels[..., 0 if kind == "warm" else 2] += 150
            path = folder / split / kind / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def classes_of(goal: GeneratorObjective) -> ClassVocabulary:
    """The classes of a generator's objective."""
    assert isinstance(goal.conditioner, ClassVocabulary)
    return goal.conditioner


def labels_of(goal: GeneratorObjective) -> Tensor:
    """The labels (N,) of its training images."""
    return goal.data.features.sources["class"].tensors["ids"]
