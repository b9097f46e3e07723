"""Generators side by side: size, FLOPs, losses on the same images, and speed measured in turns, as ratios to the first.

``compare`` measures, ``comparison_text`` makes a table of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextscale import __version__
from nextscale.conditions.base import Features
from nextscale.conditions.classes import class_features
from nextscale.data.emoji_reader import families_of, holds_emoji
from nextscale.data.folder import load_data
from nextscale.data.images import ImageData, check_split, existing_folder
from nextscale.errors import InputError
from nextscale.evaluation.columns import aligned
from nextscale.evaluation.speed import BlockFlops, Contestant, Speed, block_flops, generation_speeds
from nextscale.evaluation.subject import Progress, Subject, no_progress, square_resolution
from nextscale.measures.generator import Scores, score_images
from nextscale.measures.paired import Difference
from nextscale.measures.tokenizer import encode_all
from nextscale.models.base import NextScaleModel
from nextscale.plan import default_plan
from nextscale.tokenizers.base import Tokenizer

IMAGES, ROUNDS, GUIDANCE = 8, 7, 1.5
"""Of the measured generations: images in the batch, rounds, and guidance scale (two branches, as generation has)."""


@dataclass(frozen=True)
class Measured:
    """One generator. parameters: of the transformer, and of its blocks; loss in nats per token; more: its loss minus
    that of the first one, in nats per image, image by image; None for the first, and where tokens are other ones.
    """

    name: str
    revision: str
    parameters: int
    block_parameters: int
    flops: BlockFlops
    scores: Scores
    speed: Speed
    more: Difference | None = None


@dataclass(frozen=True)
class Line:
    """One line of the comparison: a value per model, and how it is written."""

    name: str
    values: tuple[float, ...]
    write: Callable[[float], str]

    @property
    def ratios(self) -> tuple[float | None, ...]:
        """Of every model after the first to the first; None where the first is 0."""
        first, *others = self.values
        return tuple(other / first if first else None for other in others)


@dataclass(frozen=True)
class Comparison:
    """Everything measured, and on what. same_tokenizer: whether losses of different models mean the same tokens."""

    settings: dict[str, Any]
    scales: tuple[str, ...]
    same_tokenizer: bool
    models: tuple[Measured, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        """All numbers in the order of the table."""

        def line(name: str, value: Callable[[Measured], float], write: Callable[[float], str]) -> Line:
            return Line(name, tuple(value(model) for model in self.models), write)

        def loss(k: int) -> Callable[[Measured], float]:
            return lambda m: (*m.scores.scales, m.scores.total)[k].loss

        def accuracy(k: int) -> Callable[[Measured], float]:
            return lambda m: (*m.scores.scales, m.scores.total)[k].accuracy

        names = (*self.scales, "all")
        return (
            line("parameters", lambda m: m.parameters, _count),
            line("parameters of the blocks", lambda m: m.block_parameters, _count),
            line("MFLOPs: linear layers of the blocks", lambda m: m.flops.linear, _mega),
            line("MFLOPs: attention", lambda m: m.flops.attention, _mega),
            line("MFLOPs: scan", lambda m: m.flops.scan, _mega),
            line("MFLOPs: AdaLN, once per image", lambda m: m.flops.condition, _mega),
            *(line(f"loss {name}", loss(k), _three) for k, name in enumerate(names)),
            *(line(f"accuracy {name}", accuracy(k), _percent) for k, name in enumerate(names)),
            line("images/s", lambda m: m.speed.images_per_second, _two),
            line("images/s, slowest round", lambda m: m.speed.slowest, _two),
            line("images/s, fastest round", lambda m: m.speed.fastest, _two),
            line("images/s without the decoder", lambda m: m.speed.undecoded, _two),
            line("share of matmul peak", lambda m: m.speed.peak_share, _percent),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: everything the table shows; ratios are to the first model."""
        return asdict(self) | {"ratios": {line.name: line.ratios for line in self.lines}}


def compare(
    subjects: Sequence[Subject],
    folder: Path | str,
    split: str = "heldout",
    progress: Progress = no_progress,
    skip_small: bool = False,
) -> Comparison:
    """Measure the generators of ``subjects`` (in evaluation mode, on one device) on a split of the data in ``folder``.

    Raises ``InputError`` if one has no generator, their scales or pixels differ, models of texts and of classes are
    compared on an emoji set, which has other sides for each, or for what ``evaluate`` refuses.
    """
    check_split(split)
    existing_folder(folder)
    first, models = subjects[0], [_generator(subject) for subject in subjects]
    for subject in subjects[1:]:
        if (subject.tokenizer.schedule, subject.tokenizer.stride) != (first.tokenizer.schedule, first.tokenizer.stride):
            raise InputError(
                f"{first.name} draws the scales {first.tokenizer.schedule} and {subject.name} the scales "
                f"{subject.tokenizer.schedule}; expected models of the same scales and pixels"
            )
    captions = reads_captions(subjects, folder)
    data = load_data(folder, square_resolution(first.tokenizer), split, skip_small=skip_small, captions=captions)
    shown = [subject.shown(data) for subject in subjects]
    tokens, scores, losses = list[Tensor](), list[Scores](), list[Tensor]()
    for i, (subject, model) in enumerate(zip(subjects, models, strict=True)):
        if i == 0 or not same_weights(subject.tokenizer, subjects[i - 1].tokenizer):
            with progress(f"encoding for {subject.name}", "images") as step:
                tokens = encode_all(subject.tokenizer, data, step)
        with progress(f"predicting with {subject.name}", "images") as step:
            found = score_images(model, subject.tokenizer, tokens, shown[i], step)
        scores.append(found[0])
        losses.append(found[1])
    contestants = [_contestant(*one, len(data)) for one in zip(subjects, models, shown, strict=True)]
    same = [same_weights(subject.tokenizer, first.tokenizer) for subject in subjects]
    families = families_of(folder, data)
    more = [Difference.of(loss - losses[0], families) if i and same[i] else None for i, loss in enumerate(losses)]
    measured = zip(subjects, models, scores, generation_speeds(contestants, ROUNDS), more, strict=True)
    return Comparison(
        _settings(subjects, models[0], folder, data),
        tuple(f"{h}x{w}" for h, w in first.tokenizer.schedule),
        all(same),
        tuple(_measured(*one) for one in measured),
    )


