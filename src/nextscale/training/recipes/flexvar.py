"""What a recipe for a FlexVAR may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nextscale.errors import InputError
from nextscale.models.flexvar import FlexVAR, FlexVARConfig
from nextscale.tokenizers.base import Tokenizer
from nextscale.tokenizers.direct import DirectTokenizer
from nextscale.training.generator_recipe import ClassTransformerRecipe, GeneratorLoss, TransformerSection
from nextscale.training.objectives.data import Material
from nextscale.training.objectives.drawn import DrawnData, ScalesSection


class FlexVARSection(TransformerSection):
    """shared_adaln: one AdaLN projection for all blocks; places: side of the picture of positions, by default twice the
    tokenizer's largest map.
    """

    shared_adaln: bool = False
    places: int | None = Field(default=None, ge=1, le=4096)


class FlexVARLoss(GeneratorLoss):
    """As for all generators; the scales of a step differ, so there are no numbers for each of them."""

    scale_weights: Literal["balanced", "lognorm", "equal"] | None = None


class FlexVARRecipe(ClassTransformerRecipe):
    """How to train a FlexVAR. scales: how those of a step are drawn."""

    kind: Literal["flexvar"]
    model: FlexVARSection
    loss: FlexVARLoss = FlexVARLoss()
    scales: ScalesSection = ScalesSection()

    def fitted(self, tokenizer: Tokenizer) -> Tokenizer:
        if not isinstance(tokenizer, DirectTokenizer):
            raise InputError(
                f"the tokenizer is a {type(tokenizer).__name__}; expected one that encodes any scales on their own, a "
                "DirectTokenizer"
            )
        return tokenizer

    def new_data(self, made_of: Material) -> DrawnData:
        shown = self.features(made_of)
        dropped = dict.fromkeys(shown[0].sources, self.loss.label_drop)
        return DrawnData(made_of, *shown, self.scales, self.augmentation, self.data.copies, dropped)

    def new_model(self, tokenizer: Tokenizer, given: int) -> FlexVAR:
        own, largest = self.model, max(tokenizer.schedule.grid)
        sizes = self.sizes(tokenizer, given)
        model = FlexVAR(FlexVARConfig(**sizes, shared_adaln=own.shared_adaln, places=own.places or 2 * largest))
        model.init_weights(own.gamma, own.head)
        return model
