"""How well a generator predicts the tokens of real pictures, scale by scale, with the coarser scales given.

Shape letters: ``N`` images, ``B`` of one batch, ``L`` tokens of all scales, ``V`` codes, ``h w`` one token map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.measures.tokenizer import BATCH, Step, silent
from nextscale.models.base import NextScaleModel
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Score:
    """tokens: per image; loss: cross-entropy in nats per token; accuracy: share of tokens that were the likeliest."""

    tokens: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Scores:
    """A score over all tokens (every token weighs the same, so the last scales weigh most), and one per scale."""

    total: Score
    scales: tuple[Score, ...]

    @classmethod
    def of(cls, loss: Tensor, accuracy: Tensor, schedule: ScaleSchedule) -> Scores:
        """From the mean loss and accuracy (L,) of every position."""

        def score(part: slice) -> Score:
            return Score(len(loss[part]), float(loss[part].mean()), float(accuracy[part].mean()))

        return cls(score(slice(None)), tuple(score(schedule.slice(k)) for k in range(len(schedule))))


def token_scores(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (B, L) in nats, and the share of its draws (B, L) of which the likeliest choice was right.

    logits: (B, L, V) or (B, L, d, V); tokens: (B, L) or (B, L, d) int64. A token's cross-entropy is the mean
    over its draws.
    """
    loss = F.cross_entropy(logits.float().movedim(-1, 1), tokens, reduction="none")
    hits = (logits.argmax(-1) == tokens).double()
    return (loss, hits) if tokens.ndim == 2 else (loss.mean(-1), hits.mean(-1))


# no_grad and not inference_mode: the attention mask made here is kept and may serve a training step later.
@torch.no_grad()
def score_generator(
    model: NextScaleModel, tokenizer: Tokenizer, tokens: Sequence[Tensor], features: Features, step: Step = silent
) -> Scores:
    """Scores of ``model`` (in evaluation mode) on images given as token maps; nothing is dropped or smoothed.

    tokens: (N, h, w) or (N, h, w, d) int64, one per scale, as ``encode_all`` gives them; features: of the N images.
    """
    assert not model.training, "a model in training mode drops paths; call eval() first"
    device, schedule = next(model.parameters()).device, model.schedule
    loss = torch.zeros(schedule.tokens, dtype=torch.float64)
    hits = torch.zeros_like(loss)
    for start in range(0, features.images, BATCH):
        maps = [t[start : start + BATCH].to(device) for t in tokens]
        given = tokenizer.follow(maps, schedule).inputs
        batch = features.select(torch.arange(start, start + len(maps[0]))).to(device)
        logits = model(given, model.condition(batch, schedule=schedule), schedule)
        batch_loss, batch_hits = token_scores(logits, torch.cat([t.flatten(1, 2) for t in maps], 1))
        loss += batch_loss.cpu().double().sum(0)
        hits += batch_hits.cpu().double().sum(0)
        step(start + len(maps[0]), features.images)
    return Scores.of(loss / features.images, hits / features.images, schedule)
