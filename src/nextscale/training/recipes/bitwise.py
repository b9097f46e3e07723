"""What a recipe for a bitwise tokenizer may say."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from nextscale.data.images import ImageData
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from nextscale.training.bits import BitsSection
from nextscale.training.objectives.bitwise import BitwiseObjective
from nextscale.training.tokenizer_recipe import TokenizerLoss, TokenizerRecipe


class BitwiseLoss(TokenizerLoss):
    """quantizer: weight of what the quantiser loses: commitment and entropy, each with a weight of its own within."""

    l2: float = Field(default=0.0, ge=0)
    l1: float = Field(default=1.0, ge=0)
    quantizer: float = Field(default=4.0, ge=0)
    commitment: float = Field(default=0.25, ge=0)
    entropy: float = Field(default=0.1, ge=0)


class BitwiseTokenizerRecipe(TokenizerRecipe):
    """How to train a bitwise tokenizer."""

    kind: Literal["tokenizer-bitwise"]
    model: BitwiseConfig
    loss: BitwiseLoss = BitwiseLoss()
    bits: BitsSection = BitsSection()

    def new_tokenizer(self) -> BitwiseTokenizer:
        return BitwiseTokenizer(self.model)

    def new_objective(self, train: ImageData, heldout: ImageData, device: torch.device) -> BitwiseObjective:
        weights = self.loss.quantizer * self.loss.commitment, self.loss.quantizer * self.loss.entropy
        return BitwiseObjective(self, train, heldout, device, self.bits, weights)

    @property
    def stride(self) -> int:
        return super().stride * (2 if self.model.patchify else 1)
