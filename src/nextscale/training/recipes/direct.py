"""What a recipe for a direct tokenizer may say."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator

from nextscale.data.images import ImageData
from nextscale.tokenizers.direct import DirectConfig, DirectTokenizer
from nextscale.training.codebook import CodebookSection
from nextscale.training.objectives.direct import DirectObjective
from nextscale.training.objectives.tokenizer import SMALLEST
from nextscale.training.tokenizer_recipe import TokenizerLoss, TokenizerRecipe


class DirectLoss(TokenizerLoss):
    """vq: weight of the VQ loss; maps: how many maps of the images a step decodes, whose losses are added: that of the
    latent's size, and smaller ones that it draws (fewer where there are not so many sides).
    """

    vq: float = Field(default=1.0, ge=0)
    maps: int = Field(default=5, ge=1, le=1024)


class DirectTokenizerRecipe(TokenizerRecipe):
    """How to train a direct tokenizer."""

    kind: Literal["tokenizer-direct"]
    model: DirectConfig
    loss: DirectLoss = DirectLoss()
    codebook: CodebookSection = CodebookSection()
    decoder: ClassVar[tuple[str, ...]] = ("post_quant_conv.*", "decoder.*")

    @model_validator(mode="after")
    def _judged(self) -> DirectTokenizerRecipe:
        judge = self.loss.adversarial
        if (
            judge.weight
            and judge.network == "patch"
            and 3 * 2**judge.layers > SMALLEST
            and self.data.resolution > SMALLEST
        ):
            raise ValueError(
                f"a patch discriminator judges maps from {SMALLEST} pixels on, for which {judge.layers} layers are too "
                "many; lower loss.adversarial.layers to 3"
            )
        return self

    def new_tokenizer(self) -> DirectTokenizer:
        return DirectTokenizer(self.model)

    def new_objective(self, train: ImageData, heldout: ImageData, device: torch.device) -> DirectObjective:
        return DirectObjective(self, train, heldout, device, self.codebook, self.loss.vq, maps=self.loss.maps)
