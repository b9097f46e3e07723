"""Infinity's vector files: which outputs every kind of file has, and the networks of its weights and configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert import infinity as convert
from nextscale.conditions.base import Features, Source
from nextscale.errors import InputError, quoted
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.layers.rope import Positions, rotary_table, rotate
from nextscale.memory.base import MemoryPlan
from nextscale.models.base import Condition, Slots
from nextscale.models.infinity import Infinity
from nextscale.plan import Plan
from nextscale.row import Row
from nextscale.sampling import GivenNoise, IndependentNoise, Noise, OfficialNoise
from nextscale.scales import ScaleSchedule
from nextscale.state import ScaleEvent
from nextscale.tokenizers.base import Canvas, Encoded
from nextscale.tokenizers.bitwise import BitwiseTokenizer, flipped
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.objectives.teacher_forcing import teacher_forcing
from nextscale.training.order import SampleNoise
from nextscale.verification.bitwise import check_bsq, check_vae, flips_of, rows_of, tokenizer_of
from nextscale.verification.report import Checks
from nextscale.verification.vectors import VectorFile, agree, setting

Settings = Mapping[str, Any]
POSITIONS: Mapping[int, Positions] = {2: "stretched", 1: "resampled", 0: "raw"}
"""What ``rope2d_normalized_by_hw`` means."""
GREEDY = 1
"""The ``top_k`` that leaves nothing to chance."""


def check_rope(file: VectorFile, checks: Checks) -> None:
    """Rotary tables of all scales, and queries and keys that they turn."""
    for name, run in file.section("runs").items():
        reference = ScaleSchedule.of([setting(run, "reference_grid", name)]).grid
        schedule, width = ScaleSchedule.of(setting(run, "schedule", name)), int(setting(run, "head_dim", name))
        positions = _positions(run)
        if width < 4 or width % 4:
            raise InputError(f"{name} has a head_dim of {width}; expected a multiple of 4")
        table = rotary_table(schedule, reference, width, torch.device("cpu"), positions)
        checks.check(f"{name}/table", table.movedim(-1, 0))
        for kind in ("q", "k"):
            if f"{name}/{kind}" in file.inputs:
                checks.check(f"{name}/{kind}", rotate(file.input(f"{name}/{kind}"), table))


def check_infinity(file: VectorFile, checks: Checks) -> None:
    """A whole generator: teacher forcing, training losses, and every run of ``config.gen``."""
    schedule = ScaleSchedule.of(setting(file.config, "schedule", "the file"))
    settings, vae = file.section("infinity"), file.section("vae")
    patchify = bool(settings.get("apply_spatial_patchify"))
    tokenizer = tokenizer_of(vae, file.model_state("vae"), schedule, patchify)
    reference = ScaleSchedule.of(file.config.get("rope_reference_schedule", file.config["schedule"]))
    model = model_of(settings, file.model_state("infinity"), schedule, reference)
    images = len(file.input("text"))
    features = Features(images, {"text": _text(file, "text", images)})
    encoded = _teacher_forcing(file, checks, tokenizer, model, features)
    _training(file, checks, model, encoded, features)
    runs = file.config.get("gen", {})
    for name, run in runs.items():
        _run(
            file,
            checks,
            name,
            run,
            tokenizer,
            model,
            texts=name == ("greedy" if "greedy" in runs else next(iter(runs))),
        )


KINDS: dict[str, Callable[[VectorFile, Checks], None]] = {
    "bsq": check_bsq,
    "vae": check_vae,
    "rope": check_rope,
    "infinity": check_infinity,
}
"""Kind of file to what computes and checks its outputs."""


def model_of(
    settings: Settings, state: Mapping[str, Tensor], schedule: ScaleSchedule, reference: ScaleSchedule
) -> Infinity:
    """The transformer of official weights, through our converter."""
    config = convert.model_config(
        state,
        schedule.sizes,
        schedules=(reference.sizes,),
        level_per_chunk=not settings.get("add_lvl_embeding_only_first_block", 1),
        norm_eps=float(settings.get("norm_eps", 1e-6)),
    )
    found = {"depth": config.depth, "embed_dim": config.width, "num_heads": config.heads, "block_chunks": config.chunks}
    agree(settings, found | {"text_channels": config.text_width, "text_maxlen": config.text_length})
    if not settings.get("rope2d_each_sa_layer", 1):
        raise InputError("the file's config says rope2d_each_sa_layer 0; expected 1, positions in every attention")
    config = replace(config, positions=_positions(settings))
    model = Infinity(config)
    model.load_state_dict(convert.model_from_official(state, config))
    return model.eval().requires_grad_(False)


def _positions(settings: Settings) -> Positions:
    mode = settings.get("rope2d_normalized_by_hw", 2)
    if mode not in POSITIONS:
        raise InputError(f"rope2d_normalized_by_hw is {quoted(mode)}; expected one of {', '.join(map(str, POSITIONS))}")
    return POSITIONS[mode]


def _per_scale(run: Settings, name: str, where: str, scales: int) -> list[float]:
    """A setting for every scale; the official sampler also takes one number for all."""
    given = setting(run, name, where)
    values = given if isinstance(given, list) else [given] * scales
    if len(values) < scales or not all(isinstance(one, int | float) for one in values):
        raise InputError(f"run {where} has {name} {quoted(given)}; expected a number, or {scales}, one for every scale")
    return [float(one) for one in values[:scales]]


def _text(file: VectorFile, name: str, images: int) -> Source:
    states, mask = file.input(name)[:images], file.input(f"{name}_mask")[:images].bool()
    if states.ndim != 3 or mask.shape != states.shape[:2] or len(states) != images:
        shapes = f"{tuple(file.input(name).shape)} with a mask {tuple(file.input(f'{name}_mask').shape)}"
        raise InputError(f"in/{name} is {shapes}; expected (B, T, C) and (B, T), of at least {images} texts")
    return Source("text", {"states": states, "mask": mask})


def _teacher_forcing(
    file: VectorFile, checks: Checks, tokenizer: BitwiseTokenizer, model: Infinity, features: Features
) -> Encoded:
    """Everything below ``tf/``; returns the walk over in/image to go on with."""
    with torch.no_grad():
        f = checks.check("tf/features", tokenizer.latent(file.input("image")))
        encoded = tokenizer.encode(f, hook=flipped(flips_of(file, "tf", tokenizer)))
        checks.check("tf/labels", torch.cat([t.flatten(1, 2) for t in encoded.tokens], 1))
        checks.check("tf/next_input", torch.cat([rows_of(x) for x in encoded.inputs], 1))
        vector, context, mask = model.read(features, (model.sources,))
        checks.check("tf/cond", vector)
        checks.check("tf/context", context[mask])
        logits = model(encoded.inputs, model.condition(features))
        checks.check("tf/logits", logits.flatten(2))
    return encoded


def _training(file: VectorFile, checks: Checks, model: Infinity, encoded: Encoded, features: Features) -> None:
    """Loss and gradient norms of every variant in ``config.train``."""
    names = convert.official_parameter_names(model.config)
    order = file.metadata.get("param_names", sorted(names))
    if unknown := [official for official in order if official not in names]:
        raise InputError(f"param_names has {quoted(unknown[0])}, which this Infinity does not have")
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_()
    for name, run in file.config.get("train", {}).items():
        count = min(int(run.get("always_training_scales", len(model.schedule))), len(model.schedule))
        schedule = model.schedule.prefix(count)
        part = Encoded(encoded.tokens[:count], encoded.inputs[: count - 1], replace(encoded.canvas, schedule=schedule))
        weights = [(h * w) ** -0.5 for h, w in schedule] if run.get("reweight_loss_by_scale") else None
        drop = run.get("drop", [0] * features.images)
        if len(drop) != features.images:
            raise InputError(
                f"train {name} has a drop of {len(drop)} texts; expected one for each of {features.images}"
            )
        dropped = features.drop("text", torch.tensor(drop, dtype=torch.bool))
        noise = SampleNoise(0, 0, features.images, slice(None))
        pupil, smoothing = Pupil(model, noise), float(run.get("label_smooth", 0.0))
        loss, _ = teacher_forcing(pupil, part, dropped, noise, label_smoothing=smoothing, scale_weights=weights)
        if run.get("bitloss_type") == "sum":
            loss = loss * model.draws
        checks.check(f"train/{name}/loss", loss)
        leaves = [parameters[names[official]] for official in order]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        checks.check(f"train/{name}/grad_norms", torch.stack([g.norm() for g in gradients]))
    model.requires_grad_(False)


def _run(
    file: VectorFile,
    checks: Checks,
    name: str,
    run: Settings,
    tokenizer: BitwiseTokenizer,
    model: Infinity,
    texts: bool,
) -> None:
    """One generation run, through the real loop. texts: whether the summed up texts and their contexts are compared."""
    images, plan = int(setting(run, "B", name)), plan_of(run, model, name)
    sources = {"text": _text(file, "text", images)}
    if run.get("negative"):
        sources["negative"] = _text(file, "negative_text", images)
    else:
        sources["negative"] = replace(sources["text"], dropped=torch.ones(images, dtype=torch.bool))
    features = Features(images, sources)
    parts: dict[str, Any] = {"tokenizer": tokenizer, "model": model}
    leaked = min(int(run.get("gt_leak", 0)), len(plan.rows))
    if leaked:
        given = [tokenizer.gather(file.input(f"{name}/leak_bits_{k}").float()).long() for k in range(leaked)]
        parts["given"] = GivenTokens(given, [torch.ones(plan.rows[k].size, dtype=torch.bool) for k in range(leaked)])
    if texts:
        with torch.no_grad():
            vector, context, mask = model.read(features, plan.branches)
        checks.check("text/cond", vector, optional=True)
        checks.check("text/context", context[mask], optional=True)
    canvases: list[Canvas] = []
    parts["model"] = _Followed(
        model, checks, name, images, _mixes(run, model, name), _per_scale(run, "cfg", name, len(plan.rows))
    )

    def compare(event: ScaleEvent) -> Canvas:
        k = event.k
        checks.check(f"{name}/logits_{k}", event.logits.flatten(2) / event.row.temperature)
        bits = checks.check(f"{name}/bits_{k}", tokenizer.spread(event.tokens.float()) > 0.5)
        canvas = event.canvas
        if not torch.equal(tokenizer.gather(bits.float()).long(), event.tokens):
            before = canvases[-1] if canvases else tokenizer.start(images, plan.schedule)
            canvas = tokenizer.accumulate(before, tokenizer.codes(tokenizer.gather(bits.float()).long()), k)
        canvas = replace(canvas, latent=checks.check(f"{name}/canvas_{k}", canvas.latent))
        if k + 1 < len(plan.rows):
            checks.check(f"{name}/next_input_{k + 1}", rows_of(tokenizer.next_input(canvas, k + 1)))
        canvases.append(canvas)
        return canvas

    for _ in generate(plan, parts, features, _noise(file, run, plan, images, name), compare):
        pass
    image = checks.check(f"{name}/image", tokenizer.decode(canvases[-1]))
    if run.get("uint8"):
        checks.check(f"{name}/image_uint8_bgr", ((image + 1) / 2 * 255).to(torch.uint8).movedim(1, -1).flip(-1))


def _noise(file: VectorFile, run: Settings, plan: Plan, images: int, name: str) -> Noise:
    """The stored noise, or that of the official generator; a run that leaves nothing to chance needs none."""
    if run.get("noise"):
        return GivenNoise({k: file.input(f"{run['noise']}/noise_{k}") for k in range(len(plan.rows))})
    if run.get("g_seed") is not None:
        return OfficialNoise(torch.Generator().manual_seed(int(run["g_seed"])))
    if any(row.top_k != GREEDY and row.keep is None for row in plan.rows):
        raise InputError(f"run {name} draws bits, but names no noise and no g_seed")
    return IndependentNoise([0] * images)


def _insertions(run: Settings, name: str) -> list[int]:
    """Where branches are mixed: 0 is the logits, -n the n-th last block."""
    places = run.get("cfg_insertion_layer", [0])
    if not isinstance(places, list) or not all(isinstance(place, int) for place in places):
        raise InputError(f"run {name} has cfg_insertion_layer {quoted(places)}; expected a list of whole numbers")
    return places


def _mixes(run: Settings, model: Infinity, name: str) -> list[int]:
    """The blocks after which branches are mixed, in ascending order."""
    depth = model.config.depth
    blocks = sorted({depth + place for place in _insertions(run, name) if place < 0})
    if blocks and blocks[0] < 0:
        raise InputError(f"run {name} mixes at {blocks[0] - depth}; expected -{depth} or more, the first of the blocks")
    return blocks


def plan_of(run: Settings, model: Infinity, name: str) -> Plan:
    """The plan of a run's settings: two branches if any scale is guided; one that is not has the weights 1 and 0."""
    count = min(int(run.get("trunk_scale", len(model.schedule))), len(model.schedule))
    cfg, tau = (_per_scale(run, one, name, count) for one in ("cfg", "tau"))
    guided = any(weight != 1 for weight in (run["cfg"] if isinstance(run["cfg"], list) else cfg))
    rows, at_logits = [], 0 in _insertions(run, name)
    for k, size in enumerate(model.schedule.sizes[:count]):
        weight = cfg[k] if at_logits else 1.0
        rows.append(
            Row(
                size=size,
                guidance=(weight, 1 - weight) if guided else (1.0,),
                temperature=tau[k],
                top_k=min(int(run.get("top_k", 900)), model.choices),
                top_p=float(run.get("top_p", 0.97)),
                keep="given" if k < int(run.get("gt_leak", 0)) else None,
            )
        )
    branches = (model.sources, model.away_from) if guided else (model.sources,)
    return Plan(tuple(rows), branches, {"model": MemoryPlan("full")}, undrawn=model.schedule.sizes[count:])


class _Followed:
    """A model that compares the logits of its branches, and mixes branches after several blocks and in the logits, too:
    the official sampler may do all of these, and a row of a plan does one of them.
    """

    def __init__(
        self, model: Infinity, checks: Checks, name: str, images: int, mixes: list[int], cfg: list[float]
    ) -> None:
        self._model, self._checks, self._name, self._images = model, checks, name, images
        self._mixes, self._cfg, self._k = mixes, cfg, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def step(self, inputs: Tensor | None, k: int, condition: Condition, memory: Slots, *_: Any) -> Tensor:
        self._k, weight, done = k, self._cfg[k], 0
        x = self._model.embed(inputs, k, condition, memory.schedule)
        for last in self._mixes if weight != 1 else ():
            x = self._model.run(x, k, condition, memory, range(done, last + 1), (last, (weight, 1 - weight)))
            done = last + 1
        return self._model.run(x, k, condition, memory, range(done, self._model.config.depth))

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        logits = self._model.head(hidden, condition, number)
        for half, rows in zip(("cond", "uncond"), logits.split(self._images), strict=False):
            self._checks.check(f"{self._name}/logits_{half}_{self._k}", rows.flatten(2), optional=half == "uncond")
        return logits
