"""Outputs of whole generators: teacher forcing, one training step, and generation and editing through the real loop.

Nothing here computes what the library computes: plans are rows of ``Plan``, the loop is ``generate()``, and the stored
noise or an official generator is its noise source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.conditions.classes import class_features
from nextscale.errors import InputError
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.methods.paint import edit_mask, keep_masks, paint
from nextscale.models.base import Condition, NextScaleModel
from nextscale.pipeline import decode
from nextscale.plan import Plan, default_plan
from nextscale.sampling import GivenNoise, IndependentNoise, Noise, OfficialNoise, filter_logits
from nextscale.state import ScaleEvent
from nextscale.tokenizers.base import Canvas
from nextscale.tokenizers.residual import ResidualTokenizer
from nextscale.verification.report import Checks
from nextscale.verification.residual import check_encode, check_inputs
from nextscale.verification.vectors import VectorFile

Run = Mapping[str, Any]
Watch = Callable[[Checks, str, ScaleEvent], None]

GENERATOR = " (generator)"
"""Label of rows computed with the official generator's own noise, where the stored noise was checked first."""


def check_teacher_forcing(
    file: VectorFile, checks: Checks, tokenizer: ResidualTokenizer, model: NextScaleModel
) -> tuple[list[Tensor], list[Tensor]]:
    """Everything below ``tf/``; returns the token maps of in/image and the teacher-forcing inputs to go on with."""
    with torch.no_grad():
        f = checks.check("tf/f", tokenizer.latent(file.input("image")))
        maps = check_encode(checks, "tf/", tokenizer, f)
        inputs = check_inputs(checks, "tf/", tokenizer, maps)
        checks.check("tf/reconstruction", tokenizer.decode(tokenizer.follow(maps).canvas))
        checks.check("tf/logits", model(inputs, model.condition(class_features(file.input("label_B")))))
    return maps, inputs


def check_training_step(
    file: VectorFile,
    checks: Checks,
    model: NextScaleModel,
    maps: Sequence[Tensor],
    inputs: Sequence[Tensor],
    names: Sequence[str],
) -> None:
    """Loss and gradient norms of one step on (in/image, in/label_B). names: our parameters in the order of the
    norms."""
    parameters = dict(model.named_parameters())
    for p in parameters.values():
        p.requires_grad_()
    logits = model(inputs, model.condition(class_features(file.input("label_B"))))
    tokens = torch.cat([m.flatten(1) for m in maps], 1)
    smoothing = float(file.section("train").get("label_smooth", 0.0)) if "train" in file.config else 0.0
    loss = F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), label_smoothing=smoothing)
    checks.check("train/loss", loss)
    gradients = torch.autograd.grad(
        loss, [parameters[name] for name in names], allow_unused=True, materialize_grads=True
    )
    checks.check("train/grad_norms", torch.stack([g.norm() for g in gradients]))
    model.requires_grad_(False)


def check_run(
    file: VectorFile,
    checks: Checks,
    name: str,
    tokenizer: ResidualTokenizer,
    model: NextScaleModel,
    maps: list[Tensor],
    watch: Watch | None = None,
) -> None:
    """One run of ``config.sampling``, generation or editing. maps: the tokens of in/image; watch: checks what a system
    has to show after a scale beside the outputs that all systems have.
    """
    run = file.section("sampling")[name]
    if run.get("kind") not in ("generate", "edit"):
        checks.notes.append(f"run {name}: unknown kind {run.get('kind')!r}; its outputs were not computed")
        return
    images = int(run["B"])
    parts: dict[str, Any] = {"tokenizer": tokenizer, "model": model}
    generator = _generator(name, run)
    labels = _labels(file, checks, name, run, model, generator)
    plan = plan_of(run, model)
    if run["kind"] == "edit":
        given = GivenTokens([m[:images] for m in maps], _edit_masks(checks, name, run, plan, images))
        plan, parts = paint(plan, "given"), parts | {"given": given}
    stored = _stored_noise(file, name, run, plan)
    _follow(checks, name, plan, parts, labels, stored or IndependentNoise([0] * images), watch)
    if generator is None or run.get("noise") != "official":
        return
    if not _same_stream(file, name, plan, _copy(generator), images, tokenizer.choices):
        checks.notes.append(
            f"run {name}: this PyTorch's generator yields other noise than the stored one; only that was checked"
        )
        return
    _follow(checks, name, plan, parts, labels, OfficialNoise(generator), label=GENERATOR)


