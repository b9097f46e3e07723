"""What a recipe for an HMAR may say: of its first stage, or of its second, the masked branch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from nextscale.models.hmar import HMAR, HMARConfig
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.generator_recipe import (
    ClassTransformerRecipe,
    GeneratorLoss,
    SamplingSection,
    TransformerSection,
)
from nextscale.training.objectives.lesson import Lesson
from nextscale.training.objectives.masked import MaskedLesson


class HMARSection(TransformerSection):
    """shared_adaln: one AdaLN projection for all blocks; mask_blocks: how many of the last blocks the masked branch has
    of its own, which alone are trained then, with its head, from a first stage; 0: the first stage; leak: whether the
    masked branch sees traces of masked tokens, as published.
    """

    shared_adaln: bool = False
    mask_blocks: int = Field(default=0, ge=0, le=1024)
    leak: bool = False


class HMARLoss(GeneratorLoss):
    """As for all generators, with the authors' weights of scales. The masked branch weighs all tokens the same."""

    scale_weights: Literal["balanced", "lognorm", "equal"] | tuple[Annotated[float, Field(ge=0)], ...] | None = (
        "lognorm"
    )


class HMARSampling(SamplingSection):
    """refine: passes over the scales from 2x2 on, for the second stage, see ``nextscale.methods.refine``."""

    refine: str = "none"


class HMARRecipe(ClassTransformerRecipe):
    """How to train an HMAR."""

    kind: Literal["hmar"]
    model: HMARSection
    loss: HMARLoss = HMARLoss()
    sampling: HMARSampling = HMARSampling()

    @property
    def trainable(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("mask_*",) if self.model.mask_blocks else ("*",)

    @property
    def origin_needed(self) -> str | None:
        return "the first stage, whose last blocks the masked branch begins as" if self.model.mask_blocks else None

    def new_model(self, tokenizer: Tokenizer, given: int) -> HMAR:
        own = self.model
        more: dict[str, Any] = {"shared_adaln": own.shared_adaln, "mask_blocks": own.mask_blocks, "leak": own.leak}
        model = HMAR(HMARConfig(**self.sizes(tokenizer, given), **more))
        model.init_weights(own.gamma, own.head)
        return model

    def new_lesson(self, tokenizer: Tokenizer) -> Lesson:
        if self.model.mask_blocks:
            return MaskedLesson(tokenizer, self.loss.label_smoothing)
        return super().new_lesson(tokenizer)
