"""What a classifier says of generated images: are they what was asked for, are they new, are they like real ones?

Shape letters: ``N`` generated images, ``M`` held-out ones, ``D`` features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.conditions.classes import class_features
from nextscale.data.emoji_reader import families_of
from nextscale.data.images import ImageData
from nextscale.errors import InputError
from nextscale.evaluation.nearest import NearestPictures
from nextscale.evaluation.subject import (
    Judge,
    Progress,
    Sample,
    Subject,
    class_ids,
    labels_of,
    no_progress,
    sample_rows,
)
from nextscale.features.classifier import Prediction
from nextscale.generate import generate
from nextscale.measures.distances import farther, features_of, frechet_distance, named_by, usual_distance
from nextscale.measures.nearest import Neighbours
from nextscale.measures.recognition import Rate, Ratio, recognition, wide_classes
from nextscale.measures.tokenizer import BATCH, Images, Step, signed_batches, silent
from nextscale.methods.refine import refined_plan
from nextscale.plan import Plan
from nextscale.results import decode
from nextscale.sampling import IndependentNoise


@dataclass(frozen=True)
class GeneratedReport:
    """What :func:`judge_generated` measures. Image i was drawn with seed i and the ``sampling`` settings.

    class_ratio, style_ratio: recognition of the generated images that are no near copies, relative to held-out ones;
    classes over ``classes`` wide ones. None where nothing can be compared (no styles, say).
    copies: share of near copies; threshold: the distance they are told by; closer: share of the images nearer to a
    training image than half of the held-out ones are; farther: chance that a generated image is farther from the
    training images than a held-out one is.
    frechet: in the classifier's features, to the held-out images; frechet_train: that of as many training images.
    """

    source: Sample
    train_source: Sample
    images: int
    sampling: dict[str, Any]
    classes: int
    class_ratio: Ratio | None
    style_ratio: Ratio | None
    copies: Rate
    threshold: float
    closer: Rate
    farther: float
    frechet: float
    frechet_train: float


@dataclass(frozen=True)
class DrawnImages:
    """Generated images, uint8 (N, 3, H, W), with the labels of held-out ones: ``rows`` (N,) of these."""

    images: Tensor
    rows: Tensor


@dataclass(frozen=True)
class Originals:
    """What generated images are held against, and what the judge says of it; measured once for any number of models.

    families: of the held-out images; features (M, D), train_features: in ``unit``, the usual distance of two held-out
    images; said: what the held-out ones are named.
    """

    judge: Judge
    heldout: ImageData
    train: ImageData
    families: Sequence[str]
    unit: float
    features: Tensor
    train_features: Tensor
    said: Prediction

    @classmethod
    def of(
        cls, judge: Judge, folder: Path | str, heldout: ImageData, train: ImageData, show: Progress = no_progress
    ) -> Originals:
        """The two splits of the data in ``folder``."""
        found = _features(judge, "held-out", heldout, show), _features(judge, "training", train, show)
        unit = usual_distance(found[0])
        said = named_by(judge.network, signed_batches(heldout, _device(judge)))
        return cls(judge, heldout, train, families_of(folder, heldout), unit, found[0] / unit, found[1] / unit, said)


def judge_generated(
    subject: Subject, judge: Judge, folder: Path | str, heldout: ImageData, train: ImageData, count: int, show: Progress
) -> tuple[GeneratedReport, NearestPictures]:
    """Draw ``count`` images with the labels of held-out ones and hold them against held-out and training images.

    Raises ``InputError`` for fewer than 2 images, or a classifier that does not know the data's classes.
    """
    drawn = draw_like(subject, heldout, count, show)
    return judge_drawn(subject, drawn, Originals.of(judge, folder, heldout, train, show), show)


def draw_like(subject: Subject, heldout: ImageData, count: int, show: Progress) -> DrawnImages:
    """``count`` images with the labels of held-out ones, in their proportions. Raises ``InputError`` for fewer than 2
    images.
    """
    if count < 2 or len(heldout) < 2:
        raise InputError(
            f"{count} generated and {len(heldout)} held-out images; expected at least 2 of each to compare"
        )
    assert subject.model is not None
    assert subject.vocabulary is not None
    plan = refined_plan(subject.model, subject.tokenizer.stride, **subject.defaults)
    labels = labels_of(subject.vocabulary, heldout)
    rows = balanced_rows(labels, count)
    with show("generating", "images") as step:
        return DrawnImages(draw_images(subject, plan, labels[rows], step), rows)


def judge_drawn(
    subject: Subject, drawn: DrawnImages, originals: Originals, show: Progress
) -> tuple[GeneratedReport, NearestPictures]:
    """Hold what a subject drew against held-out and training images, at the size of these.

    Raises ``InputError`` for a classifier that does not know the data's classes.
    """
    assert subject.vocabulary is not None
    judge, heldout, train, rows = originals.judge, originals.heldout, originals.train, drawn.rows
    images = at_size(drawn.images, heldout.resolution)
    features = _features(judge, "generated", images, show) / originals.unit
    asked = [label_name(heldout, row, bool(subject.vocabulary.styles)) for row in rows.tolist()]
    near = Neighbours.of(features, originals.features, originals.train_features)
    new, families = ~near.copies, originals.families
    known = class_ids(heldout.classes, judge.network.config.names, "the classifier")[heldout.labels]
    said, said_of_real = named_by(judge.network, signed_batches(images, _device(judge))), originals.said
    wide = wide_classes(heldout.labels, families)
    kept = new & torch.isin(heldout.labels[rows], wide)
    right, right_of_real = said.classes == known[rows], said_of_real.classes == known
    styles = None
    if _has_styles(subject, judge, heldout):
        known = class_ids(heldout.styles, judge.network.config.styles, "the classifier", "style")[heldout.style_labels]
        right_style, style_labels = (said.styles == known[rows])[new], heldout.style_labels
        styles = recognition(right_style, style_labels[rows][new], said_of_real.styles == known, style_labels, families)
    report = GeneratedReport(
        source=Sample.of(heldout),
        train_source=Sample.of(train),
        images=len(rows),
        sampling=dict(subject.defaults),
        classes=len(wide),
        class_ratio=recognition(right[kept], heldout.labels[rows][kept], right_of_real, heldout.labels, families),
        style_ratio=styles,
        copies=Rate.of(near.copies),
        threshold=near.threshold,
        closer=Rate.of(near.distances[:, 0] < near.heldout.median()),
        farther=farther(near.distances[:, 0], near.heldout),
        frechet=frechet_distance(features, originals.features),
        frechet_train=frechet_distance(
            originals.train_features[sample_rows(len(train), len(rows))], originals.features
        ),
    )
    return report, NearestPictures(images, tuple(asked), near, train)


def balanced_rows(labels: Tensor, count: int) -> Tensor:
    """``count`` rows (N,) of ``labels`` (M,), ordered by label, with every label's share as it is in ``labels`` (to
    within one image).
    """
    places = (torch.arange(count, dtype=torch.float64) + 0.5) * len(labels) / count
    return labels.argsort(stable=True)[places.long()]


def draw_images(subject: Subject, plan: Plan, labels: Tensor, step: Step = silent) -> Tensor:
    """Images of ``labels`` (N,), uint8 (N, 3, H, W) on the CPU as a PNG would hold them; image i has seed i."""
    return draw_shown(subject, plan, class_features(labels).select, len(labels), step)


def draw_shown(
    subject: Subject, plan: Plan, shown: Callable[[Tensor], Features], count: int, step: Step = silent
) -> Tensor:
    """The same of ``count`` images; shown: what the images ``rows`` (B,) are to show."""
    assert subject.model is not None
    parts, device = {"tokenizer": subject.tokenizer, "model": subject.model}, next(subject.model.parameters()).device
    drawn = []
    for rows in torch.arange(count).split(BATCH):
        *_, last = generate(plan, parts, shown(rows).to(device), IndependentNoise(rows.tolist()))
        drawn.append((decode(subject.tokenizer, last.canvas) * 255).round().clamp(0, 255).byte().cpu())
        step(int(rows[-1]) + 1, count)
    return torch.cat(drawn)


def at_size(images: Tensor, side: int) -> Tensor:
    """Images uint8 (N, 3, H, W) at the size of those they are held against, by area."""
    if images.shape[2:] == (side, side):
        return images
    return torch.cat(
        [F.interpolate(some.float(), (side, side), mode="area").round().byte() for some in images.split(BATCH)]
    )


def _device(judge: Judge) -> torch.device:
    return next(judge.network.parameters()).device


def _features(judge: Judge, title: str, some: Images, show: Progress) -> Tensor:
    with show(f"features of {title} images", "images") as step:
        return features_of(judge.network, signed_batches(some, _device(judge), step))


def label_name(data: ImageData, row: int, styled: bool) -> str:
    """Class, and style where the model draws in styles, of one image."""
    name = data.classes[int(data.labels[row])]
    return f"{name}, {data.styles[int(data.style_labels[row])]}" if styled else name


def _has_styles(subject: Subject, judge: Judge, data: ImageData) -> bool:
    """Whether model, classifier and data all know styles."""
    return bool(subject.vocabulary and subject.vocabulary.styles and judge.network.config.styles and data.styles)
