"""What a recipe for a tokenizer may say; what each kind of tokenizer adds stands in ``recipes/``."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator

from nextscale.data.images import ImageData
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Tokenizer
from nextscale.training.objectives.base import Objective
from nextscale.training.sections import DataSection, OptimSection, RunSection, ScheduleSection, Section, Share


class TokenizerDataSection(DataSection):
    """shift: largest displacement of training images in pixels, white coming in behind; recolour: share of them whose
    red, green and blue are exchanged at random.
    """

    shift: int = Field(default=0, ge=0, le=16_384)
    recolour: Share = 0.0


class PerceptualLoss(Section):
    """A distance in the features of a frozen network.

    network: ``emoji`` (shipped with the library), ``vgg``, or a checkpoint folder that holds a perceptual network;
    files: for ``vgg``, torchvision's weights of VGG16 and the linear weights of LPIPS; start: share of the run after
    which the loss counts.
    """

    weight: float = Field(default=0.0, ge=0)
    start: Share = 0.0
    network: str = Field(default="emoji", min_length=1)
    files: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _published_weights(self) -> PerceptualLoss:
        if self.network == "vgg" and len(self.files) != 2:
            raise ValueError("vgg needs two files, torchvision's vgg16-397923af.pth and LPIPS' vgg.pth")
        return self


class AdversarialLoss(Section):
    """A discriminator that learns to tell reconstructions from originals, and what the tokenizer loses by it.

    network: ``patch`` judges patches of pixels, ``features`` what the perceptual network sees; width, layers: of
    ``patch``, channels of the first convolution and halvings; width also of the heads of ``features``; start: share of
    the run after which the discriminator learns and counts; warmup: further share in which the weight rises from 0;
    adaptive: multiply the weight by the ratio of gradients (see ``adversarial.py``); lr_ratio: its learning rate, as a
    multiple of the tokenizer's. Everything else of its optimiser is that of ``optim``.
    """

    weight: float = Field(default=0.0, ge=0)
    start: Share = 0.2
    warmup: Share = 0.02
    network: Literal["patch", "features"] = "patch"
    width: int = Field(default=64, ge=8, le=65_536, multiple_of=8)
    layers: int = Field(default=3, ge=1, le=12)
    adaptive: bool = True
    lr_ratio: float = Field(default=1.0, gt=0)


class TokenizerLoss(Section):
    """Weights of squared and absolute error, and two losses that are off unless they have a weight."""

    l2: float = Field(default=1.0, ge=0)
    l1: float = Field(default=0.2, ge=0)
    perceptual: PerceptualLoss = PerceptualLoss()
    adversarial: AdversarialLoss = AdversarialLoss()


class TokenizerRecipe(Section):
    """How to train a tokenizer. kind, model, loss: see the systems.

    decoder_only: train what draws, keep what encodes. Tokens stay what they are, so generators that were trained on
    them draw with the better decoder (as the decoders of latent diffusion models are refined afterwards).
    """

    kind: str
    decoder_only: bool = False
    data: TokenizerDataSection = TokenizerDataSection()
    model: Any
    loss: TokenizerLoss = TokenizerLoss()
    optim: OptimSection
    schedule: ScheduleSection
    run: RunSection
    decoder: ClassVar[tuple[str, ...]] = ("decoder.*",)
    """Patterns of the names of the parameters that draw."""

    @abstractmethod
    def new_tokenizer(self) -> Tokenizer:
        """An initialised tokenizer of the recipe's sizes. Called with images, it gives the reconstruction, what its
        loss needs, and the token maps.
        """

    @abstractmethod
    def new_objective(self, train: ImageData, heldout: ImageData, device: torch.device) -> Objective:
        """What it is trained on."""

    @property
    def stride(self) -> int:
        """Pixels per token in each direction."""
        return int(self.model.autoencoder.stride)

    @field_validator("model", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("sizes"), list):
            return {**value, "sizes": ScaleSchedule.of(value["sizes"]).sizes}
        return value

    @model_validator(mode="after")
    def _resolution(self) -> TokenizerRecipe:
        grid, stride = self.model.sizes[-1], self.stride
        if grid != (self.data.resolution // stride,) * 2 or self.data.resolution % stride:
            wanted = f"{grid[0] * stride}x{grid[1] * stride}"
            raise ValueError(f"the last scale times a stride of {stride} is {wanted}, not data.resolution")
        return self

    @model_validator(mode="after")
    def _compiled(self) -> TokenizerRecipe:
        judge = self.loss.adversarial
        if self.run.compile and judge.weight and judge.adaptive:
            raise ValueError(
                "an adaptive adversarial weight takes gradients three times in a step, which compiled code cannot; "
                "set run.compile or loss.adversarial.adaptive to false"
            )
        return self

    @model_validator(mode="after")
    def _patches(self) -> TokenizerRecipe:
        judge = self.loss.adversarial
        smallest = 3 * 2**judge.layers
        if judge.weight and judge.network == "patch" and self.data.resolution < smallest:
            raise ValueError(
                f"a patch discriminator of {judge.layers} layers needs images of at least {smallest} pixels, "
                f"but data.resolution is {self.data.resolution}; lower loss.adversarial.layers"
            )
        return self
