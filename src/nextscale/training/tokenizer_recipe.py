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
    """Weights of squared error, absolute error and VQ loss, and two losses that are off unless they have a weight."""

    l2: float = Field(default=1.0, ge=0)
    l1: float = Field(default=0.2, ge=0)
    vq: float = Field(default=1.0, ge=0)
    perceptual: PerceptualLoss = PerceptualLoss()
    adversarial: AdversarialLoss = AdversarialLoss()


class CodebookSection(Section):
    """How the codebook starts and is kept alive.

    start_images: images the first codebook is drawn from, 0 keeps the random one; kmeans: rounds of k-means after it
    was drawn; restart_below: codes used less than this share of even use are moved onto the data, 0 is off;
    restart_every: in steps; restart_until: share of the run after which codes stay where they are.

    A collapse is a perplexity below ``collapsed_below`` of the codes, at one scale below ``collapsed_scale_below`` (in
    both cases at least 2), for ``collapsed_after`` steps on end. It is warned of, and the next restart mends it.
    """

    start_images: int = Field(default=256, ge=0)
    kmeans: int = Field(default=0, ge=0, le=100_000)
    restart_below: float = Field(default=0.1, ge=0, lt=1)
    restart_every: int = Field(default=50, ge=1)
    restart_until: Share = 0.8
    collapsed_below: Share = 0.05
    collapsed_scale_below: Share = 0.005
    collapsed_after: int = Field(default=200, ge=1)


class TokenizerRecipe(Section):
    """How to train a tokenizer.

    decoder_only: train what draws, keep what encodes. Tokens stay what they are, so generators that were trained on
    them draw with the better decoder (as the decoders of latent diffusion models are refined afterwards).
    """

    kind: Literal["tokenizer"]
    decoder_only: bool = False
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
