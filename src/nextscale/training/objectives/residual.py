"""Training a residual tokenizer: all scales are drawn on one canvas, and the finished one is decoded."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from nextscale.tokenizers.residual import ResidualTokenizer
from nextscale.training.objectives.codebook import CodebookObjective
from nextscale.training.order import SampleNoise


class ResidualObjective(CodebookObjective):
    """See the module's docstring."""

    module: ResidualTokenizer

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Latents have no scale of their own, but where a tokenizer learns it is near 0.1.
        self.ignorance["vq"] = 20.0

    def passed(self, model: nn.Module, images: Tensor, noise: SampleNoise) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        reconstruction, vq, tokens = model(images)
        return [reconstruction], vq, tokens
