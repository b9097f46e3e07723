"""The one training loop, on Hugging Face Accelerate. It knows an objective, not what is trained.

Everything random is a function of (seed, step) and of a sample's place in the global batch. So a resumed run continues
as if it had never stopped, and several processes compute what one would.
"""

from __future__ import annotations

import copy
import math
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from torch import Tensor, nn

from nextscale.checkpoints.weights import check_numbers, check_state
from nextscale.data.images import Reader
from nextscale.device import busy
from nextscale.errors import CheckpointError, TrainingError, one_line
from nextscale.training import order, parallel
from nextscale.training.card import run_card
from nextscale.training.divergence import PATIENCE, DivergenceWatch
from nextscale.training.objectives.base import Metrics, Objective
from nextscale.training.optim import MovingAverage, decay_at, lr_factor, parameter_groups
from nextscale.training.progress import Account, Progress, silent
from nextscale.training.recipe import Recipe
from nextscale.training.runfolder import RunFolder, optimizer_tensors, restore_optimizer

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError:
    SummaryWriter = None  # type: ignore[assignment,misc]


BEST, LOST = "trainer.best", "trainer.lost"
"""Names of the trainer's own entries among those of the objective in a checkpoint."""
FILES = ["weights", "average", "optimizer", "objective"]
"""Of a checkpoint."""


class Interrupted(Exception):
    """The run was asked to stop; everything up to ``step`` is saved."""

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(f"stopped after step {step}; saved in {checkpoint}")
        self.step, self.checkpoint = step, checkpoint


