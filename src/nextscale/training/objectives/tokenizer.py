"""Training a tokenizer: reconstruction, perceptual and adversarial losses, and what every kind of tokenizer adds.

See ``adversarial.py`` for the judge. A subclass, a file each, adds the loss of its quantiser and looks after it.

Shape letters: ``B`` batch, ``K`` scales, ``h w`` one token map. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nextscale.checkpoints.store import save_checkpoint
from nextscale.data.images import ImageData
from nextscale.measures.tokenizer import psnr
from nextscale.tokenizers.autoencoder import Decoder
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.adversarial import Adversary
from nextscale.training.collapse import CollapseWatch
from nextscale.training.latents import resized
from nextscale.training.objectives.base import Metrics
from nextscale.training.objectives.images import mirror, picture, recolour, shift, to_signed
from nextscale.training.optim import freeze_others
from nextscale.training.order import SampleNoise
from nextscale.training.parallel import processes
from nextscale.training.perceptual import load_perceptual
from nextscale.training.tokenizer_recipe import TokenizerRecipe

SMALLEST = 32
"""Pixels along a side of reconstructions, below which only squared and absolute errors say anything: networks that
judge pictures halve them several times.
"""


class TokenizerObjective(ABC):
    """See the module's docstring.

    steps: done so far; collapsed_after: steps on end that make a collapse; warnings: sentences about a collapse since
    they were last cleared; whoever trains shows and clears them.
    """

    module: Tokenizer

    def __init__(
        self,
        recipe: TokenizerRecipe,
        train: ImageData,
        heldout: ImageData,
        device: torch.device,
        collapsed_after: int,
    ) -> None:
        self.recipe, self.train, self.heldout, self.device = recipe, train, heldout, device
        self.images, losses, judge = len(train), recipe.loss, recipe.loss.adversarial
        total = recipe.schedule.total(self.images, recipe.run.batch)
        self.module = recipe.new_tokenizer().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if recipe.decoder_only:
            freeze_others(self.module, recipe.decoder)
        looks = losses.perceptual.weight or (judge.weight and judge.network == "features")
        self.perceptual = load_perceptual(losses.perceptual, recipe.data.resolution, device) if looks else None
        layers = self.perceptual.layers if self.perceptual else None
        self.adversary = Adversary(judge, recipe.optim, total, device, layers) if judge.weight else None
        self.watch = CollapseWatch(len(self.module.schedule), collapsed_after)
        self.steps = 0
        self.perceptual_from = losses.perceptual.start * total
        self.ignorance = {"l2": 1.0}  # of pictures in [-1, 1], if all is drawn in the middle grey
        starts = [self.perceptual_from] if self.perceptual and losses.perceptual.weight else []
        starts += [self.adversary.first] if self.adversary else []
        stages = [*sorted({0, *(math.ceil(start) for start in starts if start < total)}), total]
        self.trials = [(first, (end - first) / total) for first, end in pairwise(stages)]
        self.warnings: list[str] = []

    @abstractmethod
    def quantized(
        self, model: nn.Module, images: Tensor, noise: SampleNoise
    ) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        """Reconstructions, smaller ones (B, 3, h, w) and at last (B, 3, H, W), weighted loss () of the quantiser, and
        numbers () to log.
        """

    @abstractmethod
    def use(self) -> tuple[dict[str, Tensor], Tensor]:
        """How the quantiser was used of late, in numbers (1 + K,), over all scales, then at each; whether that is
        bad (1 + K,) bool.
        """

    @abstractmethod
    def warning(self, row: int, use: Mapping[str, Tensor]) -> str:
        """A sentence on the collapse of the whole quantiser, row 0, or of the scale ``row`` - 1."""

    @abstractmethod
    def tend(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        """Called after every step; may mend the quantiser."""

    @abstractmethod
    def use_of(self, maps: Sequence[Tensor]) -> Metrics:
        """Numbers on held-out tokens (B, h, w, ...), over all scales and at each."""

    @abstractmethod
    def begin(self, generator: torch.Generator) -> None:
        """Prepares the quantiser of a fresh run."""

    def loss(self, model: nn.Module, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, dict[str, Tensor]]:
        data = self.recipe.data
        images = to_signed(self.train.read(rows, noise.uniform(2)), self.device)
        images = mirror(images, data.flip, noise)
        images = recolour(shift(images, data.shift, noise), data.recolour, noise)
        reconstructions, own_loss, own_parts = self.quantized(model, images, noise)
        share = len(rows) * processes() / noise.batch
        judged = [self._judged(one.float(), images, noise.step, share) for one in reconstructions]
        loss = torch.stack([one for one, _ in judged]).sum()
        return loss + own_loss, judged[-1][1] | own_parts

    def _judged(
        self, reconstruction: Tensor, images: Tensor, step: int, share: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What a reconstruction (B, 3, h, w) loses against the images in its size, (), and numbers () to log. What is
        judged by networks are those of ``SMALLEST`` pixels and more, and those of the recipe's resolution.
        """
        weights, (h, w) = self.recipe.loss, reconstruction.shape[-2:]
        images = resized(images, (h, w))
        l2, l1 = F.mse_loss(reconstruction, images), F.l1_loss(reconstruction, images)
        parts = {"l2": l2.detach(), "l1": l1.detach()}
        loss = weights.l2 * l2 + weights.l1 * l1
        if min(h, w) < SMALLEST and h != self.recipe.data.resolution:
            return loss, parts
        if self.perceptual and weights.perceptual.weight and step >= self.perceptual_from:
            distance = self.perceptual.distance(reconstruction, images).mean()
            parts["perceptual"] = distance.detach()
            loss = loss + weights.perceptual.weight * distance
        if self.adversary and self.adversary.weight(step):
            assert isinstance(self.module.decoder, Decoder)
            last = self.module.decoder.conv_out.weight
            adversarial, more = self.adversary.loss(images, reconstruction, loss, last, step, share)
            parts, loss = parts | more, loss + adversarial
        return loss, parts

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        if self.adversary and self.adversary.weight(self.steps):
            self.adversary.update(optimizer.param_groups[0]["lr"])
        self.steps += 1
        return self.tend(optimizer, average, generator)

    def health(self) -> Metrics:
        """How the quantiser was used of late, where a step is logged; warns of a collapse."""
        if self.steps % self.recipe.run.log_every:
            return Metrics()
        use, bad = self.use()
        self.warnings += [self.warning(row, use) for row in self.watch.note(bad, self.recipe.run.log_every)]
        return by_scale(use) | {"collapsed": float(self.watch.warned.sum())}

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Metrics:
        decibels, distances, maps = [], [], []
        for part in torch.arange(len(self.heldout)).split(64):
            images = to_signed(self.heldout.read(part), self.device)
            reconstruction, _, tokens = module(images)
            reconstruction = reconstruction.float().clamp(-1, 1)
            decibels.append(psnr((reconstruction + 1) / 2, (images + 1) / 2))
            if self.perceptual:
                distances.append(self.perceptual.distance(reconstruction, images))
            maps.append(tokens)
        metrics = {"psnr": float(torch.cat(decibels).mean())}
        if distances:
            metrics["perceptual"] = float(torch.cat(distances).mean())
        return metrics | self.use_of([torch.cat(scale) for scale in zip(*maps, strict=True)])

    def merit(self, held_out: Metrics) -> float:
        return held_out["psnr"]

    @torch.no_grad()
    def sample(self, module: nn.Module) -> Image.Image:
        """Originals above their reconstructions, two rows of pairs."""
        count = min(24, len(self.heldout))
        images = to_signed(self.heldout.read(torch.linspace(0, len(self.heldout) - 1, count).long()), self.device)
        pairs = zip(images.split(12), module(images)[0].float().split(12), strict=True)
        return picture([row for pair in pairs for row in pair])

    def state(self) -> dict[str, Tensor]:
        own = {"low": self.watch.low, "warned": self.watch.warned, "steps": torch.tensor(self.steps)}
        return own | (self.adversary.state() if self.adversary else {})

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.steps = int(state["steps"])
        self.watch.low, self.watch.warned = state["low"], state["warned"]
        self.warnings.clear()
        if self.adversary:
            self.adversary.load_state(state)

    def export(self, module: nn.Module, folder: Path, card: str) -> None:
        save_checkpoint(folder, {"tokenizer": module}, files={"README.md": card.encode()}, overwrite=True)


def by_scale(columns: Mapping[str, Tensor]) -> Metrics:
    """Numbers (1 + K,) by name: ``name`` over all scales, ``name_k`` at each."""
    return {
        name if row == 0 else f"{name}_{row - 1}": number
        for name, column in columns.items()
        for row, number in enumerate(column.tolist())
    }
