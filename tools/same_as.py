"""Whether this checkout draws and trains as another commit does, bit for bit, on this machine.

    python tools/same_as.py COMMIT            all of it
    python tools/same_as.py COMMIT draw       drawing alone, or: train

The commit is laid in a temporary worktree; both sides run the same program below, each in a process of its own. What is
drawn: both bundled models, float32 and bfloat16, one and five pictures, with and without guidance, smooth, painted and
streamed. What is trained: ten steps of a small tokenizer, VAR and M-VAR, by their tensors at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("draw", "train")
Tensors = dict[str, torch.Tensor]

TINY = ["run.batch=4", "run.log_every=5", "run.seed=3", "data.resolution=32"]
TINY_TOKENIZER = [
    *TINY,
    "model.codes=32",
    "model.code_dim=8",
    "model.sizes=[1, 2, 4, 8]",
    "model.autoencoder={ch: 8, mult: [1, 1, 2], z: 8, res_blocks: 1, groups: 4}",
    "codebook.start_images=8",
    "schedule.epochs=null",
    "schedule.steps=10",
]
TINY_MODEL = [*TINY, "model.depth=2", "model.width=32", "model.heads=2", "schedule.epochs=null", "schedule.steps=10"]


def main() -> None:
    """Run both sides, compare them, and exit with 1 where anything differs."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("commit")
    asked.add_argument("parts", nargs="*", metavar="draw|train")
    arguments = asked.parse_args()
    parts = arguments.parts or list(PARTS)
    if set(parts) - set(PARTS):
        asked.error(f"there is no part {parts!r}; expected {' or '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="same-as-") as folder, worktree(arguments.commit, Path(folder)) as other:
        sides = [record(source, part, Path(folder)) for part in parts for source in (other / "src", ROOT / "src")]
    different = [line for one, two in zip(sides[::2], sides[1::2], strict=True) for line in compare(one, two)]
    count = sum(len(side) for side in sides[::2])
    print("\n".join([*different, f"{count - len(different)} of {count} tensors are those of {arguments.commit}"]))
    sys.exit(bool(different))


@contextmanager
def worktree(commit: str, folder: Path) -> Iterator[Path]:
    """``commit``, laid in a folder and taken away again."""
    place = folder / "commit"
    subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", place, commit], check=True)
    try:
        yield place
    finally:
        subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", place], check=True)


def record(source: Path, part: str, folder: Path) -> Tensors:
    """All tensors of one part, computed by the code in ``source``."""
    out = folder / "out.safetensors"
    environment = os.environ | {"PYTHONPATH": str(source), "NEXTSCALE_CACHE": str(folder / "cache")}
    asked = [sys.executable, str(Path(__file__).resolve().with_name("same_as.py")), "--record", part, str(out)]
    subprocess.run(asked, env=environment, cwd=folder, check=True)
    return load_file(out)


def compare(theirs: Tensors, ours: Tensors) -> list[str]:
    """A line for every tensor that is not the same to the bit."""
    lines = [f"{name}: only one side has it" for name in sorted(theirs.keys() ^ ours.keys())]
    for name in sorted(theirs.keys() & ours.keys()):
        one, two = theirs[name], ours[name]
        if one.shape != two.shape or one.dtype != two.dtype:
            lines.append(f"{name}: {tuple(one.shape)} {one.dtype} there, {tuple(two.shape)} {two.dtype} here")
        elif not torch.equal(one, two):
            apart = float((one.double() - two.double()).abs().max())
            lines.append(f"{name}: {int((one != two).sum())} of {one.numel()} numbers differ, by {apart:g} at most")
    return lines


def draw() -> Tensors:
    """Images and tokens of both bundled models."""
    import nextscale

    found: Tensors = {}
    for model in ("emoji", "emoji-m-var"):
        for dtype in ("float32", "bfloat16"):
            pipe = nextscale.load(model, device="cpu", dtype=dtype)
            for count in (1, 5):
                labels = list(range(3, 3 + count))
                settings: dict[str, dict[str, Any]] = {
                    "guided": {},
                    "plain": {"guidance_scale": 1.0, "top_p": 0.0},
                    "filtered": {"top_k": 40, "top_p": 0.9, "temperature": 0.8},
                    "smooth": {"smooth": True},
                }
                for name, sampling in settings.items():
                    result = pipe(labels, seed=7, output_type="pt", **sampling)
                    found |= _tensors(f"{model}/{dtype}/{count}/{name}", result.images, result.tokens)
                result = pipe(labels, generator=torch.Generator().manual_seed(5), output_type="pt")
                found |= _tensors(f"{model}/{dtype}/{count}/official", result.images, result.tokens)
                found |= _streamed(pipe, labels, f"{model}/{dtype}/{count}/streamed")
                found |= _painted(pipe, labels, f"{model}/{dtype}/{count}/painted")
    return found


def _tensors(name: str, images: torch.Tensor, tokens: list[torch.Tensor]) -> Tensors:
    return {f"{name}/images": images} | {f"{name}/tokens_{k}": drawn for k, drawn in enumerate(tokens)}


def _streamed(pipe: Any, labels: list[int], name: str) -> Tensors:
    events = list(pipe.stream(labels, seed=7))
    pictures = [np.stack([np.asarray(image) for image in event.images()]) for event in events]
    return {f"{name}/{k}": torch.from_numpy(pixels) for k, pixels in enumerate(pictures)}


def _painted(pipe: Any, labels: list[int], name: str) -> Tensors:
    """The right half of a picture with other classes; what is kept goes through the plan's column *keep*."""
    from nextscale.given import GivenTokens
    from nextscale.methods.paint import edit_mask, keep_masks, paint

    height, width = pipe.resolution
    image = torch.linspace(-1, 1, 3 * height * width).reshape(1, 3, height, width).expand(len(labels), -1, -1, -1)
    schedule = pipe.tokenizer.schedule
    mask = edit_mask(schedule.grid, (0.0, 0.5, 1.0, 1.0))
    with torch.no_grad():
        tokens = pipe.tokenizer.encode(pipe.tokenizer.latent(image.to(pipe.dtype)), schedule).tokens
    given = GivenTokens(tokens, keep_masks(mask, schedule))
    result = pipe(labels, seed=7, output_type="pt", plan=paint(pipe.plan()), parts={"given": given})
    return _tensors(name, result.images, result.tokens)


def train() -> Tensors:
    """What ten steps leave of a small tokenizer, and of a VAR and an M-VAR on its tokens."""
    from nextscale.training.start import start

    pictures = _pictures(Path("pictures"))
    runs = {
        "tokenizer": ("tokenizer-emoji", TINY_TOKENIZER, None),
        "var": ("var-emoji", TINY_MODEL, "run-tokenizer/export"),
        "m-var": ("m-var-emoji", TINY_MODEL, "run-tokenizer/export"),
    }
    found: Tensors = {}
    for kind, (recipe, settings, tokenizer) in runs.items():
        out = Path(f"run-{kind}")
        start(kind, recipe, pictures, out, tokenizer, settings, "cpu").run()
        (last,) = (out / "checkpoints").iterdir()
        for file in sorted(last.glob("*.safetensors")):
            found |= {f"{kind}/{file.stem}/{key}": tensor for key, tensor in load_file(file).items()}
    return found


def _pictures(folder: Path) -> Path:
    """24 training and 8 held-out pictures of two classes, the same on both sides."""
    from PIL import Image

    numbers = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for i in range(count):
            path = folder / split / ("warm" if i % 2 else "cold") / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers.integers(0, 256, (40, 40, 3), dtype=np.uint8)).resize((48, 48)).save(path)
    return folder


def _record(part: str, out: Path) -> None:
    """The program of one side."""
    with tempfile.TemporaryDirectory(prefix="same-as-run-") as folder:
        os.chdir(folder)
        found = {"draw": draw, "train": train}[part]()
        save_file({name: tensor.detach().contiguous() for name, tensor in found.items()}, out)
        os.chdir("/")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--record"]:
        _record(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
