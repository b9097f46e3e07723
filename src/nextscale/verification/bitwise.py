"""Outputs of Infinity's tokenizer: of its quantiser alone, and of the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert import bitwise
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig, interpolate
from nextscale.tokenizers.base import Canvas, EncodeHook
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer, bits_of, flipped
from nextscale.verification.report import Checks
from nextscale.verification.vectors import VectorFile, agree, setting

Settings = Mapping[str, Any]


def check_bsq(file: VectorFile, checks: Checks) -> None:
    """A quantiser alone: bits, canvases, inputs, gradients, self-correction and integer labels."""
    bits = int(setting(file.section("quantizer"), "dim", "quantizer"))
    if "index" in file.inputs:
        label = bits_of(file.input("index"), bits)
        checks.check("index/bits", label.bool())
        checks.check("index/codes", _quantizer(bits, ScaleSchedule.of([1]), False).codes(label))
        checks.check("index/mask", 2 ** torch.arange(bits - 1, -1, -1))
    for name, run in file.section("runs").items():
        schedule, f = ScaleSchedule.of(setting(run, "schedule", name)), file.input(f"{name}/f")
        tokenizer = _quantizer(bits, schedule, bool(run.get("patchify")))
        canvases = [canvas.latent for canvas in encode(checks, name, tokenizer, f)]
        for k in range(1, len(schedule)):
            size = tuple(side * tokenizer.patch for side in schedule[k])
            assert len(size) == 2
            checks.check(f"{name}/area_input_{k}", interpolate(canvases[k - 1], size, "area"))
        leaf = f.clone().requires_grad_()
        drawn, _, _ = tokenizer.straight_through(leaf)
        checks.check(f"{name}/quantized", drawn)
        checks.check(f"{name}/grad_f", torch.autograd.grad((drawn * file.input(f"{name}/cotangent")).sum(), leaf)[0])
        for correction in run.get("bsc", {}):
            flips = flips_of(file, f"{name}/{correction}", tokenizer)
            encode(checks, f"{name}/{correction}", tokenizer, f, flipped(flips), bits=False)


def check_vae(file: VectorFile, checks: Checks) -> None:
    """A whole tokenizer: latents, bits, canvases, the images of all of them."""
    for name, run in file.section("runs").items():
        schedule = ScaleSchedule.of(setting(run, "schedule", name))
        patchify = bool(run.get("patchify"))
        tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"), schedule, patchify)
        f = checks.check(f"{name}/features", tokenizer.latent(file.input(f"{name}/image")))
        canvases = encode(checks, name, tokenizer, f, labels=False)
        for k, canvas in enumerate(canvases):
            checks.check(f"{name}/image_{k}", tokenizer.decode(canvas))
        checks.check(f"{name}/quantized", canvases[-1].latent)
        checks.check(f"{name}/reconstruction", tokenizer.decode(canvases[-1]))


def tokenizer_of(
    settings: Settings, state: Mapping[str, Tensor], schedule: ScaleSchedule, patchify: bool
) -> BitwiseTokenizer:
    """The tokenizer of official weights, through our converter."""
    config = bitwise.tokenizer_config(state, schedule.sizes, patchify=patchify)
    agree(settings, {"codebook_dim": config.bits, "patch_size": config.autoencoder.stride})
    tokenizer = BitwiseTokenizer(config)
    tokenizer.load_state_dict(bitwise.tokenizer_from_official(state, config))
    return tokenizer.eval().requires_grad_(False)


def _quantizer(bits: int, schedule: ScaleSchedule, patchify: bool) -> BitwiseTokenizer:
    """A tokenizer that is used for its quantiser alone."""
    stand_in = AutoencoderConfig(ch=1, mult=(1,), z=bits, res_blocks=1, attention=False, mid_attention=False, groups=1)
    config = BitwiseConfig(bits=bits, sizes=schedule.sizes, patchify=patchify, autoencoder=stand_in)
    return BitwiseTokenizer(config).requires_grad_(False)


def flips_of(file: VectorFile, prefix: str, tokenizer: BitwiseTokenizer) -> list[Tensor]:
    """The bits that a self-correction run turns over, scale by scale, as long as the file has some."""
    found: list[Tensor] = []
    while f"{prefix}/flip_{len(found)}" in file.inputs:
        found.append(tokenizer.gather(file.input(f"{prefix}/flip_{len(found)}").float()) > 0.5)
    return found


def encode(
    checks: Checks,
    prefix: str,
    tokenizer: BitwiseTokenizer,
    f: Tensor,
    hook: EncodeHook | None = None,
    *,
    bits: bool = True,
    labels: bool = True,
) -> list[Canvas]:
    """Check bits and canvas of every scale, and labels and inputs of all scales; returns the canvases. bits: whether
    the file has the bits of every scale; labels: whether it has labels and inputs.
    """

    def keep_to_the_file(canvas: Canvas, k: int) -> Tensor:
        ours = tokenizer.quantize(f, canvas, k)
        if not bits:
            return ours
        stored = checks.check(f"{prefix}/bits_{k}", tokenizer.spread(ours.float()) > 0.5)
        return tokenizer.gather(stored.float()).long()

    tokens, inputs, canvases = [], [], [tokenizer.start(len(f))]
    for k, (found, canvas) in enumerate(tokenizer.walk(canvases[0], keep_to_the_file, hook)):
        if k:
            inputs.append(rows_of(tokenizer.next_input(canvases[-1], k)))
        tokens.append(found)
        canvases.append(replace(canvas, latent=checks.check(f"{prefix}/canvas_{k}", canvas.latent)))
    if labels:
        checks.check(f"{prefix}/labels", torch.cat([found.flatten(1, 2) for found in tokens], 1))
        checks.check(f"{prefix}/next_input", torch.cat(inputs, 1))
    return canvases[1:]


def rows_of(maps: Tensor) -> Tensor:
    """(B, c, h, w) to (B, h w, c)."""
    return maps.flatten(2).mT
