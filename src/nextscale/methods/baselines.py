"""Memories of language models as methods: plans whose model keeps a part of its key-value memory by a simple rule. They
need no calibration and serve as baselines; what each keeps is told in ``memory/baselines.py``.

Of all, budget: what a layer keeps, up to 1 a share of all tokens before the last scale, above 1 that many tokens;
model: the name of the model that gets the memory. All raise ``PlanError`` for a budget that is none, and as
``with_memory`` does; all else is refused by what draws or prices the plan.

>>> plan = snapkv(pipe.plan(guidance_scale=2.0), 0.5)  # doctest: +SKIP
>>> pipe(class_labels=["cat-face"], plan=plan)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from nextscale.errors import PlanError, quoted
from nextscale.methods.remember import tokens_of, with_memory
from nextscale.plan import Plan
from nextscale.values import is_whole, plain

WINDOW, KERNEL = 32, 5
"""SnapKV's, as its authors have them."""
SHARPEST = 20
"""PyramidKV's last layer keeps the window and this part of what layers keep beside it on average."""


def window(plan: Plan, budget: float, *, model: str = "model") -> Plan:
    """The last tokens."""
    return with_memory(plan, "window", {"budget": tokens_of(budget, plan)}, model=model)


def streaming(plan: Plan, budget: float, *, scales: int = 2, model: str = "model") -> Plan:
    """StreamingLLM (arXiv 2309.17453): the first ``scales`` whole, and the last tokens."""
    return with_memory(plan, "streaming", {"budget": tokens_of(budget, plan), "scales": scales}, model=model)


def h2o(plan: Plan, budget: float, *, per_query: bool = False, model: str = "model") -> Plan:
    """H2O (arXiv 2306.14048): half of the budget the last tokens, half those that got the most attention until now, in
    sum, or (per_query) on average over the queries that could see them.
    """
    return with_memory(plan, "h2o", {"budget": tokens_of(budget, plan), "per_query": per_query}, model=model)


def snapkv(
    plan: Plan,
    budget: float,
    *,
    window: int | None = None,
    kernel: int = KERNEL,
    grid: bool = False,
    model: str = "model",
) -> Plan:
    """SnapKV (arXiv 2404.14469): a window of the newest map, and the tokens that get the most attention of it, averaged
    over ``kernel`` neighbours.

    window: its last tokens (by default the authors' 32, at most half the budget), or (grid) the middles of a grid.
    """
    return with_memory(plan, "snapkv", _settings(plan, budget, window, kernel, grid), model=model)


def pyramidkv(
    plan: Plan,
    budget: float,
    *,
    least: int | None = None,
    window: int | None = None,
    kernel: int = KERNEL,
    grid: bool = False,
    model: str = "model",
) -> Plan:
    """PyramidKV (arXiv 2406.02069): SnapKV with equally fewer tokens from layer to layer, and the budget as their mean.

    least: tokens of the last layer (by default the window and a twentieth of the rest); the others as of
    :func:`snapkv`.
    """
    settings = _settings(plan, budget, window, kernel, grid)
    if least is None:
        least = settings["window"] + (settings["budget"] - settings["window"]) // SHARPEST
    return with_memory(plan, "pyramidkv", settings | {"least": least}, model=model)


def _settings(plan: Plan, budget: float, window: int | None, kernel: int, grid: bool) -> dict[str, Any]:
    tokens = tokens_of(budget, plan)
    window = plain(max(1, min(WINDOW, tokens // 2)) if window is None else window)
    if not is_whole(window):
        raise PlanError(f"window is {quoted(window)}; expected a number of tokens")
    return {"budget": tokens, "window": window, "kernel": kernel, "grid": grid}


BASELINES: Mapping[str, Callable[..., Plan]] = {
    one.__name__: one for one in (window, streaming, h2o, snapkv, pyramidkv)
}
