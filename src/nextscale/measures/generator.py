"""How well a generator predicts the tokens of real pictures, scale by scale, with the coarser scales given.

Shape letters: ``N`` images, ``B`` of one batch, ``L`` tokens of all scales, ``V`` codes, ``h w`` one token map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.measures.tokenizer import BATCH, Step, silent
from nextscale.models.base import Blocks, NextScaleModel
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Encoded, Tokenizer


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

    @classmethod
    def mean(cls, parts: Sequence[Scores], images: Sequence[int]) -> Scores:
        """Of so many images each, whose schedules differ; every token weighs the same here, too."""
        if len(parts) == 1:
            return parts[0]

        def mean(scores: Sequence[Score]) -> Score:
            tokens = [score.tokens * count for score, count in zip(scores, images, strict=True)]
            loss, accuracy = (
                sum(getattr(score, name) * n for score, n in zip(scores, tokens, strict=True)) / sum(tokens)
                for name in ("loss", "accuracy")
            )
            return Score(round(sum(tokens) / sum(images)), loss, accuracy)

        scales = zip(*(part.scales for part in parts), strict=True)
        return cls(mean([part.total for part in parts]), tuple(map(mean, scales)))


def token_scores(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (B, L) in nats, and the share of its draws (B, L) of which the likeliest choice was right.

    logits: (B, L, V) or (B, L, d, V); tokens: (B, L) or (B, L, d) int64. A token's cross-entropy is the mean
    over its draws.
    """
    loss = F.cross_entropy(logits.float().movedim(-1, 1), tokens, reduction="none")
    hits = (logits.argmax(-1) == tokens).double()
    return (loss, hits) if tokens.ndim == 2 else (loss.mean(-1), hits.mean(-1))


def score_batches(
    model: NextScaleModel,
    batches: Iterable[tuple[Encoded, Features]],
    step: Callable[[int], None] = lambda done: None,
    blocks: Sequence[Blocks] | None = None,
) -> Scores:
    """Scores of ``model`` (in evaluation mode) on images as walks over the scales, with what they show; those of a
    batch have one schedule. Nothing is dropped or smoothed.

    step: called with the images done so far; blocks: which run at each scale, as a plan's rows say it (None: all).
    """
    return _measured(model, batches, step, blocks)[0]


def score_generator(
    model: NextScaleModel,
    tokenizer: Tokenizer,
    tokens: Sequence[Tensor],
    shown: Callable[[Tensor], Features],
    step: Step = silent,
    blocks: Sequence[Blocks] | None = None,
) -> Scores:
    """The same for images given as token maps.

    tokens: (N, h, w) or (N, h, w, d) int64, one per scale, as ``encode_all`` gives them; shown: the features of the
    images ``rows`` (B,) of these.
    """
    return score_images(model, tokenizer, tokens, shown, step, blocks)[0]


def score_images(
    model: NextScaleModel,
    tokenizer: Tokenizer,
    tokens: Sequence[Tensor],
    shown: Callable[[Tensor], Features],
    step: Step = silent,
    blocks: Sequence[Blocks] | None = None,
) -> tuple[Scores, Tensor]:
    """The scores of :func:`score_generator`, and the cross-entropy of each image, (N,) float64 in nats: the sum over
    all draws of all its tokens.
    """
    device, images = next(model.parameters()).device, len(tokens[0])

    def batches() -> Iterator[tuple[Encoded, Features]]:
        for rows in torch.arange(images).split(BATCH):
            yield tokenizer.follow([t[rows].to(device) for t in tokens], model.schedule), shown(rows)

    return _measured(model, batches(), lambda done: step(done, images), blocks)


# no_grad and not inference_mode: the attention mask made here is kept and may serve a training step later.
@torch.no_grad()
def _measured(
    model: NextScaleModel,
    batches: Iterable[tuple[Encoded, Features]],
    step: Callable[[int], None],
    blocks: Sequence[Blocks] | None,
) -> tuple[Scores, Tensor]:
    assert not model.training, "a model in training mode drops paths; call eval() first"
    device, done, losses = next(model.parameters()).device, 0, list[Tensor]()
    sums: dict[ScaleSchedule, tuple[Tensor, Tensor]] = {}
    images: dict[ScaleSchedule, int] = {}
    for encoded, features in batches:
        schedule = encoded.canvas.schedule
        logits = model(encoded.inputs, model.condition(features.to(device), schedule=schedule), schedule, blocks)
        scores = token_scores(logits, torch.cat([t.flatten(1, 2) for t in encoded.tokens], 1))
        loss, hits = (score.cpu().double() for score in scores)
        zeros = torch.zeros(2, schedule.tokens, dtype=torch.float64)
        before = sums.get(schedule, (zeros[0], zeros[1]))
        sums[schedule] = before[0] + loss.sum(0), before[1] + hits.sum(0)
        images[schedule] = images.get(schedule, 0) + features.images
        losses.append(loss.sum(1) * model.draws)
        done += features.images
        step(done)
    total = Scores.mean(
        [Scores.of(loss / images[one], hits / images[one], one) for one, (loss, hits) in sums.items()],
        list(images.values()),
    )
    return total, torch.cat(losses)
