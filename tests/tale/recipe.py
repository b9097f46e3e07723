"""What a recipe for a tale may say. An image's text is its class's name."""

from __future__ import annotations

from typing import Literal

import torch

from nextscale.conditions.base import Conditioner, Entry
from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.images import ImageData
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.generator_recipe import GeneratorLoss, GeneratorRecipe
from nextscale.training.objectives.data import Material, TokenData
from nextscale.training.objectives.lesson import Lesson
from nextscale.training.sections import Section
from tests.tale.conditioner import Letters
from tests.tale.data import FreeData
from tests.tale.lessons import masked
from tests.tale.model import Tale, TaleConfig


class TaleSection(Section):
    """Sizes of the tale."""

    width: int = 16


class TaleLoss(GeneratorLoss):
    """masked: whether the second lesson is given."""

    masked: bool = False


class TaleRecipe(GeneratorRecipe):
    """How to train a tale."""

    kind: Literal["tale"]
    model: TaleSection = TaleSection()
    loss: TaleLoss = TaleLoss()

    def new_conditioner(self, vocabulary: ClassVocabulary) -> Conditioner:
        return Letters("abcd")

    def entries(self, data: ImageData, vocabulary: ClassVocabulary) -> list[Entry]:
        return [{"prompt": vocabulary.names[label]} for label in data.labels.tolist()]

    def new_model(self, tokenizer: Tokenizer, given: int) -> Tale:
        sizes, codes, code_dim = tokenizer.schedule.sizes, tokenizer.choices, tokenizer.code_dim
        model = Tale(TaleConfig(width=self.model.width, letters=given, sizes=sizes, codes=codes, code_dim=code_dim))
        for parameter in (model.null, model.first, model.mask):
            torch.nn.init.normal_(parameter)
        return model

    def new_data(self, made_of: Material) -> TokenData:
        kind = TokenData if self.data.copies else FreeData
        dropped = {"text": self.loss.label_drop}
        return kind(made_of, *self.features(made_of), self.augmentation, self.data.copies, dropped)

    def new_lesson(self, tokenizer: Tokenizer) -> Lesson:
        return masked if self.loss.masked else super().new_lesson(tokenizer)
