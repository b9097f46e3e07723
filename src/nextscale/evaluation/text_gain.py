"""What a text is worth to a model: by how much it predicts held-out drawings better with their texts than without."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.evaluation.drawings import Drawings
from nextscale.evaluation.subject import Progress
from nextscale.measures.generator import score_images
from nextscale.measures.paired import Difference
from nextscale.models.base import NextScaleModel
from nextscale.tokenizers.base import Tokenizer

SIDES = {"cell": "held-out cells", "family": "held-out families"}


def text_gain(
    model: NextScaleModel,
    tokenizer: Tokenizer,
    tokens: Sequence[Tensor],
    shown: Callable[[Tensor], Features],
    losses: Tensor,
    drawings: Drawings,
    progress: Progress,
) -> dict[str, Difference]:
    """Loss without the text minus loss with it, in nats per image, by the side that images are held out on.

    tokens, shown: of the held-out images, as ``score_generator`` takes them; losses: (N,) of each with its text. A text
    that is left out is the model's null, as in training.
    """

    def untold(rows: Tensor) -> Features:
        features = shown(rows)
        return features.drop("text", torch.ones(features.images, dtype=torch.bool))

    with progress("predicting without texts", "images") as step:
        without = score_images(model, tokenizer, tokens, untold, step)[1]
    heldout = [row for row, side in enumerate(drawings.sides) if side != "train"]
    found = dict[str, Difference]()
    for side, name in SIDES.items():
        here = [i for i, row in enumerate(heldout) if drawings.sides[row] == side]
        families = [drawings.records[heldout[i]]["family"] for i in here]
        if here:
            found[name] = Difference.of((without - losses)[here], families)
    return found
