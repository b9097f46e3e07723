"""Infinity's vector files: which outputs every kind of file has, and the networks of its weights and configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert import bitwise
from nextscale.checkpoints.convert import infinity as convert
from nextscale.conditions.base import Features, Source
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.layers.rope import Positions, rotary_table, rotate
from nextscale.memory.base import MemoryPlan
from nextscale.models.base import Condition, Mix
from nextscale.models.infinity import Infinity
from nextscale.plan import Plan
from nextscale.row import Row
from nextscale.sampling import GivenNoise, IndependentNoise
from nextscale.scales import ScaleSchedule
from nextscale.state import ScaleEvent
from nextscale.tokenizers.autoencoder import AutoencoderConfig, interpolate
from nextscale.tokenizers.base import Canvas, Encoded, EncodeHook
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer, bits_of, flipped
from nextscale.training.objectives.lesson import Pupil
from nextscale.training.objectives.teacher_forcing import teacher_forcing
from nextscale.training.order import SampleNoise
from nextscale.verification.report import Checks
from nextscale.verification.vectors import VectorFile

Settings = Mapping[str, Any]
POSITIONS: Mapping[int, Positions] = {2: "stretched", 1: "resampled", 0: "raw"}
"""What ``rope2d_normalized_by_hw`` means."""


def check_bsq(file: VectorFile, checks: Checks) -> None:
    """A quantiser alone: bits, canvases, inputs, gradients, self-correction and integer labels."""
    bits = int(file.section("quantizer")["dim"])
    if "index" in file.inputs:
        label = bits_of(file.input("index"), bits)
        checks.check("index/bits", label.bool())
        checks.check("index/codes", _quantizer(bits, ScaleSchedule.of([1]), False).codes(label))
        checks.check("index/mask", 2 ** torch.arange(bits - 1, -1, -1))
    for name, run in file.section("runs").items():
        schedule, f = ScaleSchedule.of(run["schedule"]), file.input(f"{name}/f")
        tokenizer = _quantizer(bits, schedule, bool(run.get("patchify")))
        canvases = [canvas.latent for canvas in _encode(checks, name, tokenizer, f)]
        for k in range(1, len(schedule)):
            size = tuple(side * tokenizer.patch for side in schedule[k])
            assert len(size) == 2
            checks.check(f"{name}/area_input_{k}", interpolate(canvases[k - 1], size, "area"))
        leaf = f.clone().requires_grad_()
        drawn, _, _ = tokenizer.straight_through(leaf)
        checks.check(f"{name}/quantized", drawn)
        checks.check(f"{name}/grad_f", torch.autograd.grad((drawn * file.input(f"{name}/cotangent")).sum(), leaf)[0])
        for correction in run.get("bsc", {}):
            flips = _flips(file, f"{name}/{correction}", tokenizer)
            _encode(checks, f"{name}/{correction}", tokenizer, f, flipped(flips), bits=False)


def check_vae(file: VectorFile, checks: Checks) -> None:
    """A whole tokenizer: latents, bits, canvases, the images of all of them."""
    for name, run in file.section("runs").items():
        schedule = ScaleSchedule.of(run["schedule"])
        tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"), schedule, patchify=False)
        f = checks.check(f"{name}/features", tokenizer.latent(file.input(f"{name}/image")))
        canvases = _encode(checks, name, tokenizer, f, labels=False)
        for k, canvas in enumerate(canvases):
            checks.check(f"{name}/image_{k}", tokenizer.decode(canvas))
        checks.check(f"{name}/quantized", canvases[-1].latent)
        checks.check(f"{name}/reconstruction", tokenizer.decode(canvases[-1]))


def check_rope(file: VectorFile, checks: Checks) -> None:
    """Rotary tables of all scales, and queries and keys that they turn."""
    for name, run in file.section("runs").items():
        reference = ScaleSchedule.of([run["reference_grid"]]).grid
        positions = POSITIONS[run["rope2d_normalized_by_hw"]]
        schedule, width = ScaleSchedule.of(run["schedule"]), int(run["head_dim"])
        table = rotary_table(schedule, reference, width, torch.device("cpu"), positions)
        checks.check(f"{name}/table", table.movedim(-1, 0))
        for kind in ("q", "k"):
            if f"{name}/{kind}" in file.inputs:
                checks.check(f"{name}/{kind}", rotate(file.input(f"{name}/{kind}"), table))


def check_infinity(file: VectorFile, checks: Checks) -> None:
    """A whole generator: teacher forcing, training losses, and every run of ``config.gen``."""
    schedule = ScaleSchedule.of(file.config["schedule"])
    settings, vae = file.section("infinity"), file.section("vae")
    patchify = bool(settings.get("apply_spatial_patchify"))
    tokenizer = tokenizer_of(vae, file.model_state("vae"), schedule, patchify)
    reference = ScaleSchedule.of(file.config.get("rope_reference_schedule", file.config["schedule"]))
    model = model_of(settings, file.model_state("infinity"), schedule, reference)
    features = Features(len(file.input("text")), {"text": _text(file, "text", len(file.input("text")))})
    encoded = _teacher_forcing(file, checks, tokenizer, model, features)
    _training(file, checks, model, encoded, features)
    for name, run in file.section("gen").items():
        _run(file, checks, name, run, tokenizer, model)


KINDS: dict[str, Callable[[VectorFile, Checks], None]] = {
    "bsq": check_bsq,
    "vae": check_vae,
    "rope": check_rope,
    "infinity": check_infinity,
}
"""Kind of file to what computes and checks its outputs."""


def tokenizer_of(
    settings: Settings, state: Mapping[str, Tensor], schedule: ScaleSchedule, patchify: bool
) -> BitwiseTokenizer:
    """The tokenizer of official weights, through our converter."""
    config = bitwise.tokenizer_config(state, schedule.sizes, patchify=patchify)
    tokenizer = BitwiseTokenizer(config)
    tokenizer.load_state_dict(bitwise.tokenizer_from_official(state, config))
    return tokenizer.eval().requires_grad_(False)


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
    config = replace(config, positions=POSITIONS[settings.get("rope2d_normalized_by_hw", 2)])
    model = Infinity(config)
    model.load_state_dict(convert.model_from_official(state, config))
    return model.eval().requires_grad_(False)


def _quantizer(bits: int, schedule: ScaleSchedule, patchify: bool) -> BitwiseTokenizer:
    """A tokenizer of which the quantiser alone is of interest."""
    stand_in = AutoencoderConfig(ch=1, mult=(1,), z=bits, res_blocks=1, attention=False, mid_attention=False, groups=1)
    config = BitwiseConfig(bits=bits, sizes=schedule.sizes, patchify=patchify, autoencoder=stand_in)
    return BitwiseTokenizer(config).requires_grad_(False)


def _flips(file: VectorFile, prefix: str, tokenizer: BitwiseTokenizer) -> list[Tensor]:
    """The bits that a self-correction run turns over, scale by scale, as long as the file has some."""
    found = []
    while f"{prefix}/flip_{len(found)}" in file.inputs:
        found.append(tokenizer.gather(file.input(f"{prefix}/flip_{len(found)}").float()) > 0.5)
    return found


def _encode(
    checks: Checks,
    prefix: str,
    tokenizer: BitwiseTokenizer,
    f: Tensor,
    hook: EncodeHook | None = None,
    *,
    bits: bool = True,
    labels: bool = True,
) -> list[Canvas]:
    """Bits and canvas of every scale, labels and inputs of all; returns the canvases. bits, labels: whether the file
    has the bits scale by scale, and those of all scales with the inputs.
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
            inputs.append(_rows(tokenizer.next_input(canvases[-1], k)))
        tokens.append(found)
        canvases.append(replace(canvas, latent=checks.check(f"{prefix}/canvas_{k}", canvas.latent)))
    if labels:
        checks.check(f"{prefix}/labels", torch.cat([found.flatten(1, 2) for found in tokens], 1))
        checks.check(f"{prefix}/next_input", torch.cat(inputs, 1))
    return canvases[1:]