def reads_captions(subjects: Sequence[Subject], folder: Path | str) -> bool:
    """Whether some of the models read captions. Raises ``InputError`` where others read classes, and the data are an
    emoji set, which has other sides for each.
    """
    captions = any(subject.reads_captions for subject in subjects)
    if captions and holds_emoji(folder):
        classes = next((subject.name for subject in subjects if not subject.reads_captions), None)
        if classes is not None:
            raise InputError(
                f"{classes} reads no captions, and the emoji set holds out other drawings for those that do; expected "
                "models of one kind: compare them apart"
            )
    return captions


def same_weights(a: Tokenizer, b: Tokenizer) -> bool:
    """Whether two tokenizers are the same network with the same weights."""
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(t, other[name]) for name, t in one.items())


def comparison_text(c: Comparison) -> str:
    """The comparison as a table for people, with what it was measured on above it."""
    s, drawn = c.settings, c.settings["drawn"]
    models = [f"{m.name}: revision {m.revision}" for m in c.models]
    notes = [
        f"{s['dtype']} on {s['device']}, threads: {s['threads']}, nextscale {s['nextscale']}, torch {s['torch']}",
        f"losses and accuracies: {s['data']}, {s['split']}: {s['images']} images, data {s['data_hash'][:12]}; "
        + (f"captions {s['captions_hash'][:12]}; " if "captions_hash" in s else "")
        + f"{_unit(c)}, all coarser scales given",
        "FLOPs: all tokens of one image, one branch",
        f"images/s: {drawn['images']} images at once with seeds 0 to {drawn['images'] - 1} and guidance scale "
        f"{drawn['guidance_scale']} (two branches), pixels included; median of {drawn['rounds']} rounds in turns",
    ]
    if not c.same_tokenizer:
        notes.append("the models have different tokenizers: their losses and accuracies are not of the same tokens")
    against = [f"{m.name} / {c.models[0].name}" for m in c.models[1:]]
    rows: list[tuple[str, ...]] = [("", *(m.name for m in c.models), *against)]
    for line in c.lines:
        ratios = ("-" if ratio is None else f"{ratio:.3f}" for ratio in line.ratios)
        rows.append((line.name, *map(line.write, line.values), *ratios))
    paired = [
        f"loss of {m.name} minus that of {c.models[0].name}: {m.more.value:+.3f} ± {m.more.error:.3f} nats per image "
        f"({m.more.images} images, image by image; standard error with their {m.more.families} families as independent)"
        for m in c.models
        if m.more is not None
    ]
    return "\n".join([*models, *notes]) + "\n\n" + "\n".join([aligned(rows), *paired])


def _generator(subject: Subject) -> NextScaleModel:
    if subject.model is None:
        raise InputError(f"{subject.name} is a tokenizer alone; expected models with a generator to compare")
    return subject.model


def _contestant(
    subject: Subject, model: NextScaleModel, shown: Callable[[Tensor], Features], images: int
) -> Contestant:
    """It draws its first classes, or what the captions of the first of so many images say."""
    device, numbers = next(model.parameters()).device, torch.arange(IMAGES)
    features = class_features(numbers % model.reads["class"]) if subject.vocabulary else shown(numbers % images)
    return Contestant(subject.tokenizer, model, default_plan(model, guidance_scale=GUIDANCE), features.to(device))


def _settings(
    subjects: Sequence[Subject], model: NextScaleModel, folder: Path | str, data: ImageData
) -> dict[str, Any]:
    weight, of_bits = next(model.parameters()), [one.name for one in subjects if one.tokenizer.choices == 2]
    return {
        "device": str(weight.device),
        "dtype": str(weight.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "data": str(folder),
        "split": data.split,
        "images": len(data),
        "data_hash": data.hash,
        **({"captions_hash": data.caption_hash} if any(one.reads_captions for one in subjects) else {}),
        **({"of_bits": of_bits} if of_bits else {}),
        "drawn": {"images": IMAGES, "rounds": ROUNDS, "guidance_scale": GUIDANCE},
        "nextscale": __version__,
        "torch": torch.__version__,
    }


def _measured(
    subject: Subject, model: NextScaleModel, scores: Scores, speed: Speed, more: Difference | None
) -> Measured:
    return Measured(
        name=subject.name,
        revision=subject.revision,
        parameters=sum(p.numel() for p in model.parameters()),
        block_parameters=sum(p.numel() for p in model.blocks.parameters()),
        flops=block_flops(model),
        scores=scores,
        speed=speed,
        more=more,
    )


def _unit(c: Comparison) -> str:
    """What losses are counted in; ``of_bits`` names the models whose tokens are bits."""
    of_bits = c.settings.get("of_bits", [])
    if len(of_bits) == len(c.models):
        return "nats per bit"
    return "nats per token" + (f" ({', '.join(of_bits)}: per bit)" if of_bits else "")


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _mega(value: float) -> str:
    return f"{value / 1e6:.2f}"


def _two(value: float) -> str:
    return f"{value:.2f}"


def _three(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
