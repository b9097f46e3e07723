"""Training a feature network: to name the class and the style of a picture.

Loss: cross-entropy of the class (smoothed labels), plus that of the style where the data have styles.
Shape letters: ``B`` batch, ``N`` images of the held-out set, ``Nc`` classes. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from nextscale.checkpoints.store import save_checkpoint
from nextscale.data.images import ImageData
from nextscale.features.classifier import Classifier, ClassifierConfig, Prediction
from nextscale.features.perceptual import Perceptual, PerceptualConfig
from nextscale.measures.recognition import wide_classes
from nextscale.training.classifier_recipe import ClassifierRecipe
from nextscale.training.objectives.base import Metrics
from nextscale.training.objectives.images import picture, recolour, shift, to_signed
from nextscale.training.order import SampleNoise

SAMPLES, SAMPLES_PER_ROW = 24, 12


class ClassifierObjective:
    """See the module's docstring. ``families``: the family of every held-out image, the things that look alike."""

    def __init__(
        self,
        recipe: ClassifierRecipe,
        train: ImageData,
        heldout: ImageData,
        families: Sequence[str],
        device: torch.device,
    ) -> None:
        self.recipe, self.train, self.heldout, self.device = recipe, train, heldout, device
        self.images = len(train)
        self.trials = [(0, 1.0)]
        self.warnings: list[str] = []
        guessing = math.log(len(train.classes)) + recipe.loss.style * math.log(max(1, len(train.styles)))
        self.ignorance = {"loss": guessing}
        self.module = new_network(recipe, train).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.labels, self.styles = train.labels.to(device), train.style_labels.to(device)
        mirrors = [recipe.data.flip * (name not in recipe.data.unmirrored) for name in train.classes]
        self.flip = torch.tensor(mirrors, device=device)
        self.wide = torch.isin(heldout.labels, wide_classes(heldout.labels, families)).to(device)

    def begin(self, generator: torch.Generator) -> None:
        """Nothing to prepare."""

    def loss(self, model: nn.Module, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, dict[str, Tensor]]:
        data, smoothing = self.recipe.data, self.recipe.loss.label_smoothing
        images, rows = to_signed(self.train.read(rows, noise.uniform(2)), self.device), rows.to(self.device)
        labels, styles = self.labels[rows], self.styles[rows]
        turned = noise.uniform().to(self.device) < self.flip[labels]
        images = torch.where(turned[:, None, None, None], images.flip(-1), images)
        images = recolour(shift(images, data.shift, noise), data.recolour, noise)
        said: Prediction = model(cut_out(images, data.cut_out, noise))
        loss = F.cross_entropy(said.classes.float(), labels, label_smoothing=smoothing)
        numbers = {"accuracy": hits(said.classes, labels).mean()}
        if self.train.styles:
            style_loss = F.cross_entropy(said.styles.float(), styles)
            loss = loss + self.recipe.loss.style * style_loss
            numbers |= {"style_loss": style_loss.detach(), "style_accuracy": hits(said.styles, styles).mean()}
        return loss, numbers

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        return {}

    def validate(self, module: nn.Module) -> Metrics:
        """Cross-entropy, accuracy and top-5 accuracy of the class, over all held-out images and over those of wide
        classes; accuracy of the style.
        """
        said, labels = self._heldout(module), self.heldout.labels.to(self.device)
        first, five = hits(said.classes, labels), hits(said.classes, labels, 5)
        metrics = {"loss": F.cross_entropy(said.classes, labels), "accuracy": first.mean(), "top5": five.mean()}
        if self.wide.any():
            metrics |= {"accuracy_wide": first[self.wide].mean(), "top5_wide": five[self.wide].mean()}
        if self.heldout.styles:
            metrics["style_accuracy"] = hits(said.styles, self.heldout.style_labels.to(self.device)).mean()
        return {name: float(value) for name, value in metrics.items()}

    def merit(self, held_out: Metrics) -> float:
        return held_out["accuracy"]

    def sample(self, module: nn.Module) -> Image.Image:
        """The held-out images whose class the network finds least likely, the worst first."""
        said, labels = self._heldout(module), self.heldout.labels.to(self.device)
        worst = F.cross_entropy(said.classes, labels, reduction="none").argsort(descending=True)[:SAMPLES].cpu()
        return picture(list(to_signed(self.heldout.read(worst), self.device).split(SAMPLES_PER_ROW)))

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing beside the weights."""

    def export(self, module: nn.Module, folder: Path, card: str) -> None:
        save_checkpoint(folder, {self.recipe.model.network: module}, files={"README.md": card.encode()}, overwrite=True)

    @torch.no_grad()
    def _heldout(self, module: nn.Module) -> Prediction:
        """What ``module`` says of all held-out images, float32."""
        parts = torch.arange(len(self.heldout)).split(256)
        said = [module(to_signed(self.heldout.read(part), self.device)) for part in parts]
        classes, styles = (torch.cat(logits).float() for logits in zip(*said, strict=True))
        return Prediction(classes, styles)


def new_network(recipe: ClassifierRecipe, data: ImageData) -> Classifier | Perceptual:
    """An initialised network of the recipe's sizes for the classes and styles of ``data``."""
    names, styles, widths = tuple(data.classes), tuple(data.styles), recipe.model.widths
    if recipe.model.network == "classifier":
        return Classifier(ClassifierConfig(names, styles, widths))
    return Perceptual(PerceptualConfig(names, styles, widths))


def cut_out(images: Tensor, share: float, noise: SampleNoise) -> Tensor:
    """Paint a square grey in every image; its side is ``share`` of the image's, its centre anywhere.

    Source: arXiv 1708.04552.
    """
    if not share:
        return images
    height, width = images.shape[2:]
    centre = noise.uniform(2, 1).to(images.device)
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    inside_rows = (rows + 0.5 - centre[:, 0] * height).abs() < share * height / 2
    inside_columns = (columns + 0.5 - centre[:, 1] * width).abs() < share * width / 2
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


def hits(logits: Tensor, labels: Tensor, best: int = 1) -> Tensor:
    """1.0 where the label is among the ``best`` most likely ones, 0.0 elsewhere, (B,)."""
    chosen = logits.detach().topk(min(best, logits.shape[1])).indices
    return (chosen == labels[:, None]).any(1).float()
