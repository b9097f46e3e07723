"""What a recipe for a tokenizer may say."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.residual import ResidualConfig
from nextscale.training.sections import DataSection, OptimSection, RunSection, ScheduleSection, Section, Share


class TokenizerDataSection(DataSection):
    """shift: largest displacement of training images in pixels, white coming in behind; recolour: share of them whose
    red, green and blue are exchanged at random.
    """

    shift: int = Field(default=0, ge=0)
    recolour: Share = 0.0


class TokenizerLoss(Section):
    """Weights of squared error, absolute error and VQ loss."""

    l2: float = Field(default=1.0, ge=0)
    l1: float = Field(default=0.2, ge=0)
    vq: float = Field(default=1.0, ge=0)


class CodebookSection(Section):
    """start_images: images the first codebook is drawn from, 0 keeps the random one; restart_below: codes used less
    than this share of even use are moved onto the data, 0 is off; restart_every: in steps; restart_until: share of the
    run after which codes stay where they are.
    """

    start_images: int = Field(default=256, ge=0)
    restart_below: float = Field(default=0.1, ge=0, lt=1)
    restart_every: int = Field(default=50, ge=1)
    restart_until: Share = 0.8


class TokenizerRecipe(Section):
    """How to train a tokenizer."""

    kind: Literal["tokenizer"]
    data: TokenizerDataSection = TokenizerDataSection()
    model: ResidualConfig
    loss: TokenizerLoss = TokenizerLoss()
    codebook: CodebookSection = CodebookSection()
    optim: OptimSection
    schedule: ScheduleSection
    run: RunSection

    @field_validator("model", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("sizes"), list):
            return {**value, "sizes": ScaleSchedule.of(value["sizes"]).sizes}
        return value

    @model_validator(mode="after")
    def _resolution(self) -> TokenizerRecipe:
        grid, stride = self.model.sizes[-1], self.model.autoencoder.stride
        if grid != (self.data.resolution // stride,) * 2 or self.data.resolution % stride:
            wanted = f"{grid[0] * stride}x{grid[1] * stride}"
            raise ValueError(f"the last scale times a stride of {stride} is {wanted}, not data.resolution")
        return self
