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
from nextscale.scales import Size
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from nextscale.training.objectives.data import TokenData
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
TINY = {
    "tokenizer": TINY_TOKENIZER,
    "tokenizer-bitwise": TINY_BITWISE,
    "var": TINY_VAR,
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


def write_captions(folder: Path) -> Path:
    """A text beside each of the pictures; every third picture has a long one, too, in a table."""
    lines = []
    for i, path in enumerate(sorted(folder.glob("*/*/*.png"))):
        text = f"a {('red', 'blue')[i % 2]} {('fox', 'sky', 'snow')[i % 3]}"
        row = {"file_name": str(path.relative_to(folder)), "text": text}
        lines.append(row if i % 3 else {**row, "long_caption": f"A {text}. It sits in the snow. The sky sits."})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def save_bits(folder: Path, sizes: tuple[Size, ...] = ((1, 1), (2, 2), (4, 4))) -> Path:
    """A tokenizer of 6 bits with random weights, as a checkpoint."""
    torch.manual_seed(7)
    autoencoder = AutoencoderConfig(
        ch=8, mult=(1, 1, 2), z=6, res_blocks=1, groups=4, attention=False, mid_attention=False
    )
    save_checkpoint(folder, {"tokenizer": BitwiseTokenizer(BitwiseConfig(bits=6, sizes=sizes, autoencoder=autoencoder))})
    return folder


def classes_of(goal: GeneratorObjective) -> ClassVocabulary:
    """The classes of a generator's objective."""
    assert isinstance(goal.conditioner, ClassVocabulary)
    return goal.conditioner


def labels_of(goal: GeneratorObjective) -> Tensor:
    """The labels (N,) of its training images."""
    assert isinstance(goal.data, TokenData)
    return goal.data.features.sources["class"].tensors["ids"]
