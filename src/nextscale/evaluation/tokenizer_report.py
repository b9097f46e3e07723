"""How well a tokenizer keeps the images of a split: over all, in every style, and to a classifier's eye."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.data.images import ImageData
from nextscale.evaluation.subject import Judge, Progress, Sample, Subject, sample_rows
from nextscale.measures.distances import features_of, usual_distance
from nextscale.measures.tokenizer import (
    BitUse,
    CodeUse,
    Spread,
    bit_use,
    code_use,
    encode_all,
    reconstructed,
    reconstruction_psnr,
    signed_batches,
)

ENOUGH = 1024
"""Training images that show how bits are used, where the split has no more; of codes, every image shows some others."""


@dataclass(frozen=True)
class Named:
    """How often the classifier names the right style: share of the reconstructions, and of the originals."""

    kept: float
    originals: float

    @classmethod
    def of(cls, right: Tensor) -> Named:
        """Of ``right`` (2, N), reconstructions and originals, bool."""
        return cls(*right.float().mean(1).tolist())


@dataclass(frozen=True)
class StyleQuality:
    """Reconstruction of one style's images; distance and named as in ``TokenizerReport``."""

    name: str
    psnr: Spread
    distance: Spread | None
    named: Named | None


@dataclass(frozen=True)
class TokenizerReport:
    """psnr: drawn from all scales; psnr_by_scale: from the first k; codes: those of the codebook, or the two values of
    a bit; use: of the codes in the training split, or of the bits in ``codes_source`` of its images.

    distance: of each image to its reconstruction in the classifier's features, Euclidean, in units of the root mean
    square distance of two images of the split; None without a classifier. named: None where it or the data know no
    styles.
    """

    name: str
    revision: str
    source: Sample
    scales: tuple[str, ...]
    psnr: Spread
    psnr_by_scale: tuple[Spread, ...]
    distance: Spread | None
    named: Named | None
    styles: tuple[StyleQuality, ...]
    images_per_second: float
    codes_source: Sample
    codes: int
    use: CodeUse | BitUse
    use_by_scale: tuple[CodeUse, ...] | tuple[BitUse, ...]


def tokenizer_report(
    subject: Subject, data: ImageData, train: ImageData, judge: Judge | None, progress: Progress
) -> tuple[TokenizerReport, list[Tensor], list[Tensor]]:
    """The report, and the token maps of the split, and of as many images of the training split (``sample_rows``)."""
    tokenizer, start = subject.tokenizer, time.perf_counter()
    with progress(f"encoding, {subject.name}", "images") as step:
        tokens = encode_all(tokenizer, data, step)
    with progress("decoding every scale", "images") as step:
        measured = reconstruction_psnr(tokenizer, data, tokens, range(len(tokens)), step)
    seconds = time.perf_counter() - start
    of_bits, codes = tokenizer.draws > 1 and tokenizer.choices == 2, tokenizer.choices
    sample = sample_rows(len(train), len(data))
    used = sample_rows(len(train), max(ENOUGH, len(data)) if of_bits else len(train))  # the sample is among them
    train_tokens = tokens
    if train is not data:
        with progress("encoding training images", "images") as step:
            train_tokens = encode_all(tokenizer, train, step, used)
    distances, right = (None, None) if judge is None else _judged(subject, data, tokens, judge, progress)
    use, use_by_scale = bit_use(train_tokens) if of_bits else code_use(train_tokens, codes)
    by_scale = tuple(Spread.of(measured[k]) for k in range(len(tokens)))
    report = TokenizerReport(
        name=subject.name,
        revision=subject.revision,
        source=Sample.of(data),
        scales=tuple(f"{h}x{w}" for h, w in tokenizer.schedule),
        psnr=by_scale[-1],
        psnr_by_scale=by_scale,
        distance=None if distances is None else Spread.of(distances),
        named=None if right is None else Named.of(right),
        styles=_by_style(data, measured[len(tokens) - 1], distances, right),
        images_per_second=len(data) / seconds,
        codes_source=Sample.of(train, len(used)),
        codes=codes,
        use=use,
        use_by_scale=use_by_scale,
    )
    return report, tokens, [maps[torch.searchsorted(used, sample)] for maps in train_tokens]


def _judged(
    subject: Subject, data: ImageData, tokens: list[Tensor], judge: Judge, progress: Progress
) -> tuple[Tensor, Tensor | None]:
    """Distances (N,) of the images to their reconstructions, and whether the styles of both (2, N) are named right;
    see ``TokenizerReport``.
    """
    network = judge.network
    device = next(network.parameters()).device
    with progress("features of the images", "images") as step:
        originals = features_of(network, signed_batches(data, device, step))
    with progress("features of the reconstructions", "images") as step:
        kept = features_of(network, reconstructed(subject.tokenizer, tokens, step))
    distances, known = (kept - originals).norm(dim=1) / usual_distance(originals), network.config.styles
    if not data.styles or not set(data.styles) <= set(known):
        return distances, None
    styles = torch.tensor([known.index(name) for name in data.styles])[data.style_labels]
    said = [network.named(x.to(device)).styles.argmax(-1).cpu() for x in (kept, originals)]
    return distances, torch.stack(said) == styles


def _by_style(
    data: ImageData, psnr: Tensor, distances: Tensor | None, right: Tensor | None
) -> tuple[StyleQuality, ...]:
    """The quality of every style of which the split has images."""
    found = []
    for i, name in enumerate(data.styles):
        rows = data.style_labels == i
        if rows.any():
            distance = None if distances is None else Spread.of(distances[rows])
            named = None if right is None else Named.of(right[:, rows])
            found.append(StyleQuality(name, Spread.of(psnr[rows]), distance, named))
    return tuple(found)
