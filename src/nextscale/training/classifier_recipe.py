"""What a recipe for a feature network, the classifier or the perceptual features, may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nextscale.features.classifier import ClassifierConfig
from nextscale.features.perceptual import PerceptualConfig
from nextscale.training.sections import DataSection, OptimSection, RunSection, ScheduleSection, Section, Share


class ClassifierDataSection(DataSection):
    """unmirrored: names of classes whose images are never mirrored; shift: largest displacement of training images in
    pixels, white coming in behind; recolour: share of them whose red, green and blue are exchanged at random; cut_out:
    side of a square that is painted grey somewhere in each, as a share of the side of the image, 0 is off.
    """

    unmirrored: tuple[str, ...] = ()
    shift: int = Field(default=0, ge=0, le=16_384)
    recolour: Share = 0.0
    cut_out: Share = 0.0


class NetworkSection(Section):
    """network: which of the two; widths: channels of its stages."""

    network: Literal["classifier", "perceptual"]
    widths: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _possible(self) -> NetworkSection:
        config = ClassifierConfig if self.network == "classifier" else PerceptualConfig
        config(names=(), widths=self.widths)
        return self


class ClassifierLoss(Section):
    """label_smoothing: of the cross-entropy of the class; style: weight of that of the style."""

    label_smoothing: Share = 0.1
    style: float = Field(default=0.5, ge=0)


class ClassifierRecipe(Section):
    """How to train a feature network on classes and styles."""

    kind: Literal["classifier"]
    data: ClassifierDataSection = ClassifierDataSection()
    model: NetworkSection
    loss: ClassifierLoss = ClassifierLoss()
    optim: OptimSection
    schedule: ScheduleSection
    run: RunSection
