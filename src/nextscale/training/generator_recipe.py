"""What a recipe for a generator may say; what each system adds stands in ``recipes/``."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from nextscale.conditions.base import Conditioner, Entry, Features
from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.images import ImageData
from nextscale.models.base import NextScaleModel
from nextscale.scales import Size
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.objectives.data import Data, Material, TokenData
from nextscale.training.objectives.lesson import Lesson
from nextscale.training.objectives.teacher_forcing import Weights, check_weights, teacher_forcing
from nextscale.training.sections import DataSection, OptimSection, RunSection, ScheduleSection, Section, Share
from nextscale.training.tokens import Augmentation


class GeneratorDataSection(DataSection):
    """copies: how many versions of every training image are encoded beforehand; the first is the image as it is, the
    others vary. With 0 every step encodes new ones, which costs time and no disk.

    How they vary: flip: share of mirrored ones; unmirrored: names of classes that never are, such as letters and
    arrows (names that the data do not have are passed over); shift: largest displacement in pixels, white coming in
    behind; recolour: share whose red, green and blue are exchanged at random. Pictures that are larger than the
    resolution are cropped at random places.
    """

    copies: int = Field(default=1, ge=0, le=10_000)
    unmirrored: tuple[str, ...] = ()
    shift: int = Field(default=0, ge=0, le=16_384)
    recolour: Share = 0.0

    @model_validator(mode="after")
    def _heard(self) -> GeneratorDataSection:
        if self.copies == 1 and (self.flip or self.shift or self.recolour):
            raise ValueError("flip, shift and recolour change copies beside the first: give copies = 2 or more, or 0")
        return self


class TransformerSection(Section):
    """Sizes of the transformer; classes, codes and scales come from data and tokenizer.

    width and heads default to VAR's rule, 64 * depth and depth; gamma, head: factors on the initial weights of the
    AdaLN gates and of the head.
    """

    depth: int = Field(ge=1, le=1024)
    width: int | None = Field(default=None, ge=1, le=2**20)
    heads: int | None = Field(default=None, ge=1, le=2**20)
    mlp_ratio: float = Field(default=4.0, gt=0, le=1024)
    drop_path: Share = 0.0
    l2_norm: bool = True
    gamma: float = Field(default=1e-3, ge=0)
    head: float = Field(default=0.02, ge=0)


class GeneratorLoss(Section):
    """label_smoothing: of the cross-entropy; label_drop: share of labels, or of texts, replaced by the model's own null
    while training; scale_weights: how much a token of each scale counts, all the same where it is left out; balanced:
    in inverse proportion to the root of its scale's tokens (arXiv 2412.04431); equal: all scales the same; lognorm: the
    middle ones most (arXiv 2506.04421).
    """

    label_smoothing: Share = 0.0
    label_drop: Share = 0.1
    scale_weights: Literal["balanced", "lognorm", "equal"] | tuple[Annotated[float, Field(ge=0)], ...] | None = None

    @field_validator("scale_weights")
    @classmethod
    def _not_all_zero(cls, value: Weights) -> Weights:
        if value is not None and not any(value):
            raise ValueError("one of the weights must be above 0")
        return value


class SamplingSection(Section):
    """Sampling settings of the sample pictures, saved with the model as its defaults."""

    guidance_scale: float = Field(default=1.5, ge=0, le=1e6)
    temperature: float = Field(default=1.0, gt=0, le=1e6)
    top_k: int = Field(default=0, ge=0, le=2**32)
    top_p: Share = 0.0


class GeneratorRunSection(RunSection):
    """checkpointing: blocks keep their input alone and compute the rest again for the gradients, which saves most of
    the memory of activations for a third more time.
    """

    checkpointing: bool = False


class GeneratorRecipe(Section):
    """How to train a generator on the tokens of a frozen tokenizer. kind, model: see the systems."""

    data: GeneratorDataSection = GeneratorDataSection()
    loss: GeneratorLoss = GeneratorLoss()
    sampling: SamplingSection = SamplingSection()
    optim: OptimSection
    schedule: ScheduleSection
    run: GeneratorRunSection
    kind: str
    model: Section
    captions: ClassVar[bool] = False
    """Whether it is taught by the captions of its images."""
    trainable: ClassVar[tuple[str, ...]] = ("*",)
    """Patterns of the names of the parameters that are trained, such as ``head_*``; the others stay as they are."""

    @property
    def origin_needed(self) -> str | None:
        """What it has to start from, for a sentence; None: it may start from nothing."""
        return None

    def fitted(self, tokenizer: Tokenizer) -> Tokenizer:
        """A frozen tokenizer with the scales that the model is to draw; by default those that it was trained on."""
        return tokenizer

    def shapes(self, tokenizer: Tokenizer) -> list[Size] | None:
        """Height and width in pixels of the images, which belong to the nearest of these; None: all are squares of the
        recipe's resolution. tokenizer: fitted.
        """
        return None

    def check_known(self, conditioner: Conditioner) -> None:
        """Raises ``InputError`` where the conditioner of a checkpoint to start from is not what the recipe means."""

    def new_conditioner(self, vocabulary: ClassVocabulary) -> Conditioner:
        """What reads the words of a call. vocabulary: of the data; by default it is the conditioner."""
        return vocabulary

    def entries(self, data: ImageData, vocabulary: ClassVocabulary) -> list[Entry]:
        """What every image of the data shows, for the conditioner; by default its class and style."""
        labels = zip(data.labels.tolist(), data.style_labels.tolist(), strict=True)
        return [vocabulary.entry(class_id, style_id) for class_id, style_id in labels]

    @abstractmethod
    def new_model(self, tokenizer: Tokenizer, given: int) -> NextScaleModel:
        """An initialised model of the recipe's sizes, completed by those of the tokenizer and the data. given: the size
        of what the conditioner gives, such as the number of labels.
        """

    def prepared(self, made_of: Material) -> Material:
        """What data are made of, with a conditioner that is ready to be asked for what the images show."""
        return made_of

    def new_data(self, made_of: Material) -> Data:
        """What a step is taught on; by default every source is dropped from the same share of the images."""
        shown = self.features(made_of)
        dropped = dict.fromkeys(shown[0].sources, self.loss.label_drop)
        return TokenData(made_of, *shown, self.augmentation, self.data.copies, dropped)

    def features(self, made_of: Material) -> tuple[Features, Features]:
        """What all images show: those to train on, and those held out."""
        train, heldout = (
            made_of.conditioner.features(self.entries(data, made_of.vocabulary)).to(made_of.device)
            for data in (made_of.train, made_of.heldout)
        )
        return train, heldout

    @property
    def augmentation(self) -> Augmentation:
        """How variants of an image differ from it."""
        data = self.data
        return Augmentation(data.flip, data.unmirrored, data.shift, data.recolour)

    def new_lesson(self, tokenizer: Tokenizer) -> Lesson:
        """What the model is taught on the tokens of ``tokenizer``."""
        weights = self.loss.scale_weights
        check_weights(weights, tokenizer.schedule)
        return partial(teacher_forcing, label_smoothing=self.loss.label_smoothing, scale_weights=weights)

    def states(self, tokenizer: Tokenizer) -> int:
        """Bytes of what the blocks keep of one image for its gradients, at the least; 0 where a recipe does not say."""
        return 0


class ClassTransformerRecipe(GeneratorRecipe):
    """How to train a class-conditional transformer as VAR and its descendants are."""

    model: TransformerSection

    def sizes(self, tokenizer: Tokenizer, classes: int) -> dict[str, Any]:
        """The sizes that every model's configuration has."""
        return {
            "depth": self.model.depth,
            "width": self.model.width or 64 * self.model.depth,
            "heads": self.model.heads or self.model.depth,
            "mlp_ratio": self.model.mlp_ratio,
            "classes": classes,
            "codes": tokenizer.choices,
            "code_dim": tokenizer.code_dim,
            "sizes": tokenizer.schedule.sizes,
            "l2_norm": self.model.l2_norm,
            "drop_path": self.model.drop_path,
        }

    def states(self, tokenizer: Tokenizer) -> int:
        """Their inputs."""
        return 2 * self.model.depth * tokenizer.schedule.tokens * (self.model.width or 64 * self.model.depth)
