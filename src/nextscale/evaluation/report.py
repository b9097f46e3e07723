"""What ``nextscale evaluate`` measures, and all that it takes to judge and repeat it; ``table.py`` makes text of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextscale import __version__
from nextscale.conditions.base import Features
from nextscale.data.emoji_reader import holds_emoji
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData, check_split, existing_folder
from nextscale.errors import InputError
from nextscale.evaluation.bars import PICTURES, Bar, BarsReport, judge_text
from nextscale.evaluation.bench import SEEDS, Sheet
from nextscale.evaluation.drawings import Drawings
from nextscale.evaluation.generated import GeneratedReport, judge_generated
from nextscale.evaluation.nearest import NearestPictures
from nextscale.evaluation.painting import PaintedPictures, PaintingReport, judge_painting
from nextscale.evaluation.speed import forward_flops, matmul_peak
from nextscale.evaluation.subject import (
    Judge,
    Progress,
    Sample,
    Subject,
    no_progress,
    sample_rows,
    square_resolution,
)
from nextscale.evaluation.text_gain import text_gain
from nextscale.evaluation.tokenizer_report import TokenizerReport, tokenizer_report
from nextscale.measures.generator import Scores, score_generator, score_images
from nextscale.measures.paired import Difference
from nextscale.measures.tokenizer import CodeUse

PSNR_BAR, STYLE_PSNR_BAR, USE_BAR, PERPLEXITY_BAR = 23.0, 21.0, 0.95, 0.3
"""What the bundled tokenizer must reach: dB on held-out images, over all and in every style; share of the codes in use
and perplexity / codes in training."""
CLASS_BAR, STYLE_BAR = 0.7, 0.95
"""How often the class and the style of generated images must be recognised, relative to held-out images."""


@dataclass(frozen=True)
class GeneratorReport:
    """scores: of the split; train: of as many images of the training split, None where that is no comparison.

    peak_share: FLOP/s of the evaluation as a share of what matrix products of this machine reach in the same precision.
    text_gain: by the side of an emoji set, what the text is worth, in nats per image (see ``text_gain.py``).
    """

    source: Sample
    scores: Scores
    train_source: Sample | None
    train: Scores | None
    uniform_loss: float
    images_per_second: float
    tokens_per_second: float
    peak_share: float
    text_gain: Mapping[str, Difference] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and on what. ``settings`` is plain data; ``neighbours``, ``sheets`` and ``painted``
    are what pictures are made of, and no part of the numbers.
    """

    settings: dict[str, Any]
    scales: tuple[str, ...]
    tokenizer: TokenizerReport
    against: TokenizerReport | None = None
    generator: GeneratorReport | None = None
    generated: GeneratedReport | None = None
    from_text: BarsReport | None = None
    neighbours: NearestPictures | None = None
    sheets: Mapping[str, Sheet] = field(default_factory=dict)
    painting: PaintingReport | None = None
    painted: PaintedPictures | None = None

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The bars that apply: PSNR and distance for held-out images only. Of the emoji that are held out from a model
        of texts, its tokenizer has seen many.
        """
        t, other, bars = self.tokenizer, self.against, list[Bar]()
        of_texts = self.generator is not None and bool(self.generator.text_gain)
        if t.source.split == "heldout" and not of_texts:
            bars.append(Bar("PSNR, dB", t.psnr.mean, PSNR_BAR))
            if t.styles:
                worst = min(t.styles, key=lambda style: style.psnr.mean)
                bars.append(Bar(f"PSNR of the worst style ({worst.name}), dB", worst.psnr.mean, STYLE_PSNR_BAR))
            if t.distance and other and other.distance:
                ratio = other.distance.mean / max(t.distance.mean, 1e-12)
                bars.append(Bar(f"distance of {other.name} / distance", ratio, 1.0))
        if isinstance(t.use, CodeUse):
            bars.append(Bar("codes in use", t.use.share, USE_BAR))
            bars.append(Bar("perplexity / codes", t.use.perplexity / t.codes, PERPLEXITY_BAR))
        if self.generated and self.generated.class_ratio:
            bars.append(Bar("class recognised, ratio", self.generated.class_ratio.value, CLASS_BAR))
        if self.generated and self.generated.style_ratio:
            bars.append(Bar("style recognised, ratio", self.generated.style_ratio.value, STYLE_BAR))
        if self.painting:
            bars += [Bar(*bar) for bar in self.painting.bars()]
        return (*bars, *(self.from_text.bars if self.from_text else ()))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: everything the table shows."""
        whole = asdict(replace(self, neighbours=None, sheets={}, painted=None))
        del whole["neighbours"], whole["sheets"], whole["painted"]
        return whole | {"bars": [asdict(bar) | {"met": bar.met} for bar in self.bars]}


