"""Training a generator on the tokens of a frozen tokenizer: data, and the lesson of its recipe.

The images and some variants of them are encoded once, before training, or new variants at every step (see ``data.py``).
Shape letter: ``B`` batch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from nextscale.conditions.base import Conditioner, Entry
from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.images import ImageData
from nextscale.errors import InputError
from nextscale.measures.generator import score_batches
from nextscale.models.base import NextScaleModel
from nextscale.pipeline import Pipeline
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.copies import Progress
from nextscale.training.generator_recipe import GeneratorRecipe
from nextscale.training.objectives.base import Metrics
from nextscale.training.objectives.data import Material
from nextscale.training.objectives.images import picture
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.optim import freeze_others
from nextscale.training.order import SampleNoise

SAMPLES, SAMPLES_PER_ROW = 24, 12


class GeneratorObjective:
    """See the module's docstring.

    tokenizer: frozen; it belongs to the exported pipeline. revision: what names its weights. cache: the folder that
    tokens are kept in. progress: called with (images encoded, images to encode) before training. conditioner: that of
    a checkpoint to start from, by default the recipe's.
    """

    def __init__(
        self,
        recipe: GeneratorRecipe,
        train: ImageData,
        heldout: ImageData,
        tokenizer: Tokenizer,
        revision: str,
        vocabulary: ClassVocabulary,
        device: torch.device,
        cache: Path,
        name: str = "unnamed",
        progress: Progress | None = None,
        conditioner: Conditioner | None = None,
    ) -> None:
        self.name, self.recipe = name, recipe
        self.conditioner = conditioner or recipe.new_conditioner(vocabulary)
        self.tokenizer, self.images = tokenizer.to(device), train.epoch
        if recipe.sampling.top_k > tokenizer.choices:
            raise InputError(
                f"sampling.top_k is {recipe.sampling.top_k}, but the tokenizer has {tokenizer.choices} codes; "
                "expected at most as many, 0 for off"
            )
        self.module = recipe.new_model(tokenizer, *self.conditioner.gives.values()).to(device)
        freeze_others(self.module, recipe.trainable)
        self.lesson = recipe.new_lesson(tokenizer)
        self.ignorance = {"loss": math.log(tokenizer.choices)}
        known = isinstance(self.conditioner, ClassVocabulary) and len(train.labels.unique()) == 1
        self.warnings = [_one_class(train)] if known else []
        made_of = Material(train, heldout, vocabulary, self.conditioner, self.tokenizer, revision, cache, progress)
        made_of = recipe.prepared(made_of)
        self.conditioner, self.data = made_of.conditioner, recipe.new_data(made_of)
        seed, steps = recipe.run.seed, recipe.schedule.total(self.images, recipe.run.batch)
        self.trials = self.lesson.trials(seed, steps) if hasattr(self.lesson, "trials") else self.data.trials(seed)
        self.warnings += self.data.warnings
        self._entries = self.conditioner.samples(SAMPLES) or _some(recipe.entries(heldout, vocabulary))

    def begin(self, generator: torch.Generator) -> None:
        """Nothing to prepare."""

    def loss(self, model: nn.Module, rows: Tensor, noise: SampleNoise) -> tuple[Tensor, dict[str, Tensor]]:
        # The model's numbers stand between the data's, as they always have: older runs go on as they began.
        variant, features = self.data.choose(rows, noise)
        pupil = Pupil(model, noise, self.recipe.run.checkpointing)
        return self.lesson(pupil, self.data.encoded(rows, variant, noise), features, noise)

    def after_step(self, optimizer: torch.optim.Optimizer, average: nn.Module, generator: torch.Generator) -> Metrics:
        return {}

    def validate(self, module: nn.Module) -> Metrics:
        """Cross-entropy and accuracy on the held-out images with all they show, per scale and over all tokens; by the
        lesson, where it measures something else.
        """
        assert isinstance(module, NextScaleModel)
        if hasattr(self.lesson, "measure"):
            measured: Metrics = self.lesson.measure(module, self.data.heldout())
            return measured
        scores = score_batches(module, self.data.heldout())
        metrics = {"loss": scores.total.loss, "accuracy": scores.total.accuracy}
        for k, score in enumerate(scores.scales):
            metrics |= {f"loss_{k}": score.loss, f"accuracy_{k}": score.accuracy}
        return metrics

    def merit(self, held_out: Metrics) -> float:
        return -held_out["loss"]

    def sample(self, module: nn.Module) -> Image.Image | None:
        """Up to 24 images of what the conditioner calls samples, or else of what held-out images show; image i has
        seed i.
        """
        if not self._entries:
            return None
        asked: dict[str, Any] = {**self.conditioner.arguments(self._entries), "seed": 0, "output_type": "pt"}
        result = self._pipeline(module)(**asked)
        return picture(list((result.images * 2 - 1).split(SAMPLES_PER_ROW)))

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Nothing beside the weights."""

    def export(self, module: nn.Module, folder: Path, card: str) -> None:
        pipe = self._pipeline(module)
        pipe.card = card
        pipe.save_pretrained(folder, overwrite=True)

    def _pipeline(self, module: nn.Module) -> Pipeline:
        assert isinstance(module, NextScaleModel)
        defaults = self.recipe.sampling.model_dump()
        pipe = Pipeline(self.tokenizer, module, self.conditioner, name=self.name, defaults=defaults)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _some(entries: list[Entry]) -> list[Entry]:
    """At most as many as a sample picture has, evenly spread."""
    return entries[:: max(1, len(entries) // SAMPLES)][:SAMPLES]


def _one_class(train: ImageData) -> str:
    (label,) = train.labels.unique().tolist()
    return (
        f"all {len(train)} training images are of one class, {train.classes[label]!r}: the generator will know no "
        "other; put images into one folder per class if they are of several kinds"
    )
