"""The one training loop, on Hugging Face Accelerate. It knows an objective, not what is trained.

Everything random is a function of (seed, step), so that a resumed run continues as if it had never stopped.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from nextscale.errors import TrainingError
from nextscale.training import order
from nextscale.training.objectives import Metrics, Objective
from nextscale.training.optim import MovingAverage, decay_at, lr_factor, parameter_groups
from nextscale.training.recipe import Recipe
from nextscale.training.runfolder import RunFolder, optimizer_tensors, restore_optimizer

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None  # type: ignore[assignment,misc]


@dataclass(frozen=True)
class Progress:
    """What a progress bar may show. kind: "start", "step", "validation", "saved"."""

    kind: str
    step: int
    total: int
    images_per_second: float = 0.0
    seconds_left: float = math.inf
    metrics: Metrics = field(default_factory=dict)


class Interrupted(Exception):
    """The run was asked to stop; everything up to ``step`` is saved."""

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(f"stopped after step {step}; saved in {checkpoint}")
        self.step, self.checkpoint = step, checkpoint


class Trainer:
    """Trains ``objective`` by ``recipe`` in a run folder, resuming from its newest checkpoint where there is one."""

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        folder: RunFolder,
        accelerator: Accelerator,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.objective, self.recipe, self.folder = objective, recipe, folder
        self.accelerator, self.progress = accelerator, progress
        self.total = recipe.schedule.total(objective.images, recipe.run.batch)
        optim = recipe.optim
        self.average = MovingAverage(copy.deepcopy(objective.module), optim.ema)
        groups = parameter_groups(objective.module.named_parameters(), optim.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=optim.fused)
        self.model: nn.Module = accelerator.prepare_model(objective.module)
        self.step = 0
        self._asked_to_stop = False
        self._writer: Any = None

    def run(self, max_steps: int | None = None) -> Metrics:
        """Train to the end (or until ``max_steps`` in all) and return the last validation.

        Raises ``TrainingError`` for a loss that is not finite, ``Interrupted`` after SIGINT or SIGTERM.
        """
        self._resume()
        if SummaryWriter is not None:
            self._writer = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=self.step)
        handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            return self._train(min(self.total, max_steps or self.total))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self._writer is not None:
                self._writer.close()

    def _train(self, until: int) -> Metrics:
        run, held_out = self.recipe.run, Metrics()
        self.progress(Progress("start", self.step, self.total))
        clock = Clock()
        while self.step < until:
            metrics = self._one_step(self.step)
            self.step += 1
            clock.count(run.batch)
            left = (self.total - self.step) * run.batch / clock.speed
            self.progress(Progress("step", self.step, self.total, clock.speed, left, metrics))
            if self.step % run.log_every == 0:
                self._log("train", metrics | {"images_per_second": round(clock.speed, 2)})
            stop = self._asked_to_stop
            with clock.paused():
                if self.step % run.validate_every == 0 or self.step == until:
                    held_out = self._validate()
                if self.step % run.sample_every == 0 or self.step == until:
                    self._sample()
                if self.step % run.save_every == 0 or self.step == until or stop:
                    checkpoint = self._save()
            if stop and self.step < until:
                raise Interrupted(self.step, checkpoint)
        return held_out or self._measure()

    def _one_step(self, step: int) -> Metrics:
        """One update; returns what there is to log."""
        recipe, seed, optim = self.recipe, self.recipe.run.seed, self.recipe.optim
        torch.manual_seed(order.key(seed, "global", step))
        lr = self._set_rates(step)
        self.model.train()
        rows = order.rows(self.objective.images, recipe.run.batch, seed, step)
        with self.accelerator.autocast():
            loss, extra = self.objective.loss(self.model, rows, order.generator(seed, "step", step))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value} at step {step}")
        self.accelerator.backward(loss)
        norm = float(nn.utils.clip_grad_norm_(self.objective.module.parameters(), optim.clip))
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient norm is {norm} at step {step}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.objective.module, step)
        mending = order.generator(seed, "codebook", step + 1)
        with self.accelerator.autocast():
            mended = self.objective.after_step(self.optimizer, self.average.module, mending)
        return {"loss": value, "lr": lr, "grad_norm": norm} | {k: float(v) for k, v in extra.items()} | mended

    def _set_rates(self, step: int) -> float:
        schedule, optim = self.recipe.schedule, self.recipe.optim
        lr = optim.lr * lr_factor(schedule.form, step, self.total, schedule.warmup, schedule.start, schedule.end)
        decay = decay_at(step, self.total, optim.weight_decay, optim.weight_decay_end)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = decay if group["decayed"] else 0.0
        return lr

    def _validate(self) -> Metrics:
        metrics = self._measure()
        self._log("validation", metrics)
        self.progress(Progress("validation", self.step, self.total, metrics=metrics))
        return metrics

    def _measure(self) -> Metrics:
        with self.accelerator.autocast():
            return self.objective.validate(self.average.module.eval())

    def _sample(self) -> None:
        picture = self.objective.sample(self.average.module.eval())
        if picture is not None:
            picture.save(self.folder.path / "samples" / f"step-{self.step:06d}.png")

    def _log(self, kind: str, metrics: Metrics) -> None:
        self.folder.log({"step": self.step, "kind": kind, **metrics})
        for name, value in metrics.items():
            if self._writer is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, self.step)

    def _save(self) -> Path:
        tensors = {
            "weights": self.objective.module.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer, self.objective.module),
            "objective": self.objective.state() or {"none": torch.zeros(1)},
        }
        path = self.folder.save(self.step, tensors)
        self.objective.export(self.average.module, self.folder.path / "export")
        self.progress(Progress("saved", self.step, self.total))
        return path

    def _resume(self) -> None:
        found = self.folder.load(["weights", "average", "optimizer", "objective"])
        if found is None:
            self.folder.cut_log(-1)
            self.objective.begin(order.generator(self.recipe.run.seed, "codebook"))
            self.average.module.load_state_dict(self.objective.module.state_dict())
            return
        self.step, tensors = found
        self.folder.cut_log(self.step)
        self.objective.module.load_state_dict(tensors["weights"])
        self.average.module.load_state_dict(tensors["average"])
        restore_optimizer(self.optimizer, self.objective.module, tensors["optimizer"])
        self.objective.load_state(tensors["objective"])

    def _diverged(self, what: str) -> TrainingError:
        last = self.folder.checkpoints()
        where = f"the last good checkpoint is {last[-1]}" if last else "no checkpoint had been written yet"
        return TrainingError(f"{what}, so training stopped; {where}; a lower optim.lr often helps")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """First signal: finish the step and save. Second: stop at once."""
        if self._asked_to_stop:
            raise KeyboardInterrupt
        self._asked_to_stop = True


class Clock:
    """Images per second over the training steps alone, smoothed over about 20 steps."""

    def __init__(self) -> None:
        self._last, self._seconds, self._images = time.perf_counter(), 0.0, 0.0

    def count(self, images: int) -> None:
        now = time.perf_counter()
        self._seconds = 0.95 * self._seconds + (now - self._last)
        self._images = 0.95 * self._images + images
        self._last = now

    @property
    def speed(self) -> float:
        return self._images / max(self._seconds, 1e-9)

    def paused(self) -> Clock:
        """Time inside ``with clock.paused():`` is not counted."""
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self._last = time.perf_counter()
