"""What a recipe for an M-VAR may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.generator_recipe import TransformerSection
from nextscale.training.supernet_recipe import SupernetRecipe


class MVARSection(TransformerSection):
    """mixer: what stands between scales; state, head_dim: states and channels per head of Mamba-2; official_init: the
    published code's initialisation, which leaves the gates of the feed-forward large.
    """

    mixer: Literal["mamba2", "attention"] = "mamba2"
    state: int = Field(default=64, ge=1, le=65_536)
    head_dim: int = Field(default=64, ge=1, le=65_536)
    official_init: bool = False


class MVARRecipe(SupernetRecipe):
    """How to train an M-VAR."""

    kind: Literal["m-var"]
    model: MVARSection

    def new_model(self, tokenizer: Tokenizer, given: int) -> MVAR:
        own, sizes = self.model, self.sizes(tokenizer, given)
        model = MVAR(MVARConfig(**sizes, mixer=own.mixer, state=own.state, head_dim=own.head_dim))
        model.init_weights(own.gamma, own.head, own.official_init)
        return model
