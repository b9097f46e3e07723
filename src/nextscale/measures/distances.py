"""Distances of images in a classifier's features, and what a set of distances says.

Shape letters: ``N`` and ``M`` images, ``D`` features, ``B`` one batch.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from nextscale.features.classifier import Classifier, Prediction

ROWS = 256
"""Images whose distances to all others are held in memory at once."""


@torch.no_grad()
def features_of(network: Classifier, batches: Iterable[Tensor]) -> Tensor:
    """Features (N, D), float32 on the CPU, of images that come in batches (B, 3, H, W) in [-1, 1]."""
    device = next(network.parameters()).device
    return torch.cat([network.features(images.to(device)).float().cpu() for images in batches])


@torch.no_grad()
def named_by(network: Classifier, batches: Iterable[Tensor]) -> Prediction:
    """The likeliest class and style, (N,) int64 on the CPU, as the network counts them; -1 where it knows no styles."""
    device, classes, styles = next(network.parameters()).device, list[Tensor](), list[Tensor]()
    for images in batches:
        said = network(images.to(device))
        classes.append(said.classes.argmax(-1).cpu())
        known = said.styles.shape[1] > 0
        styles.append(said.styles.argmax(-1).cpu() if known else torch.full_like(classes[-1], -1))
    return Prediction(torch.cat(classes), torch.cat(styles))


def usual_distance(features: Tensor) -> float:
    """The root mean square distance of two images of ``features`` (N, D) picked at random: the unit of distances here.

    It is sqrt(2 sum of the variances of the features).
    """
    return max(1e-12, float(2 * features.double().var(0, correction=0).sum()) ** 0.5)


def nearest(features: Tensor, among: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
    """Distances and rows, both (N, count), of the ``count`` nearest of ``among`` (M, D) to every one of ``features``
    (N, D); the nearest first.
    """
    found = [
        # by differences: products of features would lose the small distances that copies have
        torch.cdist(part, among, compute_mode="donot_use_mm_for_euclid_dist").topk(count, largest=False)
        for part in features.split(ROWS)
    ]
    return torch.cat([near.values for near in found]), torch.cat([near.indices for near in found])


def farther(a: Tensor, b: Tensor) -> float:
    """The chance that one of ``a`` (N,) is larger than one of ``b`` (M,), ties counted half: the area under the ROC."""
    ordered, a = b.sort().values, a.contiguous()
    below = torch.searchsorted(ordered, a) + torch.searchsorted(ordered, a, right=True)
    return float(below.double().mean()) / (2 * len(b))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of the Gaussians fitted to ``a`` (N, D) and ``b`` (M, D), N and M at least 2.

    |mean difference|^2 + tr(A + B - 2 (A B)^1/2), as the FID (arXiv 1706.08500), which takes the features of Inception.
    """
    a, b = a.double(), b.double()
    values, vectors = torch.linalg.eigh(torch.cov(a.T))
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    covariance = torch.cov(b.T)
    product = torch.linalg.eigvalsh(root @ covariance @ root).clamp_min(0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + values.sum() + covariance.trace() - 2 * product)
