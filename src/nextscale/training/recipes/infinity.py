"""What a recipe for an Infinity may say."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from nextscale.conditions.base import Conditioner, Entry
from nextscale.conditions.classes import ClassVocabulary
from nextscale.conditions.encoder import EncoderReference
from nextscale.conditions.text import TextConditioner
from nextscale.data.captions import require_captions, short, wordings
from nextscale.data.emoji_captions import styles_said
from nextscale.data.images import ImageData
from nextscale.errors import InputError
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.ratios import PUBLISHED
from nextscale.scales import ScaleSchedule, Size
from nextscale.tokenizers.base import Tokenizer
from nextscale.tokenizers.bitwise import BitwiseTokenizer
from nextscale.training.generator_recipe import (
    GeneratorDataSection,
    GeneratorLoss,
    GeneratorRecipe,
    GeneratorRunSection,
    SamplingSection,
)
from nextscale.training.objectives.corrected import CorrectedData, CorrectionSection
from nextscale.training.objectives.data import Material
from nextscale.training.sections import Section, Share
from nextscale.training.texts import encoded_before, noted

Side = int | tuple[int, int]
Count = Annotated[int, Field(ge=1)]


class InfinityDataSection(GeneratorDataSection):
    """schedules: for every aspect ratio the scales of its finest images, in tokens, or ``published``; left out, images
    are squares of ``resolution`` on the tokenizer's own scales. lengths: numbers of leading scales that are trained, of
    which a step draws one (left out: all scales). texts: whether all captions are encoded before training and kept on
    the disk, or at every step anew.
    """

    resolution: int | None = Field(default=None, ge=8, le=16_384)  # type: ignore[assignment]
    schedules: Literal["published"] | tuple[tuple[Side, ...], ...] | None = None
    lengths: tuple[Count, ...] | None = Field(default=None, min_length=1)
    texts: Literal["before", "anew"] = "before"

    @field_validator("schedules")
    @classmethod
    def _possible(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            if not value:
                raise ValueError("expected one or more")
            return tuple(ScaleSchedule.of(sizes).sizes for sizes in value)
        return value

    @model_validator(mode="after")
    def _one_of_two(self) -> InfinityDataSection:
        if (self.resolution is None) == (self.schedules is None):
            raise ValueError("give either resolution or schedules, not both or neither")
        return self


class InfinitySection(Section):
    """Sizes of the transformer; bits, scales and the width of texts come from tokenizer, data and text encoder.

    hidden: width of the feed-forward, by default 4 times the width, rounded to a multiple of 256 (not rounded where
    that is 0); text_heads: heads of the query that sums a text up, by default one for 128 channels of a text;
    text_mixer, chunks: see ``InfinityConfig``; mixer, state, head_dim: the layer between scales, ``mamba2`` with
    M-VAR's blocks, none with Infinity's, and its states and channels per head; gamma, shift, head: factors on the
    initial weights of the AdaLN gates, of the rest of the modulation, and of the head.
    """

    depth: int = Field(ge=1, le=1024)
    width: int = Field(ge=1, le=2**20)
    heads: int = Field(ge=1, le=2**20)
    hidden: int | None = Field(default=None, ge=1, le=2**20)
    text_heads: int | None = Field(default=None, ge=1, le=65_536)
    text_mixer: int = Field(default=0, ge=0, le=1024)
    chunks: int = Field(default=1, ge=1, le=1024)
    levels: int = Field(default=15, ge=1, le=1024)
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    mixer: Literal["mamba2"] | None = None
    state: int = Field(default=64, ge=1, le=65_536)
    head_dim: int = Field(default=64, ge=1, le=65_536)
    gamma: float = Field(default=5e-6, ge=0)
    shift: float = Field(default=1e-3, ge=0)
    head: float = Field(default=0.02, ge=0)


class InfinityLoss(GeneratorLoss):
    """As for all generators, with the authors' weights of scales."""

    scale_weights: Literal["balanced", "lognorm", "equal"] | tuple[Annotated[float, Field(ge=0)], ...] | None = (
        "balanced"
    )


class InfinitySampling(SamplingSection):
    """As for all generators, with the authors' settings."""

    guidance_scale: float = Field(default=4.0, ge=0, le=1e6)
    top_p: Share = 0.97


