"""Training a direct tokenizer: several maps of an image are decoded on their own (arXiv 2502.20313, section 3.2).

A step has the latent's own map and some smaller ones, whose sides it draws for all of its images. Each is quantised
with the one codebook, decoded, and held against the images in its size.

Shape letter: ``B`` batch. Images are (B, 3, H, W) in [-1, 1].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.direct import DirectTokenizer
from nextscale.training.objectives.codebook import CodebookObjective
from nextscale.training.order import SampleNoise


class DirectObjective(CodebookObjective):
    """See the module's docstring. maps: how many a step decodes, or all sides where there are fewer.

    The use of codes is that of the tokenizer's own scales, whatever maps are drawn.
    """

    module: DirectTokenizer

    def __init__(self, *arguments: Any, maps: int) -> None:
        super().__init__(*arguments)
        self.maps = maps

    def passed(self, model: nn.Module, images: Tensor, noise: SampleNoise) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        _, (found, pictures), tokens = model(images, self.drawn(noise))
        return pictures, torch.stack([one.vq + one.commit + one.entropy for one in found]).sum(), tokens

    def drawn(self, noise: SampleNoise) -> ScaleSchedule:
        """The maps of a step: sides that are all equally likely, and the latent's own."""
        side = self.module.schedule.grid[0]
        others = 1 + noise.shared(side - 1).argsort()[: self.maps - 1]
        return ScaleSchedule.of([*sorted(others.tolist()), side])
