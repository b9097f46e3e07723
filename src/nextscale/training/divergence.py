"""Noticing that a run has lost what it had learnt, while its numbers are still finite."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

PATIENCE = 100
"""A run has diverged after as many bad steps on end; a short one may be less patient."""
WORSE = 5.0
"""A running mean this many times its own best is bad, as an adversarial loss that drowns the others makes it."""
FLOOR = 0.05
"""Below this share of what knowing nothing has, no number is bad: few pictures can be learnt by heart and forgotten."""
WINDOW = 20
"""Steps that a running mean looks back, about."""


class DivergenceWatch:
    """Counts bad steps on end: a number above twice what knowing nothing has, or its running mean above ``WORSE`` times
    the best it was.

    ignorance: see ``Objective.ignorance``.
    """

    def __init__(self, ignorance: Mapping[str, float], patience: int = PATIENCE) -> None:
        self.ignorance, self.patience = ignorance, patience
        self.bad_steps = 0
        self._usual, self._best = ([math.inf] * len(ignorance) for _ in range(2))

    def see(self, numbers: Mapping[str, float]) -> str | None:
        """Take the numbers of one step. Says what went wrong once it has for ``patience`` steps, until then None."""
        wrong = [self._judge(i, name, numbers[name]) for i, name in enumerate(self.ignorance)]
        found = next(filter(None, wrong), None)
        self.bad_steps = self.bad_steps + 1 if found else 0
        return f"{found} for {self.bad_steps} steps" if found and self.bad_steps >= self.patience else None

    def _judge(self, i: int, name: str, number: float) -> str | None:
        before, ignorant = self._usual[i], self.ignorance[name]
        self._usual[i] = usual = number if before == math.inf else before + (number - before) / WINDOW
        self._best[i] = best = min(self._best[i], usual)
        if number > 2 * ignorant:
            return f"{name} was above {2 * ignorant:.3g}"
        if usual > max(WORSE * best, FLOOR * ignorant):
            return f"{name} was above {max(WORSE * best, FLOOR * ignorant):.3g} on average, having been {best:.3g},"
        return None

    def state(self) -> Tensor:
        """All that a resumed run needs, float64."""
        return torch.tensor([self.bad_steps, *self._usual, *self._best], dtype=torch.float64)

    def load_state(self, state: Tensor) -> None:
        """Take back what ``state`` gave; of a watch on other numbers (an older checkpoint's), the count alone."""
        count, *means = state.flatten().tolist()
        self.bad_steps, numbers = int(count), len(self.ignorance)
        if len(means) == 2 * numbers:
            self._usual, self._best = means[:numbers], means[numbers:]
