"""Is a checkpoint what it should be, from its files to a picture? For those who can fetch the published weights, and a
report that others can read.

What is expected of published weights: the sizes of the table, exactly; a reconstruction and a share of tokens foreseen
that random or damaged weights cannot reach. These two bars are wide: between what chance gives and what users report of
VAR on photographs (FoundationVision/VAR, issue 143: 4 to 6 % of tokens). Other checkpoints are measured, not judged.
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nextscale import __version__
from nextscale.checkpoints.find import model_folder
from nextscale.checkpoints.load import read_origin
from nextscale.checkpoints.published import PUBLISHED, Published
from nextscale.checkpoints.store import computed_revision
from nextscale.conditions.base import Features
from nextscale.conditions.classes import ClassVocabulary
from nextscale.device import cpu_name, peak_memory
from nextscale.evaluation.speed import matmul_peak
from nextscale.measures.generator import score_generator
from nextscale.measures.tokenizer import encode_all, reconstruction_psnr
from nextscale.models.class_transformer import ClassTransformerConfig
from nextscale.pictures import fit
from nextscale.pipeline import Pipeline, load
from nextscale.verification.picture import IMAGENET_CLASS, lakeside

PSNR_BAR = 16.0
"""dB on the test picture; random weights of a small tokenizer gave 9."""
ACCURACY_BAR = 0.01
"""Share of tokens whose likeliest code is right, with the coarser scales given; chance is 1 / 4096."""
UNJUDGED = "no bar: not of a published size"
NOBODY_SAID = "no bar: nobody has said what is usual"
IMAGENET_CLASSES, DOG = 1000, 207
"""How many there are, and the one that is drawn: golden retriever."""


@dataclass(frozen=True)
class Check:
    """One thing looked at. ok is None where nothing is known to expect."""

    name: str
    found: str
    expected: str = ""
    ok: bool | None = None


@dataclass(frozen=True)
class SelfTest:
    """What came of it; ``str()`` is Markdown to paste into an issue. origin: the files the weights came from."""

    model: str
    revision: str
    environment: Mapping[str, str]
    origin: list[dict[str, Any]]
    checks: tuple[Check, ...]
    picture: Image.Image
    recipe: dict[str, Any]

    @property
    def ok(self) -> bool:
        return all(check.ok is not False for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: everything but the picture."""
        told = {"model": self.model, "revision": self.revision, "ok": self.ok, "environment": dict(self.environment)}
        return told | {"origin": self.origin, "checks": [asdict(check) for check in self.checks]}

    def __str__(self) -> str:
        lines = [f"### nextscale selftest of {self.model}: {'passed' if self.ok else 'FAILED'}", ""]
        lines += [f"- {name}: {value}" for name, value in self.environment.items()]
        lines.append(f"- revision: {self.revision}")
        for file in self.origin:
            at = " ".join(f"{key} {file[key]}" for key in ("repo", "revision", "commit", "sha256") if file.get(key))
            lines.append(f"- from {file['file']}, {file['bytes']} bytes {at}".rstrip())
        lines += ["", "| check | found | expected | |", "| --- | --- | --- | --- |"]
        verdicts = {True: "ok", False: "FAILED", None: ""}
        lines += [f"| {c.name} | {c.found} | {c.expected} | {verdicts[c.ok]} |" for c in self.checks]
        return "\n".join(lines)


def selftest(
    name: str | Path, *, revision: str | None = None, device: str = "auto", dtype: str = "auto", seed: int = 1
) -> SelfTest:
    """Check a checkpoint from end to end: files, sizes, numbers, reconstruction, prediction, one picture, cost.

    Arguments and errors are those of :func:`nextscale.load`, which fetches a published checkpoint if need be.
    """
    start = time.perf_counter()
    pipe = load(name, revision=revision, device=device, dtype=dtype)
    seconds = time.perf_counter() - start
    folder = model_folder(name, revision)
    like = _published_like(pipe)
    origin = read_origin(folder)
    found, recorded = computed_revision(folder), origin.get("revision", "")
    files = Check("files", f"revision {found}", recorded, found == recorded if recorded else None)
    looks = [files, *_sizes(pipe, like), _numbers(pipe), *_on_a_picture(pipe, like)]
    picture, recipe, costs = _one_picture(pipe, seed)
    costs.append(Check("loading", f"{seconds:.1f} s"))
    environment = {"loaded from": str(name), **_environment(pipe)}
    return SelfTest(pipe.name, pipe.revision, environment, origin.get("files", []), (*looks, *costs), picture, recipe)


def _published_like(pipe: Pipeline) -> Published | None:
    """The published checkpoint that this one claims to be, or has the sizes of."""
    if pipe.name in PUBLISHED:
        return PUBLISHED[pipe.name]
    config = pipe.model.config
    return next((row for row in PUBLISHED.values() if row.configs(config)["model"] == config), None)


def _sizes(pipe: Pipeline, like: Published | None) -> list[Check]:
    """Keys and shapes were checked against the configuration when it was loaded; here that against the table."""
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in _parts(pipe).items()}
    config = pipe.model.config
    model, tokenizer = (f"{parameters[name]:,} parameters" for name in ("model", "tokenizer"))
    if isinstance(config, ClassTransformerConfig):
        model += f", depth {config.depth}, width {config.width}, {len(config.sizes)} scales to {config.sizes[-1][0]}"
    if like is None:
        return [Check("generator", model), Check("tokenizer", tokenizer)]
    theirs = like.configs(config)
    count = f"{like.name}: {like.tokenizer_parameters:,} parameters"
    return [
        Check("generator", model, f"{like.name}: {like.parameters:,} parameters", config == theirs["model"]),
        Check("tokenizer", tokenizer, count, pipe.tokenizer.config == theirs["tokenizer"]),
    ]


