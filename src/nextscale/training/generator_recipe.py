"""What a recipe for a class-conditional generator, VAR or M-VAR, may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nextscale.training.sections import DataSection, OptimSection, RunSection, ScheduleSection, Section, Share


class GeneratorDataSection(DataSection):
    """unmirrored: names of classes whose images are never mirrored, such as letters and arrows; names that the data do
    not have are passed over.
    """

    unmirrored: tuple[str, ...] = ()


class TransformerSection(Section):
    """Sizes of the transformer; classes, codes and scales come from data and tokenizer.

    width and heads default to VAR's rule, 64 * depth and depth; gamma, head: factors on the initial weights of the
    AdaLN gates and of the head.
    """

    depth: int = Field(ge=1)
    width: int | None = Field(default=None, ge=1)
    heads: int | None = Field(default=None, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    drop_path: Share = 0.0
    l2_norm: bool = True
    gamma: float = Field(default=1e-3, ge=0)
    head: float = Field(default=0.02, ge=0)


class VARSection(TransformerSection):
    """shared_adaln: one AdaLN projection for all blocks."""

    shared_adaln: bool = False


class MVARSection(TransformerSection):
    """mixer: what stands between scales; state, head_dim: states and channels per head of Mamba-2; official_init: the
    published code's initialisation, which leaves the gates of the feed-forward large.
    """

    mixer: Literal["mamba2", "attention"] = "mamba2"
    state: int = Field(default=64, ge=1)
    head_dim: int = Field(default=64, ge=1)
    official_init: bool = False


class GeneratorLoss(Section):
    """label_smoothing: of the cross-entropy; label_drop: share of labels replaced by the null class while training."""

    label_smoothing: Share = 0.0
    label_drop: Share = 0.1


class SamplingSection(Section):
    """Sampling settings of the sample pictures, saved with the model as its defaults."""

    guidance_scale: float = Field(default=1.5, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    top_k: int = Field(default=0, ge=0)
    top_p: Share = 0.0


class GeneratorRecipe(Section):
    """How to train a class-conditional generator on the tokens of a frozen tokenizer."""

    data: GeneratorDataSection = GeneratorDataSection()
    loss: GeneratorLoss = GeneratorLoss()
    sampling: SamplingSection = SamplingSection()
    optim: OptimSection
    schedule: ScheduleSection
    run: RunSection


class VARRecipe(GeneratorRecipe):
    """How to train a VAR."""

    kind: Literal["var"]
    model: VARSection


class MVARRecipe(GeneratorRecipe):
    """How to train an M-VAR."""

    kind: Literal["m-var"]
    model: MVARSection
