"""What a recipe for a residual tokenizer may say."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from nextscale.data.images import ImageData
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from nextscale.training.codebook import CodebookSection
from nextscale.training.objectives.residual import ResidualObjective
from nextscale.training.tokenizer_recipe import TokenizerLoss, TokenizerRecipe


class ResidualLoss(TokenizerLoss):
    """vq: weight of the VQ loss."""

    vq: float = Field(default=1.0, ge=0)


class ResidualTokenizerRecipe(TokenizerRecipe):
    """How to train a residual tokenizer."""

    kind: Literal["tokenizer"]
    model: ResidualConfig
    loss: ResidualLoss = ResidualLoss()
    codebook: CodebookSection = CodebookSection()
    decoder: ClassVar[tuple[str, ...]] = ("post_quant_conv.*", "decoder.*")

    def new_tokenizer(self) -> ResidualTokenizer:
        return ResidualTokenizer(self.model)

    def new_objective(self, train: ImageData, heldout: ImageData, device: torch.device) -> ResidualObjective:
        return ResidualObjective(self, train, heldout, device, self.codebook, self.loss.vq)
