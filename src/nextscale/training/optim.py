"""AdamW as VAR uses it: parameter groups, learning-rate courses, weight-decay course, moving average of the weights.

Source: VAR (arXiv 2404.02905) and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from nextscale.errors import InputError

UNDECAYED = ("pos_", "level_embedding", "ada_gss", "scale_mul")
"""Parameters in whose name a part starts like this are never decayed, whatever their shape."""
LEARNED = ("null", "query")
"""Nor are those that are called so themselves: vectors that stand for nothing, or that ask."""


def freeze_others(module: nn.Module, trainable: Sequence[str]) -> None:
    """Freeze every parameter whose name fits none of the patterns ``trainable``, such as ``blocks.*.ada_lin.*``.

    Raises:
        InputError: a pattern fits no parameter.
    """
    parameters = dict(module.named_parameters())
    for pattern in trainable:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise InputError(
                f"no parameter has a name like {pattern!r}; expected patterns of names such as "
                f"{next(reversed(parameters))!r}"
            )
    for name, parameter in parameters.items():
        if not any(fnmatchcase(name, pattern) for pattern in trainable):
            parameter.requires_grad_(False)


def parameter_groups(named: Iterable[tuple[str, nn.Parameter]], weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices, which are decayed, and vectors and learned positions, which are not."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in named:
        if parameter.requires_grad:
            parts = name.split(".")
            own = parts[-1] in LEARNED or any(part.startswith(UNDECAYED) for part in parts)
            (spared if parameter.ndim < 2 or own else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay, "decayed": True},
        {"params": spared, "weight_decay": 0.0, "decayed": False},
    ]


def lr_factor(
    form: Literal["lin0", "cosine"], step: int, total: int, warmup: float, start: float = 0.005, end: float = 0.1
) -> float:
    """Factor on the peak learning rate for ``step`` of ``total``, both courses after a linear warm-up from ``start``.

    ``lin0`` holds 1 for the first 5 % of what remains and then falls linearly to ``end``; ``cosine`` falls along half a
    cosine. The last step has exactly ``end``.
    """
    warm = round(warmup * total)
    if step < warm:
        return start + (1 - start) * step / warm
    progress = min(1.0, (step - warm) / max(1, total - 1 - warm))
    if form == "cosine":
        return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2
    return 1.0 if progress <= 0.05 else end + (1 - end) * (1 - progress) / 0.95


def decay_at(step: int, total: int, first: float, last: float | None) -> float:
    """Weight decay at ``step``: half a cosine from ``first`` to ``last`` over the whole run."""
    if last is None:
        return first
    progress = min(1.0, step / max(1, total - 1))
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


class MovingAverage:
    """Exponential moving average of a module's weights, kept in a second module of the same kind.

    The decay of update t = 0, 1, ... is min(decay, (1 + t) / (10 + t)), so that early weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module.requires_grad_(False).eval()
        self.decay = decay

    @torch.no_grad()
    def update(self, source: nn.Module, t: int) -> None:
        decay = min(self.decay, (1 + t) / (10 + t)) if self.decay else 0.0
        mine, theirs = _tensors(self.module), _tensors(source)
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [t.detach() for t in module.parameters()]