def evaluate(
    subject: Subject,
    folder: Path | str,
    split: str = "heldout",
    progress: Progress = no_progress,
    *,
    judge: Judge | None = None,
    against: Subject | None = None,
    generated: int | None = None,
    painting: bool = False,
    skip_small: bool = False,
) -> Report:
    """Measure ``subject`` (modules in evaluation mode) on a split of the data in ``folder`` (see ``load_data``).

    judge: a classifier to measure distances with; against: another tokenizer to measure as well; generated: how many
    images to draw and judge, for the held-out split only (see :func:`images_to_draw`); painting: whether to paint in
    images of the split, and hold them against what they were; skip_small: leave out images smaller than the resolution.
    Raises ``InputError`` if there is no such folder or split, the images do not fit the tokenizers' resolution, the
    model or the classifier does not know the data's classes, or images are to be judged without a generator or a judge.
    """
    check_split(split)
    existing_folder(folder)
    count = images_to_draw(subject, folder, split, judge, generated)
    _check(subject, split, judge, against, folder, count, painting)
    resolution = square_resolution(subject.tokenizer)
    read = partial(load_data, folder, resolution, skip_small=skip_small, captions=subject.reads_captions)
    data = read(split)
    train = data if split == "train" else read("train")
    shown = None if subject.model is None else (subject.shown(data), subject.shown(train))
    tokenizer, *tokens = tokenizer_report(subject, data, train, judge, progress)
    sample = sample_rows(len(train), len(data))
    report = Report(_settings(subject, folder, data, train, judge), tokenizer.scales, tokenizer)
    if against is not None:
        report = replace(report, against=tokenizer_report(against, data, train, judge, progress)[0])
    drawings = Drawings.of(folder, data, train) if split == "heldout" and draws_emoji(subject, folder) else None
    if shown is not None:
        of_split, of_train = shown
        training = EncodedSplit(train, tokens[1], lambda rows: of_train(sample[rows]))
        seen = EncodedSplit(data, tokens[0], of_split), training
        report = replace(report, generator=_generator_report(subject, *seen, drawings, progress))
    if count:
        assert judge is not None
        if drawings is not None:
            judged, sheets = judge_text(subject, judge, drawings, count, progress)
            report = replace(report, from_text=judged, sheets=sheets)
        else:
            of_classes, neighbours = judge_generated(subject, judge, folder, data, train, count, progress)
            report = replace(report, generated=of_classes, neighbours=neighbours)
    if painting:
        assert shown is not None
        painted = judge_painting(subject, judge, folder, data, tokens[0], shown[0], progress)
        report = replace(report, painting=painted[0], painted=painted[1])
    return report


def draws_emoji(subject: Subject, folder: Path | str) -> bool:
    """Whether a model draws from text, and the data are an emoji set: then its pictures have bars of their own."""
    return subject.model is not None and subject.reads_captions and holds_emoji(folder)


def images_to_draw(subject: Subject, folder: Path | str, split: str, judge: Judge | None, generated: int | None) -> int:
    """How many images to draw: as many as asked for, by default none; of emoji drawn from text, ``PICTURES`` for each
    bar where they can be judged.
    """
    if generated is None:
        return PICTURES if split == "heldout" and judge is not None and draws_emoji(subject, folder) else 0
    return generated


