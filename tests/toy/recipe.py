"""What a recipe for a toy may say. The words of an image are those of its class's name."""

from __future__ import annotations

from typing import Literal

import torch

from nextscale.conditions.base import Conditioner, Entry
from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.images import ImageData
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.generator_recipe import GeneratorRecipe
from nextscale.training.objectives.lesson import Lesson
from nextscale.training.sections import Section
from tests.toy.conditioner import Words
from tests.toy.lesson import squared_error
from tests.toy.model import Toy, ToyConfig


class ToySection(Section):
    """Sizes of the toy."""

    width: int = 16
    layers: int = 2


class ToyRecipe(GeneratorRecipe):
    """How to train a toy."""

    kind: Literal["toy"]
    model: ToySection = ToySection()

    def new_conditioner(self, vocabulary: ClassVocabulary) -> Conditioner:
        return Words([*dict.fromkeys(word for name in vocabulary.names for word in name.split("-")), "very"])

    def entries(self, data: ImageData, vocabulary: ClassVocabulary) -> list[Entry]:
        return [{"prompt": vocabulary.names[label].replace("-", " ")} for label in data.labels.tolist()]

    def new_model(self, tokenizer: Tokenizer, given: int) -> Toy:
        own, sides = self.model, tuple(h for h, _ in tokenizer.schedule)
        config = ToyConfig(width=own.width, layers=own.layers, words=given, bits=tokenizer.draws, sides=sides)
        model = Toy(config)
        torch.nn.init.normal_(model.null)
        return model

    def new_lesson(self, tokenizer: Tokenizer) -> Lesson:
        return squared_error
