"""A data set and settings so small that a training step takes milliseconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale.checkpoints.store import save_checkpoint
from nextscale.conditions.classes import ClassVocabulary
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from nextscale.training.objectives.data import TokenData
from nextscale.training.objectives.generator import GeneratorObjective
from tests.conditions.tiny_t5 import WIDTH, save_t5

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
TINY_INFINITY = [
    *TINY_RUN,
    f"data.resolution={SIDE}",
    "data.schedules=null",
    "data.lengths=null",
    "data.texts=before",
    "model.depth=2",
    "model.width=16",
    "model.heads=2",
    "model.hidden=32",
    "model.text_heads=2",
    "model.chunks=1",
]
TINY_DIRECT = [*TINY_TOKENIZER, "loss.maps=3"]
TINY = {
    "tokenizer": TINY_TOKENIZER,
    "tokenizer-direct": TINY_DIRECT,
    "flexvar": [*TINY_VAR, "model.places=8"],
    "tokenizer-bitwise": TINY_BITWISE,
    "var": TINY_VAR,
    "hmar": TINY_VAR,
    "m-var": TINY_M_VAR,
    "infinity": TINY_INFINITY,
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


SCHEDULES = [[1, 2, 4], [1, [3, 2], [6, 4]]]
"""Of squares and of upright pictures."""


def write_world(folder: Path) -> Path:
    """What a text model is trained on: ``pictures`` of two aspect ratios with captions, some of them long; a
    ``tokenizer`` of 6 bits with random weights; a text ``encoder``.
    """
    rng, lines = np.random.default_rng(1), []
    for split, count in (("train", 20), ("val", 6)):
        for i in range(count):
            colour, thing = ("red", "blue")[i % 2], ("fox", "sky", "snow")[i % 3]
            pixels = rng.integers(0, 90, (26 if i % 4 == 3 else 17, 17, 3), dtype=np.uint8)
            pixels[..., 0 if i % 2 else 2] += 150
            path = folder / "pictures" / split / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            line = {"file_name": f"{split}/{i:02d}.png", "text": f"a {colour} {thing}"}
            lines.append(line if i % 3 else {**line, "long_caption": f"A {colour} {thing}. It sits in the snow. Fox."})
    table = folder / "pictures" / "metadata.jsonl"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    torch.manual_seed(7)
    sizes = {"ch": 8, "mult": (1, 1, 2), "z": 6, "res_blocks": 1, "groups": 4}
    config = AutoencoderConfig(**sizes, attention=False, mid_attention=False)  # type: ignore[arg-type]
    bits = BitwiseConfig(bits=6, sizes=((1, 1), (2, 2), (4, 4)), autoencoder=config)
    save_checkpoint(folder / "tokenizer", {"tokenizer": BitwiseTokenizer(bits)})
    (folder / "encoder").mkdir()
    save_t5(folder / "encoder")
    return folder


def of_world(world: Path) -> list[str]:
    """Entries of a recipe that name its text encoder."""
    return [f"text={{encoder: {world / 'encoder'}, width: {WIDTH}, length: 16}}"]


def classes_of(goal: GeneratorObjective) -> ClassVocabulary:
    """The classes of a generator's objective."""
    assert isinstance(goal.conditioner, ClassVocabulary)
    return goal.conditioner


def labels_of(goal: GeneratorObjective) -> Tensor:
    """The labels (N,) of its training images."""
    assert isinstance(goal.data, TokenData)
    return goal.data.features.sources["class"].tensors["ids"]
