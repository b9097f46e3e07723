"""What each of two processes does in ``test_parallel.py``; started by torch.distributed.run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from nextscale.errors import TrainingError
from nextscale.training import parallel
from nextscale.training.start import start
from tests.training.tiny import SCHEDULES, TINY_BITWISE, TINY_INFINITY, TINY_TOKENIZER, TINY_VAR, of_world

LOSSES = 20
RUN = [f"schedule.steps={LOSSES}", "run.save_every=12", "run.validate_every=10", "optim.ema=0.9", "optim.lr=0.005"]
TOKENIZER = [*TINY_TOKENIZER, *RUN, "codebook.restart_every=4", "codebook.restart_below=0.9", "data.shift=3"]
TOKENIZER += ["data.flip=0.5", "data.recolour=0.5", "loss.adversarial={weight: 0.5, start: 0.3, width: 8, layers: 1}"]
BITWISE = [*TINY_BITWISE, *RUN, "data.shift=3", "data.flip=0.5", "bits.scale_dropout=0.5", "optim.lr=0.001"]
BITWISE += ["loss.adversarial={weight: 0.3, start: 0.3, width: 8, layers: 1}"]
VAR = [*TINY_VAR, "schedule.epochs=null", *RUN, "model.drop_path=0.3", "data.flip=0.5", "loss.label_drop=0.3"]
INFINITY = [*TINY_INFINITY, *RUN, "model.drop_path=0.3", "optim.eps=1e-4", "data.copies=2", "data.flip=0.5"]
INFINITY += ["data.resolution=null", f"data.schedules={SCHEDULES}", "data.lengths=[2, 3]", "loss.label_drop=0.3"]
RECIPES = {
    "tokenizer": ("tokenizer-emoji", TOKENIZER),
    "tokenizer-bitwise": ("tokenizer-bitwise-emoji", BITWISE),
    "var": ("var-emoji", VAR),
    "infinity": ("infinity-125m", INFINITY),
}


def train(kind: str, images: Path, output: Path, tokenizer: Path, world: Path) -> None:
    """The training whose losses are compared."""
    recipe, overrides = RECIPES[kind]
    frozen = str(tokenizer) if kind == "var" else None
    if kind == "infinity":
        images, frozen, overrides = world / "pictures", str(world / "tokenizer"), [*overrides, *of_world(world)]
    start(kind, recipe, images, output, frozen, overrides, "cpu").run()


def check_exchange() -> None:
    """What the processes tell one another, for two of them."""
    mine = torch.tensor([[1.0, 2.0]]) + 10 * parallel.rank()
    assert parallel.processes() == 2
    assert parallel.sum_over(mine).tolist() == [[12.0, 14.0]]
    assert parallel.mean_over(mine).tolist() == [[6.0, 7.0]]
    assert parallel.gather(mine).tolist() == [[1.0, 2.0], [11.0, 12.0]]
    assert parallel.anywhere(parallel.rank() == 1)
    assert not parallel.anywhere(False)
    assert parallel.my_parts(8, 2) == ([slice(0, 2), slice(2, 4)], [slice(4, 6), slice(6, 8)])[parallel.rank()]
    layer = torch.nn.Linear(2, 1)
    (layer(torch.ones(1, 2)) * (1 + parallel.rank())).sum().backward()
    before = parallel.BUCKET
    for parallel.BUCKET in (1, before):  # one tensor at a time, and all of them at once
        parallel.average_gradients(layer)
        assert layer.weight.grad is not None
        assert layer.weight.grad.tolist() == [[1.5, 1.5]]
    torch.nn.init.constant_(layer.bias, parallel.rank())
    parallel.copy_from_main(layer)
    assert layer.bias.item() == 0
    with pytest.raises(TrainingError, match="9 images cannot be split evenly over 2 processes"):
        parallel.my_parts(9, 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in RECIPES:
        train(kind, Path(sys.argv[1]), Path(sys.argv[2]) / kind, Path(sys.argv[3]), Path(sys.argv[4]))
    check_exchange()
    parallel.finish()
