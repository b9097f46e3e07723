"""The sections that every recipe has: data, optimiser, schedule, run."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of a recipe. Unknown keys are refused, and numbers that are not finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataSection(Section):
    """resolution: side of the square images in pixels; flip: share of training images that are mirrored."""

    resolution: int = Field(default=256, ge=8, le=16_384)
    flip: Share = 0.0


class OptimSection(Section):
    """AdamW. lr: its peak; eps: added to what it divides by; weight_decay_end: reached by a cosine over the run, None
    keeps the first; clip: largest gradient norm; ema: decay of the moving average of the weights, 0 is off; fused:
    torch's fused AdamW.
    """

    lr: float = Field(gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.05, ge=0)
    weight_decay_end: float | None = Field(default=None, ge=0)
    clip: float = Field(default=2.0, gt=0)
    ema: Decay = 0.0
    fused: bool = False


class ScheduleSection(Section):
    """Length, as ``steps`` or ``epochs``, and the course of the learning rate (see ``optim.lr_factor``).

    warmup: share of all steps; start: factor at step 0; end: factor at the last step.
    """

    form: Literal["lin0", "cosine"] = "lin0"
    steps: int | None = Field(default=None, ge=1, le=10**9)
    epochs: float | None = Field(default=None, gt=0, le=10**9)
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
    """batch: images per step, over all processes; accumulate: parts in which each process computes its share, one after
    another, to save memory; precision: of matrix products (weights stay float32); compile: use ``torch.compile``; the
    ``_every``: in steps; keep: how many checkpoints are held; export: which averaged weights the folder ``export``
    holds, the last ones or those that were best on the held-out images so far.
    """

    batch: int = Field(ge=1, le=2**20)
    accumulate: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    compile: bool = False
    log_every: int = Field(default=10, ge=1)
    validate_every: int = Field(default=500, ge=1)
    sample_every: int = Field(default=500, ge=1)
    save_every: int = Field(default=250, ge=1)
    keep: int = Field(default=2, ge=1)
    export: Literal["last", "best"] = "last"
