"""What the trainer asks of anything it trains. Shape letter: ``B`` batch."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from nextscale.training.order import SampleNoise

Metrics = dict[str, float]


class Objective(Protocol):
    """Everything the trainer asks. Modules are passed in, because the average of the weights is validated, too."""

    images: int
    """How many images an epoch of training draws."""
    ignorance: Metrics
    """What a network that has learnt nothing has of some numbers of the loss, such as ln V of a cross-entropy over V
    codes. A run that stays at twice that has diverged (see ``DivergenceWatch``)."""
    trials: list[tuple[int, float]]
    """Steps by which a run is priced, each with the share of all steps that cost as much: a loss may begin later, and
    images may be of several sizes."""
    warnings: list[str]
    """Sentences for whoever trains, since they were last cleared; the trainer shows and clears them."""

    @property
    def module(self) -> nn.Module:
        """What is trained."""

    def begin(self, generator: torch.Generator) -> None:
        """Called once, before step 0 of a fresh run (not when resuming)."""

    def loss(self, model: nn.Module, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss () of the training images ``rows`` (B,) and further means to log, each ().

        ``model`` is :attr:`module` as it is to be called (it may be compiled). A step calls this once per part of its
        batch: in every process, and as often as gradients are accumulated. All parts have the same size. What must be
        random comes from ``noise``, which has one row per image of ``rows``.
        """

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        """Called after every update, in every process; may mend the weights, in the same way in all of them."""

    def validate(self, module: nn.Module) -> Metrics:
        """Numbers on the held-out images."""

    def merit(self, held_out: Metrics) -> float:
        """How good a validation is, higher is better: with ``run.export = best`` the best one is exported."""

    def sample(self, module: nn.Module) -> Image.Image | None:
        """A picture that shows what ``module`` can do, at fixed seeds; None if it cannot be drawn yet."""

    def state(self) -> dict[str, Tensor]:
        """Tensors beside the weights that a resumed run needs."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave, and forget a step that was begun (``loss``) but not ended (``after_step``)."""

    def export(self, module: nn.Module, folder: Path, card: str) -> None:
        """Write ``module`` so that the library can load it, with ``card`` as its README.md."""
