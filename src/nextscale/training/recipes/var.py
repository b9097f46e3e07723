"""What a recipe for a VAR may say."""

from __future__ import annotations

from typing import Literal

from nextscale.models.var import VAR, VARConfig
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.generator_recipe import TransformerSection
from nextscale.training.supernet_recipe import SupernetRecipe


class VARSection(TransformerSection):
    """shared_adaln: one AdaLN projection for all blocks."""

    shared_adaln: bool = False


class VARRecipe(SupernetRecipe):
    """How to train a VAR."""

    kind: Literal["var"]
    model: VARSection

    def new_model(self, tokenizer: Tokenizer, given: int) -> VAR:
        model = VAR(VARConfig(**self.sizes(tokenizer, given), shared_adaln=self.model.shared_adaln))
        model.init_weights(self.model.gamma, self.model.head)
        return model
