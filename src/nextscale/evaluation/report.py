"""What ``nextscale evaluate`` measures, and all that it takes to judge and repeat it; ``table.py`` makes text of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextscale import __version__
from nextscale.data.folder import ImageData, load_data
from nextscale.data.images import check_split, existing_folder
from nextscale.errors import InputError
from nextscale.evaluation.generator import Scores, class_ids, sample_rows, score_generator
from nextscale.evaluation.speed import forward_flops, matmul_peak
from nextscale.evaluation.tokenizer import CodeUse, Spread, Step, code_use, encode_all, reconstruction_psnr, silent
from nextscale.models.base import NextScaleModel
from nextscale.tokenizers.base import Tokenizer

Progress = Callable[[str, str], AbstractContextManager[Step]]
"""``progress(title, unit)`` is entered for every stage and gives the ``step(done, total)`` of that stage."""

PSNR_BAR, USE_BAR, PERPLEXITY_BAR = 22.0, 0.95, 0.3
"""What the bundled tokenizer must reach: dB on held-out images; share in use and perplexity / codes in training."""


@contextmanager
def no_progress(title: str, unit: str) -> Iterator[Step]:
    """The progress nobody looks at."""
    yield silent


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a tokenizer, and perhaps the generator that draws with it and the names of its classes."""

    name: str
    revision: str
    tokenizer: Tokenizer
    model: NextScaleModel | None = None
    classes: Sequence[str] = ()


@dataclass(frozen=True)
class Source:
    """The images a number was measured on; data_hash is the whole split's, of which ``images`` may be a sample."""

    split: str
    images: int
    data_hash: str


@dataclass(frozen=True)
class TokenizerReport:
    """psnr: drawn from all scales; psnr_by_scale: from the first k; codes: of the training split."""

    source: Source
    psnr: Spread
    psnr_by_scale: tuple[Spread, ...]
    images_per_second: float
    codes_source: Source
    codes: int
    use: CodeUse
    use_by_scale: tuple[CodeUse, ...]


@dataclass(frozen=True)
class GeneratorReport:
    """scores: of the split; train: of as many images of the training split, None where that is no comparison.

    peak_share: FLOP/s of the evaluation as a share of what matrix products of this machine reach in the same precision.
    """

    source: Source
    scores: Scores
    train_source: Source | None
    train: Scores | None
    uniform_loss: float
    images_per_second: float
    tokens_per_second: float
    peak_share: float


@dataclass(frozen=True)
class Bar:
    """A number that should be at least so large."""

    name: str
    value: float
    at_least: float

    @property
    def met(self) -> bool:
        return self.value >= self.at_least


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and on what. ``settings`` is plain data."""

    settings: dict[str, Any]
    scales: tuple[str, ...]
    tokenizer: TokenizerReport
    generator: GeneratorReport | None

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The bars that apply: that of the PSNR stands for held-out images only."""
        t = self.tokenizer
        bars = [Bar("PSNR, dB", t.psnr.mean, PSNR_BAR)] if t.source.split == "heldout" else []
        bars += [Bar("codes in use", t.use.share, USE_BAR)]
        return (*bars, Bar("perplexity / codes", t.use.perplexity / t.codes, PERPLEXITY_BAR))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: everything the table shows."""
        whole = asdict(self)
        return whole | {"bars": [asdict(bar) | {"met": bar.met} for bar in self.bars]}


def evaluate(subject: Subject, folder: Path | str, split: str = "heldout", progress: Progress = no_progress) -> Report:
    """Measure ``subject`` (modules in evaluation mode) on a split of the data in ``folder`` (see ``load_data``).

    Raises ``InputError`` if there is no such folder or split, the images do not fit the tokenizer's resolution, or the
    model does not know the data's classes.
    """
    check_split(split)
    existing_folder(folder)
    resolution = square_resolution(subject.tokenizer)
    data = load_data(folder, resolution, split)
    train = data if split == "train" else load_data(folder, resolution, "train")
    ids = None if subject.model is None else class_ids(data.classes, subject.classes)
    tokenizer, tokens, train_tokens = _tokenizer_report(subject.tokenizer, data, train, progress)
    generator = None
    if ids is not None:
        seen = Encoded(data, tokens, ids[data.labels]), Encoded(train, train_tokens, ids[train.labels])
        generator = _generator_report(subject, *seen, progress)
    sizes = tuple(f"{h}x{w}" for h, w in subject.tokenizer.schedule)
    return Report(_settings(subject, folder, data, train), sizes, tokenizer, generator)


@dataclass(frozen=True)
class Encoded:
    """A split as token maps (N, h, w), one per scale, with the model's class ids (N,)."""

    data: ImageData
    tokens: list[Tensor]
    labels: Tensor