def _rows(maps: Tensor) -> Tensor:
    """(B, c, h, w) to (B, h w, c)."""
    return maps.flatten(2).mT


def _text(file: VectorFile, name: str, images: int) -> Source:
    return Source("text", {"states": file.input(name)[:images], "mask": file.input(f"{name}_mask")[:images]})


def _teacher_forcing(
    file: VectorFile, checks: Checks, tokenizer: BitwiseTokenizer, model: Infinity, features: Features
) -> Encoded:
    """Everything below ``tf/``; returns the walk over in/image to go on with."""
    with torch.no_grad():
        f = checks.check("tf/features", tokenizer.latent(file.input("image")))
        encoded = tokenizer.encode(f, hook=flipped(_flips(file, "tf", tokenizer)))
        checks.check("tf/labels", torch.cat([t.flatten(1, 2) for t in encoded.tokens], 1))
        checks.check("tf/next_input", torch.cat([_rows(x) for x in encoded.inputs], 1))
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
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_()
    for name, run in file.section("train").items():
        count = min(int(run.get("always_training_scales", len(model.schedule))), len(model.schedule))
        schedule = model.schedule.prefix(count)
        part = Encoded(encoded.tokens[:count], encoded.inputs[: count - 1], replace(encoded.canvas, schedule=schedule))
        weights = [(h * w) ** -0.5 for h, w in schedule] if run.get("reweight_loss_by_scale") else None
        dropped = features.drop("text", torch.tensor(run["drop"], dtype=torch.bool))
        noise = SampleNoise(0, 0, features.images, slice(None))
        pupil, smoothing = Pupil(model, noise), float(run.get("label_smooth", 0.0))
        loss, _ = teacher_forcing(pupil, part, dropped, noise, label_smoothing=smoothing, scale_weights=weights)
        checks.check(f"train/{name}/loss", loss)
        leaves = [parameters[names[official]] for official in order]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        checks.check(f"train/{name}/grad_norms", torch.stack([g.norm() for g in gradients]))
    model.requires_grad_(False)


