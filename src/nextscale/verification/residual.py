"""Outputs of VAR-type tokenizers: tokens and canvases scale by scale, images, and the gradients of training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.base import Canvas
from nextscale.tokenizers.residual import ResidualTokenizer, phi_index
from nextscale.verification.report import Checks
from nextscale.verification.vectors import VectorFile


def check_phi(file: VectorFile, checks: Checks, tokenizer: ResidualTokenizer) -> None:
    """The phi convolution of every scale, where the file's metadata name them."""
    stored, count, schedule = file.metadata.get("phi_index"), len(tokenizer.quantizer.phi), tokenizer.schedule
    if stored is not None and count:
        ours = [phi_index(count, schedule.progress(k)) for k in range(len(schedule))]
        checks.check_value("phi_index", torch.tensor(ours), torch.tensor(stored))


def check_encode(
    checks: Checks, prefix: str, tokenizer: ResidualTokenizer, f: Tensor, schedule: ScaleSchedule | None = None
) -> list[Tensor]:
    """``idx_k`` and ``f_hat_k`` of encoding f (B, c, H, W); returns the token maps (B, h, w) to go on with."""

    def keep_to_the_file(canvas: Canvas, k: int) -> Tensor:
        tokens = tokenizer.quantize(f, canvas, k)
        return checks.check(f"{prefix}idx_{k}", tokens.flatten(1)).view_as(tokens)

    maps = []
    for k, (tokens, canvas) in enumerate(tokenizer.walk(tokenizer.start(len(f), schedule), keep_to_the_file)):
        maps.append(tokens)
        checks.check(f"{prefix}f_hat_{k}", canvas.latent, optional=prefix == "tf/")
    return maps


def check_decode(
    checks: Checks, prefix: str, tokenizer: ResidualTokenizer, maps: Sequence[Tensor], images: bool
) -> Canvas:
    """Canvases rebuilt from tokens alone, the images of all of them where asked for, and the final canvas."""
    canvas = tokenizer.start(maps[0].shape[0])
    for k, tokens in enumerate(maps):
        canvas = tokenizer.accumulate(canvas, tokenizer.codes(tokens), k)
        canvas = replace(canvas, latent=checks.check(f"{prefix}decoded_f_hat_{k}", canvas.latent, optional=not images))
        if images:
            checks.check(f"{prefix}image_{k}", tokenizer.decode(canvas))
    checks.check(f"{prefix}decoded_f_hat", canvas.latent, optional=images)
    return canvas


def check_inputs(
    checks: Checks, prefix: str, tokenizer: ResidualTokenizer, maps: list[Tensor], schedule: ScaleSchedule | None = None
) -> list[Tensor]:
    """``var_input``, the teacher-forcing inputs of all scales but the first; returns those to go on with, one per
    scale."""
    schedule = schedule or tokenizer.schedule
    ours = tokenizer.follow(maps, schedule).inputs
    empty = maps[0].new_zeros((maps[0].shape[0], 0, tokenizer.code_dim), dtype=torch.float32)
    flat = torch.cat([empty, *(x.flatten(2).transpose(1, 2) for x in ours)], 1)
    stored = checks.check(f"{prefix}var_input", flat)
    if stored is flat:
        return ours
    parts = stored.split(list(schedule.lengths[1:]), 1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, schedule.sizes[1:], strict=True)]


def check_training(
    checks: Checks, tokenizer: ResidualTokenizer, f: Tensor, cotangent: Tensor, names: Mapping[str, str]
) -> None:
    """Loss, straight-through canvas and gradients of one quantiser pass with f as the leaf.

    The scalar is the VQ loss plus the sum of the canvas times ``cotangent``. names: the quantiser's parameters to their
    names in the file.
    """
    parameters = dict(tokenizer.quantizer.named_parameters())
    leaf = f.detach().clone().requires_grad_()
    for p in parameters.values():
        p.requires_grad_()
    canvas, loss, _ = tokenizer.straight_through(leaf)
    checks.check("train/vq_loss", loss)
    checks.check("train/f_hat_straight_through", canvas)
    gradients = torch.autograd.grad(
        loss + (canvas * cotangent).sum(), [leaf, *parameters.values()], allow_unused=True, materialize_grads=True
    )
    checks.check("train/grad_f", gradients[0])
    for name, gradient in zip(parameters, gradients[1:], strict=True):
        checks.check(f"train/grad_{names[name]}", gradient)