def square_resolution(tokenizer: Tokenizer) -> int:
    """Side of the images in pixels. Raises ``InputError`` if they are not square; no reader of data has others."""
    h, w = (side * tokenizer.stride for side in tokenizer.schedule.grid)
    if h != w:
        raise InputError(f"the model draws {h}x{w} pixels; expected square images to evaluate on")
    return h


def _tokenizer_report(
    tokenizer: Tokenizer, data: ImageData, train: ImageData, progress: Progress
) -> tuple[TokenizerReport, list[Tensor], list[Tensor]]:
    """The report, and the token maps of the split and of the training split."""
    start = time.perf_counter()
    with progress("encoding", "images") as step:
        tokens = encode_all(tokenizer, data.images, step)
    with progress("decoding every scale", "images") as step:
        measured = reconstruction_psnr(tokenizer, data.images, tokens, range(len(tokens)), step)
    seconds = time.perf_counter() - start
    train_tokens = tokens
    if train is not data:
        with progress("encoding the training split", "images") as step:
            train_tokens = encode_all(tokenizer, train.images, step)
    use, use_by_scale = code_use(train_tokens, tokenizer.code_count)
    by_scale = tuple(Spread.of(measured[k]) for k in range(len(tokens)))
    report = TokenizerReport(
        source=_source(data),
        psnr=by_scale[-1],
        psnr_by_scale=by_scale,
        images_per_second=len(data) / seconds,
        codes_source=_source(train),
        codes=tokenizer.code_count,
        use=use,
        use_by_scale=use_by_scale,
    )
    return report, tokens, train_tokens


def _generator_report(subject: Subject, split: Encoded, training: Encoded, progress: Progress) -> GeneratorReport:
    model = subject.model
    assert model is not None
    start = time.perf_counter()
    with progress("predicting", "images") as step:
        scores = score_generator(model, subject.tokenizer, split.tokens, split.labels, step)
    speed = len(split.labels) / (time.perf_counter() - start)
    train_scores = train_source = None
    if split.data.split == "heldout":
        rows = sample_rows(len(training.labels), len(split.labels))
        train_source = _source(training.data, len(rows))
        sampled = [maps[rows] for maps in training.tokens]
        with progress("predicting training images", "images") as step:
            train_scores = score_generator(model, subject.tokenizer, sampled, training.labels[rows], step)
    weight = next(model.parameters())
    return GeneratorReport(
        source=_source(split.data),
        scores=scores,
        train_source=train_source,
        train=train_scores,
        uniform_loss=math.log(subject.tokenizer.code_count),
        images_per_second=speed,
        tokens_per_second=speed * model.schedule.tokens,
        peak_share=speed * forward_flops(model) / matmul_peak(weight.device, weight.dtype),
    )


def _source(data: ImageData, images: int | None = None) -> Source:
    return Source(data.split, len(data) if images is None else images, data.hash)


def _settings(subject: Subject, folder: Path | str, data: ImageData, train: ImageData) -> dict[str, Any]:
    weight = next(subject.tokenizer.parameters())
    height, width = data.images.shape[-2:]
    return {
        "model": subject.name,
        "revision": subject.revision,
        "device": str(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "data": str(folder),
        "pixels": f"{height}x{width}",
        "background": "white",
        "split": data.split,
        "images": len(data),
        "data_hash": data.hash,
        "train_images": len(train),
        "train_hash": train.hash,
        "classes": len(data.classes),
        "unreadable": len(set(data.unreadable) | set(train.unreadable)),
        "nextscale": __version__,
        "torch": torch.__version__,
    }