def _run(
    file: VectorFile, checks: Checks, name: str, run: Settings, tokenizer: BitwiseTokenizer, model: Infinity
) -> None:
    """One generation run, through the real loop."""
    images, plan = int(run["B"]), plan_of(run, model)
    sources = {"text": _text(file, "text", images)}
    if run.get("negative"):
        sources["negative"] = _text(file, "negative_text", images)
    else:
        sources["negative"] = replace(sources["text"], dropped=torch.ones(images, dtype=torch.bool))
    features = Features(images, sources)
    parts: dict[str, Any] = {"tokenizer": tokenizer, "model": model}
    leaked = int(run.get("gt_leak", 0))
    if leaked:
        given = [tokenizer.gather(file.input(f"{name}/leak_bits_{k}").float()).long() for k in range(leaked)]
        parts["given"] = GivenTokens(given, [torch.ones(plan.rows[k].size, dtype=torch.bool) for k in range(leaked)])
    noise = IndependentNoise([0] * images)
    if "noise" in run:
        noise = GivenNoise({k: file.input(f"{run['noise']}/noise_{k}") for k in range(len(plan.rows))})
    if name == "greedy":
        with torch.no_grad():
            vector, context, mask = model.read(features, plan.branches)
        checks.check("text/cond", vector, optional=True)
        checks.check("text/context", context[mask], optional=True)
    canvases: list[Canvas] = []
    inserted = max((-n for n in run["cfg_insertion_layer"] if n < 0), default=0)
    parts["model"] = _Followed(model, checks, name, run, model.config.depth - inserted if inserted else None)

    def compare(event: ScaleEvent) -> Canvas:
        k = event.k
        checks.check(f"{name}/logits_{k}", event.logits.flatten(2) / run["tau"][k])
        bits = checks.check(f"{name}/bits_{k}", tokenizer.spread(event.tokens.float()) > 0.5)
        canvas = event.canvas
        if not torch.equal(tokenizer.gather(bits.float()).long(), event.tokens):
            before = canvases[-1] if canvases else tokenizer.start(images, plan.schedule)
            canvas = tokenizer.accumulate(before, tokenizer.codes(tokenizer.gather(bits.float()).long()), k)
        canvas = replace(canvas, latent=checks.check(f"{name}/canvas_{k}", canvas.latent))
        if k + 1 < len(plan.rows):
            checks.check(f"{name}/next_input_{k + 1}", _rows(tokenizer.next_input(canvas, k + 1)))
        canvases.append(canvas)
        return canvas

    for _ in generate(plan, parts, features, noise, compare):
        pass
    image = checks.check(f"{name}/image", tokenizer.decode(canvases[-1]))
    if run.get("uint8"):
        checks.check(f"{name}/image_uint8_bgr", ((image + 1) / 2 * 255).to(torch.uint8).movedim(1, -1).flip(-1))


def plan_of(run: Settings, model: Infinity) -> Plan:
    """The plan of a run's settings: two branches if any scale is guided; one that is not has the weights 1 and 0."""
    count = min(int(run.get("trunk_scale", len(model.schedule))), len(model.schedule))
    guided = any(weight != 1 for weight in run["cfg"])
    rows = []
    for k, size in enumerate(model.schedule.sizes[:count]):
        weight = float(run["cfg"][k]) if 0 in run["cfg_insertion_layer"] else 1.0
        rows.append(
            Row(
                size=size,
                guidance=(weight, 1 - weight) if guided else (1.0,),
                temperature=float(run["tau"][k]),
                top_k=min(int(run["top_k"]), model.choices),
                top_p=float(run["top_p"]),
                keep="given" if k < int(run.get("gt_leak", 0)) else None,
            )
        )
    branches = (model.sources, model.away_from) if guided else (model.sources,)
    return Plan(tuple(rows), branches, {"model": MemoryPlan("full")}, undrawn=model.schedule.sizes[count:])


class _Followed:
    """A model whose branches' logits are compared, and that mixes branches after a block, too: the official sampler
    may do both, a row of a plan does one of them.
    """

    def __init__(self, model: Infinity, checks: Checks, name: str, run: Settings, after: int | None) -> None:
        self._model, self._checks, self._name, self._run, self._k = model, checks, name, run, 0
        self._after = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def step(self, inputs: Tensor | None, k: int, *rest: Any) -> Tensor:
        self._k, weight = k, float(self._run["cfg"][k])
        mixed: Mix | None = None if self._after is None or weight == 1 else (self._after, (weight, 1 - weight))
        return self._model.step(inputs, k, *rest[:-1], mixed)

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        logits = self._model.head(hidden, condition, number)
        images = int(self._run["B"])
        for i, half in enumerate(("cond", "uncond")[: len(logits) // images]):
            rows = logits[i * images : (i + 1) * images].flatten(2)
            self._checks.check(f"{self._name}/logits_{half}_{self._k}", rows, optional=half == "uncond")
        return logits