class InfinityRecipe(GeneratorRecipe):
    """How to train an Infinity. text: the frozen encoder of its texts, by reference."""

    kind: Literal["infinity"]
    data: InfinityDataSection
    model: InfinitySection
    text: EncoderReference = EncoderReference()
    correction: CorrectionSection = CorrectionSection()
    loss: InfinityLoss = InfinityLoss()
    sampling: InfinitySampling = InfinitySampling()
    run: GeneratorRunSection
    captions = True

    def fitted(self, tokenizer: Tokenizer) -> Tokenizer:
        if not isinstance(tokenizer, BitwiseTokenizer):
            raise InputError(f"the tokenizer is a {type(tokenizer).__name__}; expected one of bits, a BitwiseTokenizer")
        trained = self.trained(tokenizer)
        default = min(trained, key=lambda one: abs(math.log(one.grid[0] / one.grid[1])))  # the one nearest to a square
        made = copy.copy(tokenizer)
        made.schedule, made.config = default, replace(tokenizer.config, sizes=default.sizes)
        return made

    def schedules(self, tokenizer: Tokenizer) -> tuple[ScaleSchedule, ...]:
        """For every aspect ratio the schedule on whose last grid rotary positions are counted."""
        given = self.data.schedules
        if given is None:
            return (tokenizer.schedule,)
        return PUBLISHED if given == "published" else tuple(ScaleSchedule.of(sizes) for sizes in given)

    def lengths(self, tokenizer: Tokenizer) -> tuple[int, ...]:
        """Numbers of leading scales that are trained. Raises ``InputError`` for more than there are."""
        shortest = min(map(len, self.schedules(tokenizer)))
        lengths = self.data.lengths or (shortest,)
        if max(lengths) > shortest:
            raise InputError(
                f"data.lengths has {max(lengths)}; expected 1 to {shortest}, the scales of the shortest schedule"
            )
        return lengths

    def trained(self, tokenizer: Tokenizer) -> list[ScaleSchedule]:
        """For every aspect ratio the finest scales that are trained."""
        return [one.prefix(max(self.lengths(tokenizer))) for one in self.schedules(tokenizer)]

    def shapes(self, tokenizer: Tokenizer) -> list[Size] | None:
        trained = self.trained(tokenizer)
        return None if self.data.schedules is None else [tokenizer.pixels(schedule) for schedule in trained]

    def new_conditioner(self, vocabulary: ClassVocabulary) -> TextConditioner:
        return TextConditioner(self.text)

    def check_known(self, conditioner: Conditioner) -> None:
        known = conditioner.reference if isinstance(conditioner, TextConditioner) else None
        if known is None or not known.agrees(self.text):
            raise InputError(
                f"the model to start from reads {conditioner.about if known is None else known}; expected "
                f"{self.text}, which the recipe says under text"
            )

    def entries(self, data: ImageData, vocabulary: ClassVocabulary) -> list[Entry]:
        captions = require_captions(data.captions, "the set")
        return [{"prompt": short(one), "negative_prompt": None} for one in captions]

    def prepared(self, made_of: Material) -> Material:
        assert isinstance(made_of.conditioner, TextConditioner)
        said = styles_said(require_captions(made_of.train.captions, "the set"), made_of.vocabulary.styles)
        conditioner, anew = noted(made_of.conditioner, said), self.data.texts == "anew"
        number = torch.bfloat16 if self.run.precision == "bf16" else torch.float32
        conditioner.to(made_of.device, number)
        if anew:  # an encoder that cannot be used is refused before images are encoded
            conditioner.features([{"prompt": ""}])
        else:
            shown, taught = (require_captions(one.captions, "the set") for one in (made_of.heldout, made_of.train))
            texts = [*(short(one) for one in shown), *(text for one in taught for text in wordings(one))]
            conditioner = encoded_before(conditioner, texts, made_of.cache, str(number), made_of.progress)
        return replace(made_of, conditioner=conditioner)

    def new_data(self, made_of: Material) -> CorrectedData:
        schedules, lengths = self.schedules(made_of.tokenizer), self.lengths(made_of.tokenizer)
        kept = self.augmentation, self.data.copies, self.loss.label_drop
        return CorrectedData(made_of, schedules, lengths, self.correction, *kept)

    def new_model(self, tokenizer: Tokenizer, given: int) -> Infinity:
        own, several = self.model, self.data.schedules is not None
        config = InfinityConfig(
            depth=own.depth,
            width=own.width,
            heads=own.heads,
            hidden=own.hidden or round(4 * own.width / 256) * 256 or 4 * own.width,
            bits=tokenizer.draws,
            text_width=given,
            text_length=self.text.length,
            text_heads=own.text_heads or max(1, given // 128),
            text_mixer=own.text_mixer,
            levels=own.levels,
            chunks=own.chunks,
            sizes=tokenizer.schedule.sizes,
            schedules=tuple(one.sizes for one in self.schedules(tokenizer)) if several else (),
            lengths=self.data.lengths or (),
            drop_path=own.drop_path,
            mixer=own.mixer,
            state=own.state,
            head_dim=own.head_dim,
        )
        model = Infinity(config)
        model.init_weights(own.gamma, own.shift, own.head)
        return model

    def states(self, tokenizer: Tokenizer) -> int:
        """Those of the inputs of its blocks, on the finest scales."""
        return 2 * self.model.depth * tokenizer.schedule.tokens * self.model.width
