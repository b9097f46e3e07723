"""A classifier that looks at pictures of what held-out images show.

Shape letters: ``N`` pictures, and as many held-out images; ``D`` features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.evaluation.subject import Judge, class_ids
from nextscale.measures.distances import features_of, frechet_distance, usual_distance
from nextscale.measures.recognition import Rate
from nextscale.measures.tokenizer import Images, signed_batches


@dataclass(frozen=True)
class Seen:
    """How often a classifier names what was asked for, and the Frechet distance to the held-out images in its features;
    styles: None where the data or the classifier know none.
    """

    classes: Rate
    styles: Rate | None
    frechet: float


@dataclass(frozen=True)
class Eye:
    """A classifier that looks at pictures of what the held-out images ``rows`` (N,) show. classes, styles: what these
    are called, as the classifier counts; features (N, D): of these images.
    """

    judge: Judge
    classes: Tensor
    styles: Tensor | None
    features: Tensor

    @classmethod
    def of(cls, judge: Judge, data: ImageData, rows: Tensor) -> Eye:
        """Raises ``InputError`` for a classifier that does not know the data's classes."""
        known = judge.network.config
        classes = class_ids(data.classes, known.names, "the classifier")[data.labels[rows]]
        styles = None
        if data.styles and known.styles:
            named = class_ids(data.styles, known.styles, "the classifier", "style")
            styles = named[data.style_labels[rows]]
        return cls(judge, classes, styles, _looked_at(judge, data, rows))

    @cached_property
    def real(self) -> Seen:
        """What is said of the held-out images."""
        return self._said(self.features)

    def seen(self, images: Tensor) -> Seen:
        """What is said of pictures uint8 (N, 3, H, W)."""
        return self._said(_looked_at(self.judge, images))

    @torch.no_grad()
    def _said(self, features: Tensor) -> Seen:
        network, unit = self.judge.network, usual_distance(self.features)
        said = network.named(features.to(next(network.parameters()).device))
        classes = Rate.of(said.classes.argmax(-1).cpu() == self.classes)
        styles = None if self.styles is None else Rate.of(said.styles.argmax(-1).cpu() == self.styles)
        return Seen(classes, styles, frechet_distance(features / unit, self.features / unit))


def _looked_at(judge: Judge, images: Images, rows: Tensor | None = None) -> Tensor:
    """Features (N, D) of all images, or of some."""
    device = next(judge.network.parameters()).device
    return features_of(judge.network, signed_batches(images, device, rows=rows))