def plan_of(run: Run, model: NextScaleModel) -> Plan:
    """The plan of a run's settings: always two branches, whatever the guidance, as the official sampler has it."""
    plan = default_plan(
        model,
        guidance_scale=1 + run["cfg"],
        top_k=int(run.get("top_k", 0)),
        top_p=float(run.get("top_p", 0.0)),
        smooth=bool(run.get("more_smooth", False)),
    )
    if len(plan.branches) == 1:
        rows = tuple(replace(row, guidance=(1.0, 0.0)) for row in plan.rows)
        plan = replace(plan, rows=rows, branches=(*plan.branches, ()))
    return _in_passes(run, plan)


def _in_passes(run: Run, plan: Plan) -> Plan:
    """The same with the passes of ``schedule``, where a run has one: for every scale how many tokens stay after each.
    The later ones are guided as the official sampler does it, by ``again_cfg``, a millionth of ``cfg``.
    """
    stay, rows, t = run.get("schedule") or [], list(plan.rows), float(run.get("again_cfg", 1e-6 * run["cfg"]))
    for k, passes in enumerate(stay[: len(rows)]):
        if len(passes) > 1:
            rows[k] = replace(rows[k], passes=passes, again_guidance=(1 + t, -t))
    return replace(plan, rows=tuple(rows))


def _generator(name: str, run: Run) -> torch.Generator | None:
    """The official generator of a run whose noise comes from one."""
    if run.get("noise") not in (None, "stored", "official"):
        raise InputError(f"run {name}: unknown noise {run['noise']!r}; expected stored or official")
    drawn = run["labels"] is None if "labels" in run else "label_B" not in run
    if run.get("noise") != "official" and not drawn:
        return None
    if run.get("g_seed") is None:
        raise InputError(f"run {name} draws from a generator but names no g_seed")
    return torch.Generator().manual_seed(run["g_seed"])


def _labels(
    file: VectorFile, checks: Checks, name: str, run: Run, model: NextScaleModel, generator: torch.Generator | None
) -> Tensor:
    """Class ids (B,): given, one for all (negative: the null class), or drawn, the first thing the generator is used
    for."""
    wanted, images = run.get("labels", run.get("label_B")), int(run["B"])
    if wanted is None:
        assert generator is not None
        labels = OfficialNoise(generator).labels(images, model.reads["class"])
    elif isinstance(wanted, str):
        labels = file.input(wanted)[:images]
    else:
        labels = torch.tensor(wanted).expand(images)
        labels = torch.where(labels < 0, model.reads["class"], labels)
    return checks.check(f"{name}/label_B", labels, optional=wanted is not None)


def _edit_masks(checks: Checks, name: str, run: Run, plan: Plan, images: int) -> list[Tensor]:
    """The masks of an editing run, bool (B, h, w) for every scale."""
    mask = edit_mask(plan.schedule.grid, tuple(run["box_y0_x0_y1_x1"]), bool(run["inpainting"]))
    mask = checks.check(f"{name}/edit_mask", mask.float())
    masks = []
    for k, kept in enumerate(keep_masks(mask, plan.schedule)):
        masks.append(checks.check(f"{name}/keep_{k}", kept.expand(images, *kept.shape).float()) > 0.5)
    return masks


def _stored_noise(file: VectorFile, name: str, run: Run, plan: Plan) -> GivenNoise | None:
    """The noise of in/<run>/, for runs that have one."""
    if run.get("noise") is None:
        return None
    scales = range(len(plan.rows))
    exponential = {k: file.input(f"{name}/exp_{k}") for k in scales}
    smooth = plan.rows[0].smooth is not None
    gumbel = {k: file.input(f"{name}/gumbel_{k}") for k in scales} if smooth else None
    later = [(k, p) for k in scales for p in range(1, len(plan.rows[k].passes or ()))]
    passes = {(k, p): file.input(f"{name}/exp_{k}_{p}") for k, p in later}
    return GivenNoise(exponential, gumbel, passes=passes)


