"""Recipes: everything a training run needs to know, in one YAML file, checked before anything is computed.

A recipe is a shipped name (``tokenizer-emoji``) or a file; ``--set section.key=value`` changes single entries. A key
that does not exist and a value of the wrong type are refused in one sentence. What came out is saved with the run.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from nextscale.errors import InputError
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.residual import ResidualConfig

SHIPPED = Path(__file__).parent / "recipes"
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a recipe. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(Section):
    """resolution: side of the square images in pixels; flip: share of training images that are mirrored."""

    resolution: int = Field(default=256, ge=8)
    flip: Share = 0.0


class TokenizerDataSection(DataSection):
    """shift: largest displacement of training images in pixels, white coming in behind; recolour: share of them whose
    red, green and blue are exchanged at random.
    """

    shift: int = Field(default=0, ge=0)
    recolour: Share = 0.0


class GeneratorDataSection(DataSection):
    """unmirrored: names of classes whose images are never mirrored, such as letters and arrows; names that the data do
    not have are passed over.
    """

    unmirrored: tuple[str, ...] = ()


class OptimSection(Section):
    """AdamW. lr: its peak; weight_decay_end: reached by a cosine over the run, None keeps the first; clip: largest
    gradient norm; ema: decay of the moving average of the weights, 0 is off; fused: torch's fused AdamW.
    """

    lr: float = Field(gt=0)
    betas: tuple[Share, Share] = (0.9, 0.95)
    weight_decay: float = Field(default=0.05, ge=0)
    weight_decay_end: float | None = Field(default=None, ge=0)
    clip: float = Field(default=2.0, gt=0)
    ema: float = Field(default=0.0, ge=0, lt=1)
    fused: bool = False


class ScheduleSection(Section):
    """Length, as ``steps`` or ``epochs``, and the course of the learning rate (see ``optim.lr_factor``).

    warmup: share of all steps; start: factor at step 0; end: factor at the last step.
    """

    form: Literal["lin0", "cosine"] = "lin0"
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    warmup: Share = 0.02
    start: Share = 0.005
    end: Share = 0.1

    @model_validator(mode="after")
    def _one_length(self) -> ScheduleSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs, not both or neither")
        return self

    def total(self, images: int, batch: int) -> int:
        """Number of steps for a training set of ``images`` images."""
        return self.steps if self.steps is not None else math.ceil(self.epochs * images / batch)  # type: ignore[operator]


class RunSection(Section):
    """batch: images per step; precision: of matrix products (weights stay float32); the ``_every``: in steps; keep: how
    many checkpoints are held.
    """

    batch: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    log_every: int = Field(default=10, ge=1)
    validate_every: int = Field(default=500, ge=1)
    sample_every: int = Field(default=500, ge=1)
    save_every: int = Field(default=250, ge=1)
    keep: int = Field(default=2, ge=1)


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


Recipe = TokenizerRecipe | VARRecipe | MVARRecipe
KINDS: dict[str, type[TokenizerRecipe] | type[VARRecipe] | type[MVARRecipe]] = {
    "tokenizer": TokenizerRecipe,
    "var": VARRecipe,
    "m-var": MVARRecipe,
}


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the library."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a shipped recipe or a file, apply ``section.key=value`` overrides, and check it. Raises ``InputError``."""
    path = _find(str(name_or_path))
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"the recipe {path} cannot be read: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise InputError(f"the recipe {path} must hold sections such as 'model' and 'optim', not {type(data).__name__}")
    for override in overrides or []:
        _override(data, override)
    return parse_recipe(data, str(name_or_path))


def parse_recipe(data: dict[str, Any], name: str) -> Recipe:
    """Check a recipe given as nested dictionaries; ``name`` is used in messages."""
    kind = data.get("kind")
    if kind not in KINDS:
        raise InputError(f"the recipe {name} must say 'kind: {' or '.join(KINDS)}', not {kind!r}")
    _refuse_unknown(KINDS[kind], data, "")
    try:
        return KINDS[kind].model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "recipe"
        reason = first["msg"].removeprefix("Value error, ")
        seen = f" (found {first['input']!r})" if isinstance(first["input"], int | float | str | list) else ""
        raise InputError(f"recipe {name}, {where}: {reason[:1].lower()}{reason[1:]}{seen}") from None


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Every ``key: old -> new`` by which two dumped recipes differ."""
    a, b = _flat(old), _flat(new)
    return [f"{key}: {a.get(key)!r} -> {b.get(key)!r}" for key in sorted(a | b) if a.get(key) != b.get(key)]


def _find(name: str) -> Path:
    if (SHIPPED / f"{name}.yaml").is_file():
        return SHIPPED / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    near = difflib.get_close_matches(name, shipped_recipes(), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are {', '.join(shipped_recipes())}"
    raise InputError(f"no recipe or file {name!r}; {hint}")


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"an override has the form section.key=value, not {override!r}")
    *sections, last = key.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise InputError(f"the recipe has no section {section!r} to set {key.strip()!r} in")
    try:
        data[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"the value of {override!r} is not valid YAML") from None


def _refuse_unknown(kind: Any, data: Any, path: str) -> None:
    """Refuse the first key that ``kind`` (a pydantic model or a dataclass) does not have, with the nearest it has."""
    fields = _fields(kind)
    if not fields or not isinstance(data, dict):
        return
    for key, value in data.items():
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, 1, 0.5)
            hint = f"did you mean {path + near[0]!r}?" if near else f"known here are {', '.join(sorted(fields))}"
            raise InputError(f"the recipe has no key {path + str(key)!r}; {hint}")
        _refuse_unknown(fields[key], value, f"{path}{key}.")


def _fields(kind: Any) -> dict[str, Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return {name: hint for name, hint in get_type_hints(kind).items() if name in kind.__dataclass_fields__}
    return {}


def _flat(data: dict[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {path + key: value}
    return flat
