"""How well a plan predicts the tokens of real pictures: the loop carries it out, and is told every token that it draws.

What the plan does to a model (its memory, the blocks that run) acts as it does when pictures are drawn, since it is the
same loop; a plain plan has the loss of ``score_images``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.errors import PlanError
from nextscale.generate import generate
from nextscale.measures.generator import Scores, token_scores
from nextscale.measures.tokenizer import BATCH, Step, silent
from nextscale.plan import Plan
from nextscale.sampling import Noise, Uniform


class Told(Noise):
    """No noise: at scale k the tokens (B, h, w) or (B, h, w, d) are drawn that stand here."""

    def __init__(self, tokens: Sequence[Tensor]) -> None:
        self.tokens = tokens

    def pick(self, probs: Tensor, k: int, p: int = 0) -> Tensor:
        return self.tokens[k].flatten(1, 2)

    def gumbel(self, like: Tensor, k: int, p: int = 0) -> Tensor:
        raise AssertionError("smooth plans are refused")

    def for_cull(self, k: int, row: int) -> Uniform:
        raise AssertionError("plans with candidates are refused")

    def select(self, rows: Tensor) -> Told:
        return Told([maps[rows.to(maps.device)] for maps in self.tokens])


def score_plan(
    plan: Plan,
    parts: Mapping[str, Any],
    tokens: Sequence[Tensor],
    shown: Callable[[Tensor], Features],
    step: Step = silent,
) -> tuple[Scores, Tensor]:
    """Scores of images (N) under a plan of one pass per scale, and the cross-entropy of each, (N,) float64 in nats: the
    sum over all draws of all its tokens.

    parts: as ``generate`` takes them; tokens: one map per scale, as ``encode_all`` gives them; shown: the features of
    the images ``rows`` (B,). Logits count as the plan guides them; temperature, top-k and top-p do not count. Raises
    ``PlanError`` for a plan of several passes, of smooth sampling or of candidates, whose tokens cannot be told.
    """
    _check(plan)
    device, images, model = next(parts["model"].parameters()).device, len(tokens[0]), parts["model"]
    losses, hits = list[Tensor](), torch.zeros(plan.schedule.tokens, dtype=torch.float64)
    for rows in torch.arange(images).split(BATCH):
        true = [maps[rows].to(device) for maps in tokens]
        found = [
            token_scores(event.logits, true[event.k].flatten(1, 2))
            for event in generate(plan, parts, shown(rows).to(device), Told(true))
        ]
        loss, hit = (torch.cat(some, 1).cpu().double() for some in zip(*found, strict=True))
        losses.append(loss)
        hits += hit.sum(0)
        step(int(rows[-1]) + 1, images)
    every = torch.cat(losses)
    return Scores.of(every.mean(0), hits / images, plan.schedule), every.sum(1) * model.draws


def _check(plan: Plan) -> None:
    """Refuse what draws no tokens that stand, or more than one for each."""
    if max(plan.alive) > 1:
        raise PlanError("the plan chooses among candidates; expected one candidate per prompt where tokens are told")
    for k, row in enumerate(plan.rows):
        if row.smooth is not None:
            raise PlanError(f"row {k} samples smoothly; expected one that draws tokens, which alone can be told")
        if len(row.passes or ()) > 1:
            raise PlanError(f"row {k} has {len(row.passes or ())} passes; expected one where tokens are told")