@dataclass(frozen=True)
class EncodedSplit:
    """Images of a split as token maps (N, h, w) or (N, h, w, d), one per scale; shown: what the images ``rows`` of
    these show, see ``Subject``.
    """

    data: ImageData
    tokens: list[Tensor]
    shown: Callable[[Tensor], Features]


def _check(
    subject: Subject,
    split: str,
    judge: Judge | None,
    against: Subject | None,
    folder: Path | str,
    generated: int,
    painting: bool,
) -> None:
    """Refuse what cannot be measured before any work is done."""
    resolution = square_resolution(subject.tokenizer)
    if against is not None and square_resolution(against.tokenizer) != resolution:
        other = square_resolution(against.tokenizer)
        raise InputError(
            f"{against.name} keeps images of {other} pixels; expected {resolution}, as {subject.name} does"
        )
    if painting and subject.model is None:
        raise InputError(f"{subject.name} is a tokenizer alone; expected a model with a generator to paint with")
    if not generated:
        return
    if subject.model is None:
        raise InputError(f"{subject.name} is a tokenizer alone; expected a model with a generator to judge its images")
    emoji = draws_emoji(subject, folder)
    if emoji and generated % SEEDS:
        raise InputError(
            f"{generated} images of each bar are to be drawn; expected a multiple of {SEEDS}, the seeds of each prompt"
        )
    if subject.vocabulary is None and not emoji:
        raise InputError(
            f"generated images are judged by the classes they were asked for, and {subject.name} reads captions; "
            "expected a model of classes, or no --generated"
        )
    if judge is None:
        raise InputError("generated images are judged by a classifier, and none is at hand; name one with --classifier")
    if split != "heldout":
        raise InputError(f"generated images are held against held-out ones; expected the split heldout, not {split}")


def _generator_report(
    subject: Subject, split: EncodedSplit, training: EncodedSplit, drawings: Drawings | None, progress: Progress
) -> GeneratorReport:
    model = subject.model
    assert model is not None
    start = time.perf_counter()
    with progress("predicting", "images") as step:
        scores, losses = score_images(model, subject.tokenizer, split.tokens, split.shown, step)
    speed = len(split.data) / (time.perf_counter() - start)
    train_scores = train_source = None
    if split.data.split == "heldout":
        train_source = Sample.of(training.data, len(training.tokens[0]))
        with progress("predicting training images", "images") as step:
            train_scores = score_generator(model, subject.tokenizer, training.tokens, training.shown, step)
    gain = dict[str, Difference]()
    if drawings is not None:
        gain = text_gain(model, subject.tokenizer, split.tokens, split.shown, losses, drawings, progress)
    weight = next(model.parameters())
    return GeneratorReport(
        source=Sample.of(split.data),
        scores=scores,
        train_source=train_source,
        train=train_scores,
        uniform_loss=math.log(subject.tokenizer.choices),
        images_per_second=speed,
        tokens_per_second=speed * model.schedule.tokens,
        peak_share=speed * forward_flops(model) / matmul_peak(weight.device, weight.dtype),
        text_gain=gain,
    )


def _settings(
    subject: Subject, folder: Path | str, data: ImageData, train: ImageData, judge: Judge | None
) -> dict[str, Any]:
    weight = next(subject.tokenizer.parameters())
    return {
        "model": subject.name,
        "revision": subject.revision,
        "classifier": None if judge is None else judge.name,
        "classifier_revision": None if judge is None else judge.revision,
        "device": str(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "data": str(folder),
        "pixels": f"{data.resolution}x{data.resolution}",
        "background": "white",
        "split": data.split,
        "images": len(data),
        "data_hash": data.hash,
        **({"captions_hash": data.caption_hash} if subject.reads_captions else {}),
        "train_images": len(train),
        "train_hash": train.hash,
        "classes": len(data.classes),
        "styles": list(data.styles),
        "unreadable": len(set(data.unreadable) | set(train.unreadable)),
        "nextscale": __version__,
        "torch": torch.__version__,
    }
