"""FlexVAR's vector files: which outputs every kind of file has, and the networks of its weights and configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert import flexvar as convert
from nextscale.conditions.base import Features
from nextscale.conditions.classes import class_features
from nextscale.errors import InputError
from nextscale.generate import generate
from nextscale.guidance import SCHEDULES
from nextscale.models.flexvar import FlexVAR, FlexVARConfig, waves
from nextscale.plan import Plan, default_plan
from nextscale.sampling import OfficialNoise
from nextscale.scales import ScaleSchedule
from nextscale.state import ScaleEvent
from nextscale.tokenizers.autoencoder import interpolate
from nextscale.tokenizers.base import Canvas, Encoded
from nextscale.tokenizers.direct import DirectTokenizer
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.objectives.teacher_forcing import teacher_forcing
from nextscale.training.order import SampleNoise
from nextscale.verification.generation import Followed
from nextscale.verification.report import Checks
from nextscale.verification.vectors import VectorFile, agree, setting

Settings = Mapping[str, Any]
COUNTED = 65_536
"""Tokens that the official usage counter remembers; it starts as if it had seen token 0 alone."""


def check_tokenizer(file: VectorFile, checks: Checks) -> None:
    """A whole tokenizer: latents, tokens, codes and the images of all scales, and one training pass."""
    for name, run in file.section("runs").items():
        schedule = _schedule(run, name)
        tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"), schedule)
        with torch.no_grad():
            f = checks.check(f"{name}/f", tokenizer.latent(file.input(f"{name}/image")))
            for k, size in enumerate(schedule):
                checks.check(f"{name}/f_{k}", interpolate(f, size, "area"))
            canvases = encode(checks, name, tokenizer, f, schedule)[1]
            for k, canvas in enumerate(canvases):
                checks.check(f"{name}/image_{k}", tokenizer.images(canvas.latent))
            again = tokenizer.follow([tokenizer.quantize(f, canvas, k) for k, canvas in enumerate(canvases)], schedule)
            checks.check(f"{name}/image_from_idx_{len(schedule) - 1}", tokenizer.images(again.canvas.latent))
        _tokenizer_training(file, checks, name, tokenizer, schedule)


def check_position(file: VectorFile, checks: Checks) -> None:
    """The positions of maps of many sizes, and what they begin with."""
    stored = file.state.get("pos_1LC")
    if stored is None or stored.ndim != 4 or stored.shape[2] != stored.shape[3]:
        raise InputError("the file lacks state/pos_1LC of (1, C, side, side)")
    config = FlexVARConfig(depth=1, width=stored.shape[1], heads=1, codes=1, places=stored.shape[2])
    model = FlexVAR(config)
    model.load_state_dict({"pos_embedding": stored[0]}, strict=False)
    for h, w in setting(file.config, "grids", "the file"):
        checks.check(f"grid_{h}x{w}", model.positions(0, ScaleSchedule.of([(h, w)])).detach()[None])
    for h, w, c in file.config.get("init", []):
        checks.check(f"init_{h}x{w}_{c}", waves(c, h, w)[None])


def check_flexvar(file: VectorFile, checks: Checks) -> None:
    """A whole generator: teacher-forced runs and their gradients, and generation."""
    for name, run in file.section("runs").items():
        schedule = _schedule(run, name)
        tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"), schedule)
        if run.get("kind") == "teacher_forced":
            model = model_of(file.section("var"), file.model_state("var"), schedule)
            _teacher_forcing(file, checks, name, run, tokenizer, model)
        elif run.get("kind") == "generate":
            largest = ScaleSchedule.of([int(setting(run, "max_pn", name))])
            model = model_of(file.section("var"), file.model_state("var"), largest)
            _generation(file, checks, name, run, schedule, tokenizer, model)
        else:
            checks.notes.append(f"run {name}: unknown kind {run.get('kind')!r}; its outputs were not computed")


KINDS: dict[str, Callable[[VectorFile, Checks], None]] = {
    "tokenizer": check_tokenizer,
    "position": check_position,
    "flexvar": check_flexvar,
}
"""Kind of file to what computes and checks its outputs."""


def tokenizer_of(settings: Settings, state: Mapping[str, Tensor], schedule: ScaleSchedule) -> DirectTokenizer:
    """The tokenizer of official weights, through our converter."""
    if not settings.get("codebook_l2_norm", True):
        raise InputError("the file's config says codebook_l2_norm false; expected true, codes as unit vectors")
    losses = {"beta": settings.get("commit_loss_beta", 0.25), "entropy": settings.get("entropy_loss_ratio", 0.0)}
    config = convert.tokenizer_config(state, schedule.sizes, **losses)
    layout = config.autoencoder
    found: dict[str, Any] = {"codebook_size": config.codes, "codebook_embed_dim": config.code_dim}
    found |= {"z_channels": layout.z, "ch": layout.ch, "num_res_blocks": layout.res_blocks}
    agree(settings, found | {name: [*layout.mult] for name in ("encoder_ch_mult", "decoder_ch_mult")})
    tokenizer = DirectTokenizer(config)
    tokenizer.load_state_dict(convert.tokenizer_from_official(state, config))
    return tokenizer.eval().requires_grad_(False)


def model_of(settings: Settings, state: Mapping[str, Tensor], trained: ScaleSchedule) -> FlexVAR:
    """The transformer of official weights, through our converter. trained: its last map is the largest that the
    official sampler takes for trained.
    """
    config = convert.model_config(state, trained.sizes, norm_eps=float(settings.get("norm_eps", 1e-6)))
    found = {"depth": config.depth, "embed_dim": config.width, "num_heads": config.heads}
    found |= {"num_classes": config.classes, "shared_aln": config.shared_adaln, "attn_l2_norm": config.l2_norm}
    agree(settings, found)
    model = FlexVAR(config)
    model.load_state_dict(convert.from_official(state, config))
    return model.eval().requires_grad_(False)


def encode(
    checks: Checks, prefix: str, tokenizer: DirectTokenizer, f: Tensor, schedule: ScaleSchedule, codes: bool = True
) -> tuple[list[Tensor], list[Canvas]]:
    """Check tokens and, where ``codes``, vectors of every scale; returns tokens and canvases to go on with."""

    def keep_to_the_file(canvas: Canvas, k: int) -> Tensor:
        tokens = tokenizer.quantize(f, canvas, k)
        return checks.check(f"{prefix}/idx_{k}", tokens.flatten(1)).view_as(tokens)

    tokens, canvases = [], []
    for k, (found, canvas) in enumerate(tokenizer.walk(tokenizer.start(len(f), schedule), keep_to_the_file)):
        tokens.append(found)
        if codes:
            canvas = replace(canvas, latent=checks.check(f"{prefix}/quant_{k}", canvas.latent))
        canvases.append(canvas)
    return tokens, canvases


def _schedule(run: Settings, name: str) -> ScaleSchedule:
    return ScaleSchedule.of(setting(run, "patch_nums", name))


def _tokenizer_training(
    file: VectorFile, checks: Checks, name: str, tokenizer: DirectTokenizer, schedule: ScaleSchedule
) -> None:
    """Losses, usage of codes and gradients of one training pass."""
    parameters = dict(tokenizer.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_()
    latent, scalar = tokenizer.latent(file.input(f"{name}/image")), torch.zeros(())
    seen = torch.zeros(COUNTED, dtype=torch.int64)
    for k, scale in enumerate(tokenizer.straight_through(latent, schedule)):
        new = scale.tokens.flatten()[-COUNTED:]
        seen = torch.cat([seen[len(new) :], new])
        checks.check(f"{name}/train/usage_{k}", torch.tensor(len(seen.unique()) / tokenizer.choices))
        for kind, loss in (("vq", scale.vq), ("commit", scale.commit), ("entropy", scale.entropy)):
            checks.check(f"{name}/train/{kind}_loss_{k}", loss)
            scalar = scalar + loss
        scalar = scalar + (tokenizer.images(scale.codes) * file.input(f"{name}/cotangent_{k}")).sum()
    checks.check(f"{name}/train/scalar", scalar)
    gradients = torch.autograd.grad(scalar, list(parameters.values()), allow_unused=True, materialize_grads=True)
    official = convert.tokenizer_to_official(dict(zip(parameters, gradients, strict=True)), tokenizer.config)
    del official["quantize.codebook_used"]
    checks.check(f"{name}/train/grad_norms", torch.stack([official[one].norm() for one in sorted(official)]))
    prefix = f"{name}/train/grad/"
    for one in (stored.removeprefix(prefix) for stored in file.outputs if stored.startswith(prefix)):
        if one not in official:
            raise InputError(f"the file has a gradient of {one}, which this tokenizer does not have")
        checks.check(f"{prefix}{one}", official[one])
    tokenizer.requires_grad_(False)


def _teacher_forcing(
    file: VectorFile, checks: Checks, name: str, run: Settings, tokenizer: DirectTokenizer, model: FlexVAR
) -> None:
    """Tokens, inputs, logits, loss and gradients of a run on an image."""
    schedule, parameters = tokenizer.schedule, dict(model.named_parameters())
    with torch.no_grad():
        f = tokenizer.latent(file.input(setting(run, "image", name)))
        tokens, _ = encode(checks, name, tokenizer, f, schedule, codes=False)
        encoded = tokenizer.follow(tokens, schedule)
        checks.check(f"{name}/input", torch.cat([x.flatten(2).mT for x in encoded.inputs], 1))
        features = class_features(file.input("label_B"))
        checks.check(f"{name}/logits", model(encoded.inputs, model.condition(features), schedule))
    for parameter in parameters.values():
        parameter.requires_grad_()
    loss = _loss(model, encoded, features, float(run.get("label_smooth", 0.0)))
    checks.check(f"{name}/loss", loss)
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    ours = dict(zip(parameters, gradients, strict=True))
    official = {target.name: ours[one] for one, target in convert.model_targets(model.config).items()}
    checks.check(f"{name}/grad_norms", torch.stack([official[one].norm() for one in sorted(official)]))
    checks.check(f"{name}/grad_pos_1LC_rows", ours["pos_embedding"][None, :, ::8, ::8])
    model.requires_grad_(False)


def _loss(model: FlexVAR, encoded: Encoded, features: Features, smoothing: float) -> Tensor:
    noise = SampleNoise(0, 0, features.images, slice(None))
    loss, _ = teacher_forcing(Pupil(model, noise), encoded, features, noise, label_smoothing=smoothing)
    return loss


def plan_of(run: Settings, model: FlexVAR, schedule: ScaleSchedule, name: str) -> Plan:
    """The plan of a run's settings. Always two branches; the guidance is the model's, or the same at every scale."""
    cfg, constant = float(setting(run, "cfg", name)), bool(run.get("used_llamagen_cfg"))
    top_k, top_p = int(run.get("top_k", 0)), float(run.get("top_p", 0.0))
    plan = default_plan(model, schedule=schedule, guidance_scale=2.0, top_k=top_k, top_p=top_p)
    kind, scale = ("constant", cfg) if constant else (model.guidance, 1 + cfg)
    weights = SCHEDULES[kind](scale, schedule, model.schedule)
    return replace(plan, rows=tuple(replace(row, guidance=(w, 1 - w)) for row, w in zip(plan.rows, weights)))


def _generation(
    file: VectorFile,
    checks: Checks,
    name: str,
    run: Settings,
    schedule: ScaleSchedule,
    tokenizer: DirectTokenizer,
    model: FlexVAR,
) -> None:
    """One run through the real loop, comparing at every scale."""
    plan, labels, canvases = plan_of(run, model, schedule, name), file.input("label_B"), list[Canvas]()

    def compare(event: ScaleEvent) -> Canvas:
        k = event.k
        checks.check(f"{name}/logits_{k}", event.logits)
        tokens = checks.check(f"{name}/idx_{k}", event.tokens.flatten(1)).view_as(event.tokens)
        latent = checks.check(f"{name}/quant_{k}", tokenizer.codes(tokens))
        canvases.append(replace(event.canvas, latent=latent))
        if k + 1 < len(plan.rows):
            checks.check(f"{name}/next_input_{k + 1}", tokenizer.next_input(canvases[-1], k + 1))
        return canvases[-1]

    def compare_branches(k: int, number: int, logits: Tensor) -> Tensor:
        for half, rows in zip(("cond", "uncond"), logits.chunk(2), strict=True):
            checks.check(f"{name}/logits_{half}_{k}", rows)
        return logits

    noise = OfficialNoise(torch.Generator().manual_seed(int(run.get("g_seed", 0))))
    parts = {"tokenizer": tokenizer, "model": Followed(model, compare_branches)}
    for _ in generate(plan, parts, class_features(labels), noise, compare):
        pass
    checks.check(f"{name}/image", tokenizer.images(canvases[-1].latent))