def _follow(
    checks: Checks,
    name: str,
    plan: Plan,
    parts: Mapping[str, Any],
    labels: Tensor,
    noise: Noise,
    watch: Watch | None = None,
    label: str = "",
) -> None:
    """Carry a run out, comparing at every scale and going on with the stored canvas where ours differs.

    A smooth run goes on with the stored logits and canvas in any case: its weights multiply the rounding of logits by
    up to 150, from scale to scale. label: sets the rows apart from those of another way to carry the run out.
    """
    canvases: list[Canvas] = []

    def compare_logits(k: int, number: int, branch_logits: Tensor) -> Tensor:
        halves, at = zip(("cond", "uncond"), branch_logits.chunk(2), strict=True), f"{k}_{number}" if number else f"{k}"
        go_on = [checks.check(f"{name}/logits_{half}_{at}", ours, label, restart=True) for half, ours in halves]
        return branch_logits if plan.rows[k].smooth is None else torch.cat(go_on)

    def compare(event: ScaleEvent) -> Canvas:
        k, row = event.k, event.row
        last = len(row.passes or ()) - 1
        at = f"{k}_{last}" if last > 0 else f"{k}"
        checks.check(f"{name}/logits_{at}", event.logits, label)
        filtered = filter_logits(event.logits, row.temperature, row.top_k, row.top_p, row.order)
        checks.check(f"{name}/kept_{at}", filtered > -torch.inf, label, optional=row.top_k == 1)
        if event.weights is not None:
            checks.check(f"{name}/weights_{k}", event.weights, label)
        checks.check(f"{name}/idx_{k}", event.drawn.flatten(1), label)
        restart = row.smooth is not None
        latent = checks.check(f"{name}/f_hat_{k}", event.canvas.latent, label, restart=restart)
        canvas = replace(event.canvas, latent=latent)
        if k + 1 < len(plan.rows):
            checks.check(f"{name}/next_input_{k + 1}", parts["tokenizer"].next_input(canvas, k + 1), label)
        if watch is not None:
            watch(checks, name, event)
        canvases.append(canvas)
        return canvas

    parts = {**parts, "model": Followed(parts["model"], compare_logits)}
    for _ in generate(plan, parts, class_features(labels), noise, compare):
        pass
    checks.check(f"{name}/image", decode(parts["tokenizer"], canvases[-1]), label)


class Followed:
    """A model that goes on with the logits that ``follow`` returns for a scale k, a pass, and its own logits
    (R, l, V).
    """

    def __init__(self, model: NextScaleModel, follow: Callable[[int, int, Tensor], Tensor]) -> None:
        self._model, self._follow, self._k = model, follow, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def step(self, inputs: Tensor | None, k: int, *rest: Any) -> Tensor:
        self._k = k
        return self._model.step(inputs, k, *rest)

    def head(self, hidden: Tensor, condition: Condition, number: int = 0) -> Tensor:
        return self._follow(self._k, number, self._model.head(hidden, condition, number))


def _copy(generator: torch.Generator) -> torch.Generator:
    return torch.Generator().set_state(generator.get_state())


def _same_stream(file: VectorFile, name: str, plan: Plan, generator: torch.Generator, images: int, codes: int) -> bool:
    """Whether the generator yields the stored noise, to the last bit or two; its float stream depends on PyTorch's
    build."""
    for k, row in enumerate(plan.rows):
        names = [f"exp_{k}", *(f"exp_{k}_{p}" for p in range(1, len(row.passes or ())))]
        for kind in names if row.smooth is None else [*names, f"gumbel_{k}"]:
            stored = file.inputs.get(f"{name}/{kind}")
            drawn = torch.empty((images, row.size[0] * row.size[1], codes)).exponential_(generator=generator)
            ours = drawn if kind.startswith("exp") else -drawn.log()
            if stored is None or stored.shape != ours.shape or not torch.allclose(ours, stored, rtol=1e-6, atol=1e-6):
                return False
    return True
