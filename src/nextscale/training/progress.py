"""What a run tells while it goes on: its speed, its share of the machine, and how its cost compares with its price."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from nextscale.data.images import Reader
from nextscale.device import peak_memory
from nextscale.evaluation.speed import matmul_peak
from nextscale.models.base import NextScaleModel
from nextscale.training import parallel
from nextscale.training.cost import Price, Spent, measure, read_costs, together, write_costs
from nextscale.training.objectives.base import Metrics, Objective
from nextscale.training.recipe import Recipe
from nextscale.training.runfolder import RunFolder, write_durably

FORGET = 0.95
"""Speeds are means over about the last 20 steps."""


@dataclass(frozen=True)
class Progress:
    """What a progress bar may show. kind: "start", "price", "step", "validation", "warning", "saved"; before these
    "reading" and "encoding", where step and total count images, and "data".

    Speeds are those of all processes together. peak_share: of the fastest matrix products of the machine; waiting:
    share of the time that was spent waiting for data; text: a line for people, with "data", "price" and "warning".
    """

    kind: str
    step: int
    total: int
    images_per_second: float = 0.0
    tokens_per_second: float = 0.0
    peak_share: float = 0.0
    waiting: float = 0.0
    seconds_left: float = math.inf
    metrics: Metrics = field(default_factory=dict)
    text: str = ""


def silent(progress: Progress) -> None:
    """What shows nothing."""


class Account:
    """Counts time and memory. ``open`` comes before the first step, ``count`` after every one, ``close`` at the end."""

    def __init__(self, objective: Objective, recipe: Recipe, folder: RunFolder, data: Reader) -> None:
        self.objective, self.recipe, self.folder, self.data = objective, recipe, folder, data
        module = objective.module
        self.device = next(module.parameters()).device
        self.tokens = module.schedule.tokens if isinstance(module, NextScaleModel) else 0
        self.price: Price | None = None
        self.spent = Spent()
        self.peak = math.inf
        self._last = self._written = time.perf_counter()
        self._seconds = self._images = self._waited = 0.0
        self._waited_before = 0.0

    def open(
        self, loss: Callable[[nn.Module, int, slice], Tensor], model: nn.Module, parts: list[slice], total: int
    ) -> str:
        """Price the run, or read the price of a run that is resumed; returns it as a line.

        loss: of a part of the batch of a step, as that step would have it.
        """
        run, device = self.recipe.run, self.device
        known = read_costs(self.folder.path / "price.json")
        if known is not None and self.folder.checkpoints():
            self.price, self.spent = known
        else:
            module = self.objective.module
            prices = []
            for first, _ in self.objective.trials:

                def trial(model: nn.Module, part: slice, step: int = first) -> Tensor:
                    return loss(model, step, part)

                prices.append(measure(trial, module, model, parts[0], len(parts), total, run.batch))
                self.objective.load_state(self.objective.state())
            self.price = together(prices, [share for _, share in self.objective.trials])
        dtype = torch.bfloat16 if run.precision == "bf16" else torch.float32
        peaks = torch.tensor(matmul_peak(device, dtype), dtype=torch.float64)
        self.peak = float(parallel.sum_over(peaks))
        parallel.wait_for_all()
        self.write()
        self._last = self._written = time.perf_counter()
        self._waited_before = self.data.waited
        return str(self.price)

    def count(self) -> None:
        """One more step is done."""
        now, waited = time.perf_counter(), self.data.waited
        took = now - self._last
        self._seconds = FORGET * self._seconds + took
        self._images = FORGET * self._images + self.recipe.run.batch
        self._waited = FORGET * self._waited + waited - self._waited_before
        self._last, self._waited_before = now, waited
        self.spent = replace(self.spent, steps=self.spent.steps + 1, seconds=self.spent.seconds + took)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens meanwhile is no part of a step."""
        yield
        self._last = time.perf_counter()

    @property
    def images_per_second(self) -> float:
        return self._images / max(self._seconds, 1e-9)

    @property
    def waiting(self) -> float:
        """Share of the time that was spent waiting for data."""
        return self._waited / max(self._seconds, 1e-9)

    def speeds(self) -> Metrics:
        """What the log says about speed."""
        numbers = {"images_per_second": round(self.images_per_second, 2), "waiting": round(self.waiting, 4)}
        return numbers | {"peak_share": round(self._peak_share, 4)}

    def progress(self, step: int, total: int, metrics: Metrics) -> Progress:
        """What a bar may show after ``step``."""
        speed = self.images_per_second
        left = (total - step) * self.recipe.run.batch / speed
        return Progress("step", step, total, speed, speed * self.tokens, self._peak_share, self.waiting, left, metrics)

    def write(self) -> None:
        """Save the price and what was spent so far."""
        now = time.perf_counter()
        memory = max(self.spent.memory, peak_memory(self.device))
        self.spent = replace(self.spent, all_seconds=self.spent.all_seconds + now - self._written, memory=memory)
        self._written = now
        if self.price is not None and parallel.rank() == 0:
            write_durably(self.folder.path / "price.json", write_costs(self.price, self.spent))

    def close(self) -> str:
        """What the run has cost, against its price, as a line."""
        self.write()
        assert self.price is not None
        return self.spent.against(self.price)

    @property
    def _peak_share(self) -> float:
        return self.price.flops * self.images_per_second / self.peak if self.price is not None else 0.0