class Trainer:
    """Trains ``objective`` by ``recipe`` in a run folder, resuming from its newest checkpoint where there is one.

    data: what the objective reads while it trains; it is told what comes next. initialised: the weights are
    those of a checkpoint, so the objective does not prepare fresh ones.
    """

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        folder: RunFolder,
        accelerator: Accelerator,
        data: Reader,
        progress: Callable[[Progress], None] = silent,
        initialised: bool = False,
    ) -> None:
        self.objective, self.recipe, self.folder = objective, recipe, folder
        self.accelerator, self.data, self.initialised = accelerator, data, initialised
        self.buckets = order.Buckets(data.shape_labels, data.groups, data.times)
        self.main = parallel.rank() == 0
        self.progress = progress
        self.total = recipe.schedule.total(objective.images, recipe.run.batch)
        self.parts = parallel.my_parts(recipe.run.batch, recipe.run.accumulate)
        optim = recipe.optim
        self.average = MovingAverage(copy.deepcopy(objective.module), optim.ema)
        groups = parameter_groups(objective.module.named_parameters(), optim.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, optim.lr, optim.betas, optim.eps, fused=optim.fused)
        self.model: nn.Module = torch.compile(objective.module) if recipe.run.compile else objective.module  # type: ignore[assignment]
        self.account = Account(objective, recipe, folder, data)
        self.step = 0
        self.best = (-math.inf, -1)  # merit and step of the best validation so far
        self.watch = DivergenceWatch(objective.ignorance, min(PATIENCE, max(10, self.total // 2)))
        self._asked_to_stop = False
        self._writer: Any = None

    def run(self, max_steps: int | None = None) -> Metrics:
        """Train to the end (or until ``max_steps`` in all) and return the numbers on the held-out images.

        Raises ``TrainingError`` for a loss that is not finite and for files that cannot be written, ``Interrupted``
        after SIGINT or SIGTERM.
        """
        if not self.main:
            return self._run(max_steps)
        try:
            with self.folder.held():
                return self._run(max_steps)
        except (OSError, SafetensorError) as error:
            raise self._stopped(f"a file could not be read or written at step {self.step} ({error})") from None

    def _run(self, max_steps: int | None) -> Metrics:
        parallel.wait_for_all()  # the main process has the folder
        self._resume()
        if self.main and SummaryWriter is not None:
            self._writer = SummaryWriter(str(self.folder.path / "tensorboard"), purge_step=self.step + 1)
        handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.progress(Progress("start", self.step, self.total))
            crowded = busy() if self.accelerator.device.type == "cpu" else None
            if crowded and self.main:
                self.progress(Progress("warning", self.step, self.total, text=crowded))
            text = self.account.open(self._trial_loss, self.model, self.parts, self.total)
            self.progress(Progress("price", self.step, self.total, text=text))
            return self._train(min(self.total, max_steps or self.total))
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if self._writer is not None:
                self._writer.close()

    def _train(self, until: int) -> Metrics:
        run, held_out = self.recipe.run, Metrics()
        if self.main and self.step < until and self.step % run.validate_every:  # the last part may have ended with one
            self.folder.cut_log(self.step, "validation")
        while self.step < until:
            metrics = self._one_step(self.step)
            self.step += 1
            last = self.step == self.total
            self.account.count()
            self.progress(self.account.progress(self.step, self.total, metrics))
            if self.step % run.log_every == 0:
                self._log("train", metrics | self.account.speeds())
            self._warn()
            stop = parallel.anywhere(self._asked_to_stop)
            with self.account.paused():
                planned = self.step % run.validate_every == 0 or last
                held_out = self._validate(planned) if planned or self.step == until else Metrics()
                if self.step % run.sample_every == 0 or last:
                    self._sample()
                sound = not self.watch.bad_steps  # what may be diverging replaces nothing
                due = self.step % run.save_every == 0 and sound
                if due or self.step == until or stop:
                    checkpoint = self._save()
            if stop and self.step < until:
                raise Interrupted(self.step, checkpoint)
        if self.watch.bad_steps:
            good = self.folder.last_good(self.step - self.watch.bad_steps - 1)
            text = f"much worse than before for {self.watch.bad_steps} steps at the end; {good}"
            self.progress(Progress("warning", self.step, self.total, text=text))
        self.progress(Progress("price", self.step, self.total, text=self.account.close()))
        return held_out or self._measure()

    def _one_step(self, step: int) -> Metrics:
        """One update; returns what there is to log."""
        seed, optim = self.recipe.run.seed, self.recipe.optim
        lr = self._set_rates(step)
        means = self._gradients(step)
        if not math.isfinite(means["loss"]):
            raise self._diverged(f"the loss is {means['loss']} at step {step}")
        if wrong := self.watch.see(means):
            raise self._diverged(f"{wrong} up to step {step}", "adversarial" in means)
        norm = float(nn.utils.clip_grad_norm_(self.objective.module.parameters(), optim.clip))
        if not math.isfinite(norm):
            raise self._diverged(f"the gradient norm is {norm} at step {step}")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.objective.module, step)
        mending = order.generator(seed, "codebook", step + 1)
        with self.accelerator.autocast():
            mended = self.objective.after_step(self.optimizer, self.average.module, mending)
        return {"loss": means.pop("loss"), "lr": lr, "grad_norm": norm} | means | mended

    def _gradients(self, step: int) -> Metrics:
        """Leave the gradients of the whole batch in the weights; returns the means of what the objective says."""
        # Nothing draws from the global generator; if something ever does, at least it does so again when resumed.
        torch.manual_seed(order.key(self.recipe.run.seed, "global", step))
        rows = self._rows(step)
        following = self._rows(step + 1)
        self.data.prefetch(torch.cat([following[part] for part in self.parts]))
        sums: dict[str, Tensor] = {}
        for part in self.parts:
            loss, extra = self._loss(self.model, step, rows, part)
            self.accelerator.backward(loss / len(self.parts))
            for name, value in {"loss": loss, **extra}.items():
                sums[name] = sums.get(name, 0) + value.detach().float()
        parallel.average_gradients(self.objective.module)
        means = parallel.mean_over(torch.stack(list(sums.values()))) / len(self.parts)
        return dict(zip(sums, means.tolist(), strict=True))

    def _rows(self, step: int) -> Tensor:
        run = self.recipe.run
        return self.buckets.rows(run.batch, run.seed, step)

    def _loss(self, model: nn.Module, step: int, rows: Tensor, part: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """What the objective says of one part of a step's batch."""
        noise = order.SampleNoise(self.recipe.run.seed, step, len(rows), part, step / self.total)
        with self.accelerator.autocast():
            return self.objective.loss(model.train(), rows[part], noise)

    def _trial_loss(self, model: nn.Module, step: int, part: slice) -> Tensor:
        return self._loss(model, step, self._rows(step), part)[0]

    def _set_rates(self, step: int) -> float:
        schedule, optim = self.recipe.schedule, self.recipe.optim
        lr = optim.lr * lr_factor(schedule.form, step, self.total, schedule.warmup, schedule.start, schedule.end)
        decay = decay_at(step, self.total, optim.weight_decay, optim.weight_decay_end)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
            group["weight_decay"] = decay if group["decayed"] else 0.0
        return lr

    def _validate(self, planned: bool) -> Metrics:
        """Every process validates: those that did not could only wait, and a channel loses patience with them.

        planned: by the recipe. Where ``max_steps`` ends a run between two of those, its numbers are logged, but choose
        no export: the run that goes on from there is to be one that never stopped.
        """
        metrics = self._measure()
        self._log("validation", metrics)
        self.progress(Progress("validation", self.step, self.total, metrics=metrics))
        merit = self.objective.merit(metrics)
        if planned and merit > self.best[0]:
            self.best = (merit, self.step)
            if self.recipe.run.export == "best":
                self._export()
        return metrics

    def _measure(self) -> Metrics:
        with self.accelerator.autocast():
            return self.objective.validate(self.average.module.eval())

    def _sample(self) -> None:
        if self.main and (picture := self.objective.sample(self.average.module.eval())) is not None:
            picture.save(self.folder.path / "samples" / f"step-{self.step:06d}.png")

    def _log(self, kind: str, metrics: Metrics) -> None:
        if not self.main:
            return
        self.folder.log({"step": self.step, "kind": kind, **metrics})
        for name, value in metrics.items():
            if self._writer is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, self.step)

    def _warn(self) -> None:
        """Pass on what the objective is worried about."""
        for sentence in self.objective.warnings:
            if self.main:
                self.folder.log({"step": self.step, "kind": "warning", "text": sentence})
            self.progress(Progress("warning", self.step, self.total, text=sentence))
        self.objective.warnings.clear()

    def _export(self) -> None:
        if self.main:
            card = run_card(self.folder.path, self.step, self.total)
            self.objective.export(self.average.module, self.folder.path / "export", card)

    def _save(self) -> Path:
        """The export goes first: killed between the two, the run repeats the steps that led to it."""
        if self.recipe.run.export == "last" or self.best[1] < 0:
            self._export()
        path = self.folder.checkpoint(self.step)
        if self.main:
            own = {BEST: torch.tensor(self.best, dtype=torch.float64), LOST: self.watch.state()}
            tensors = {
                "weights": self.objective.module.state_dict(),
                "average": self.average.module.state_dict(),
                "optimizer": optimizer_tensors(self.optimizer, self.objective.module),
                "objective": self.objective.state() | own,
            }
            self.folder.save(self.step, tensors, sound=not self.watch.bad_steps)
            self.folder.write_table()
            self.account.write()
        self.progress(Progress("saved", self.step, self.total))
        return path

    def _resume(self) -> None:
        found = self.folder.load(FILES)
        if found is None:
            if self.main:
                self.folder.cut_log(-1)
            if not self.initialised:
                self.objective.begin(order.generator(self.recipe.run.seed, "codebook"))
            parallel.copy_from_main(self.objective.module)
            self.average.module.load_state_dict(self.objective.module.state_dict())
            return
        self.step, tensors = found
        try:
            self._take_back(tensors)
        except CheckpointError as error:
            raise self.folder.unusable(str(error), FILES) from None
        if self.main:
            self.folder.cut_log(self.step)

    def _take_back(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """Go on from a checkpoint's tensors. Raises ``CheckpointError`` for those of something else."""
        for name, module in (("weights", self.objective.module), ("average", self.average.module)):
            check_state(module, tensors[name], name)
            for key, tensor in tensors[name].items():
                check_numbers(key, tensor)
            module.load_state_dict(tensors[name])
        if not tensors["optimizer"]:
            raise CheckpointError("the optimiser's state is empty")
        restore_optimizer(self.optimizer, self.objective.module, tensors["optimizer"])
        own = tensors["objective"]
        best, lost = own.pop(BEST, None), own.pop(LOST, None)
        fresh = {BEST: (best, torch.tensor(self.best))} | {
            k: (own.get(k), t) for k, t in self.objective.state().items()
        }
        for key, (found, like) in fresh.items():
            if found is None or found.shape != like.shape:
                seen = "no" if found is None else f"shape {tuple(found.shape)} of"
                raise CheckpointError(f"the objective's state has {seen} {key}; expected shape {tuple(like.shape)}")
        if lost is None or not lost.numel():
            raise CheckpointError(f"the objective's state has {'no' if lost is None else 'an empty'} {LOST}")
        assert best is not None
        for key, tensor in own.items():
            check_numbers(key, tensor, largest_weight=math.inf)
        self.best = (float(best[0]), int(best[1]))
        self.watch.load_state(lost)
        try:
            self.objective.load_state(own)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"the objective's state does not fit: {one_line(error)}") from None

    def _diverged(self, what: str, adversarial: bool = False) -> TrainingError:
        """Names the last checkpoint whose own loss was sound: weights are saved before it is known."""
        knobs = "optim.lr or loss.adversarial.weight" if adversarial else "optim.lr"
        return self._stopped(what, self.step - max(1, self.watch.bad_steps), f"; a lower {knobs} often helps")

    def _stopped(self, what: str, before: float = math.inf, advice: str = "") -> TrainingError:
        return TrainingError(f"{what}, so training stopped; {self.folder.last_good(before)}{advice}")

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """First signal: finish the step and save. Second: stop at once."""
        if self._asked_to_stop:
            raise KeyboardInterrupt
        self._asked_to_stop = True
