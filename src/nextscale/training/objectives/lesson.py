"""What is learnt at a step, a lesson, and the model as a lesson sees it.

Shape letters: ``B`` images of a step's part, ``R`` rows (a lesson may stack several conditions of each image).
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.models.base import Condition
from nextscale.tokenizers.base import Encoded
from nextscale.training.order import SampleNoise


class Lesson(Protocol):
    """Anything that can be called like this, with a file of its own: a function, or an object that holds settings, a
    frozen teacher, a further prompt. One that is not measured by the likelihood of held-out tokens has a method
    ``measure(model, batches) -> Metrics`` of its own, see ``GeneratorObjective.validate``; one whose steps cost
    different amounts a method ``trials(seed, steps)``, see ``Objective.trials``.
    """

    def __call__(
        self, model: Pupil, encoded: Encoded, features: Features, noise: SampleNoise
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss () over images, and further means to log, each ().

        encoded: the images as a walk over this step's scales, whose schedule its canvas carries; features: what they
        show, some of it dropped; noise: what must be random, per image (``uniform``) or per step (``shared``).
        """


class Pupil:
    """The model, with what a run does to it whatever it is taught: it drops paths, and computes blocks again for their
    gradients to save memory. Everything else is the model's own.
    """

    def __init__(self, model: Any, noise: SampleNoise, recompute: bool = False) -> None:
        """model: as it is to be called, it may be compiled."""
        self._model, self._recompute = model, recompute
        drops = hasattr(model, "drop_paths")
        self._chance = noise.uniform(model.config.depth, model.gates) if drops else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def condition(self, features: Features, *arguments: Any, **more: Any) -> Condition:
        """See ``NextScaleModel.condition``. All rows of an image drop the same paths."""
        condition: Condition = self._model.condition(features, *arguments, **more)
        if self._chance is None:
            return condition
        times = condition.rows // len(self._chance)
        assert condition.rows == times * len(self._chance) > 0, "a condition has rows for every image of the step"
        chance = self._chance.to(condition.start.device).repeat(times, 1, 1)
        dropped: Condition = self._model.drop_paths(condition, chance)
        return dropped

    def __call__(self, *arguments: Any, **more: Any) -> Tensor:
        """See ``NextScaleModel.forward``."""
        logits: Tensor = self._model(*arguments, recompute=self._recompute, **more)
        return logits