def _numbers(pipe: Pipeline) -> Check:
    broken = [
        f"{part}.{name}"
        for part, module in _parts(pipe).items()
        for name, t in module.state_dict().items()
        if not bool(torch.isfinite(t).all())
    ]
    count = sum(len(module.state_dict()) for module in _parts(pipe).values())
    found = f"{len(broken)} of {count} tensors, first {broken[0]}" if broken else f"{count} tensors"
    return Check("numbers", found, "all finite", not broken)


def _on_a_picture(pipe: Pipeline, like: Published | None) -> list[Check]:
    """How well the tokenizer keeps a picture, and how much of it the generator foresees."""
    pixels = torch.from_numpy(np.array(fit(lakeside(), pipe.resolution))).permute(2, 0, 1)[None]
    tokens = encode_all(pipe.tokenizer, pixels)
    measured = reconstruction_psnr(pipe.tokenizer, pixels, tokens, range(len(tokens)))
    psnr = [float(measured[k]) for k in range(len(tokens))]
    features, _ = _something(pipe, IMAGENET_CLASS)
    scores = score_generator(pipe.model, pipe.tokenizer, tokens, features.select).total
    codes, draws = pipe.tokenizer.choices, scores.tokens * pipe.tokenizer.draws
    right: bool | None = scores.accuracy >= ACCURACY_BAR
    bar = f"4 to 6 % on photographs, here at least {100 * ACCURACY_BAR:g} %"
    if pipe.tokenizer.draws > 1:  # of bits half are right by chance
        right, bar = scores.loss < math.log(codes), "a loss below that of chance"
    elif like is not None and not like.reads_classes:
        right, bar = None, NOBODY_SAID
    return [
        Check(
            "reconstruction of the test picture",
            f"{psnr[-1]:.2f} dB (by scale: {' '.join(f'{db:.1f}' for db in psnr)})",
            f"at least {PSNR_BAR:g} dB" if like is not None else UNJUDGED,
            psnr[-1] >= PSNR_BAR if like is not None else None,
        ),
        Check(
            "its tokens, teacher-forced",
            f"{100 * scores.accuracy:.2f} % of {draws} right, loss {scores.loss:.3f} (chance: "
            f"{100 / codes:.2f} %, {math.log(codes):.3f})",
            bar if like is not None else UNJUDGED,
            right if like is not None else None,
        ),
    ]


def _one_picture(pipe: Pipeline, seed: int) -> tuple[Image.Image, dict[str, Any], list[Check]]:
    """Draw once, with the checkpoint's own sampling; and what that cost beside what the plan says."""
    cuda = pipe.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(pipe.device)
    start = time.perf_counter()
    _, asked = _something(pipe, DOG)
    result = pipe(**asked, seed=seed)
    seconds = time.perf_counter() - start
    picture: Image.Image = result.images[0]
    spread = float(np.asarray(picture, np.float32).std())
    priced = pipe.price(result.plan)
    speed, peak = priced.flops / seconds, matmul_peak(pipe.device, pipe.dtype)
    weights = sum(t.nbytes for part in _parts(pipe).values() for t in part.state_dict().values())
    said = f"{_gb(weights)} of weights, {_gb(priced.memory)} of memory"
    size, most = f"{picture.width}x{picture.height}", peak_memory(pipe.device)
    return (
        picture,
        result.recipe_of(0),
        [
            Check("picture", f"{size}, pixels spread by {spread:.1f} of 255", "more than 2", spread > 2),
            Check("time", f"{seconds:.2f} s: {speed / 1e9:.1f} GFLOP/s, {100 * speed / peak:.0f} % of matrix products"),
            Check(
                "memory", f"{_gb(most)} at most, {'GPU' if cuda else 'whole process'}" if most else "not known", said
            ),
        ],
    )


def _something(pipe: Pipeline, class_id: int) -> tuple[Features, dict[str, Any]]:
    """The features of one image, and the arguments of the call that draws it: of this class of ImageNet, of what the
    conditioner names first, or of nothing.
    """
    known, model = pipe.conditioner, pipe.model
    entries = known.samples(1)
    if isinstance(known, ClassVocabulary) and len(known.names) == IMAGENET_CLASSES:
        entries = [known.entry(class_id)]
    if entries:
        return known.features(entries), known.arguments(entries)
    features = model.blank(1, pipe.device)
    for name in features.sources:
        features = features.drop(name, torch.ones(1, dtype=torch.bool, device=pipe.device))
    return features, {"plan": replace(pipe.plan(guidance_scale=1), branches=((),))}


def _parts(pipe: Pipeline) -> dict[str, torch.nn.Module]:
    return {"tokenizer": pipe.tokenizer, "model": pipe.model}


def _environment(pipe: Pipeline) -> dict[str, str]:
    where = torch.cuda.get_device_name(pipe.device) if pipe.device.type == "cuda" else cpu_name()
    return {
        "nextscale": __version__,
        "python": f"{platform.python_version()} on {platform.platform()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} of {os.cpu_count()} CPU cores",
        "device": f"{pipe.device}, {where} ({pipe.device_reason})",
        "dtype": f"{str(pipe.dtype).removeprefix('torch.')} ({pipe.dtype_reason})",
    }


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
