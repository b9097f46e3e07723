"""M-VAR's vector files: one Mamba-2 layer, and whole generators with the states they carry from scale to
scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert import m_var as convert
from nextscale.layers.mamba2 import Mamba2
from nextscale.memory.recurrent import RecurrentMemory
from nextscale.models.m_var import MVAR
from nextscale.state import ScaleEvent
from nextscale.verification.generation import check_run, check_teacher_forcing, check_training_step
from nextscale.verification.report import Checks
from nextscale.verification.residual import check_phi
from nextscale.verification.var import norm_order, tokenizer_of
from nextscale.verification.vectors import VectorFile, agree


class _Held:
    """A slot that belongs to nobody: it holds whatever state it is given."""

    state: tuple[Tensor, ...] | None = None


def check_mamba2(file: VectorFile, checks: Checks) -> None:
    """A layer over the whole sequence, piece by piece with a carried state, and all gradients."""
    settings = file.section("mamba2")
    layer = Mamba2(settings["d_model"], settings["d_state"], settings["headdim"], settings["expand"])
    layer.load_state_dict(file.state)
    u = file.input("u").requires_grad_()
    y = layer(u, _Held())
    checks.check("y", y)
    gradients = torch.autograd.grad((y * file.input("cotangent")).sum(), [u, *layer.parameters()])
    for name, gradient in zip(["grad_u", *(f"grad/{name}" for name, _ in layer.named_parameters())], gradients):
        checks.check(name, gradient)
    slot = _Held()
    with torch.no_grad():
        pieces = []
        for i, piece in enumerate(u.split(file.config["pieces"], 1)):
            pieces.append(layer(piece, slot))
            assert slot.state is not None
            checks.check(f"conv_tail_{i}", slot.state[0])
            checks.check(f"ssm_{i}", slot.state[1])
    checks.check("y", torch.cat(pieces, 1), " (in pieces)")


def check_m_var(file: VectorFile, checks: Checks) -> None:
    """A whole generator: teacher forcing, one training step, every run of ``config.sampling``, and its
    states.
    """
    tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"))
    model = model_of(file.section("m_var"), file.model_state("m_var"))
    check_phi(file, checks, tokenizer)
    maps, inputs = check_teacher_forcing(file, checks, tokenizer, model)
    names = norm_order(file, convert.model_targets(model.config))
    check_training_step(file, checks, model, maps, inputs, names)
    for name, run in file.section("sampling").items():
        check_run(file, checks, name, tokenizer, model, maps, partial(_check_states, run.get("states")))


def _check_states(stored: str | None, checks: Checks, name: str, event: ScaleEvent) -> None:
    """The committed state of every block after a scale, against what the exact recurrence left.

    stored: which SSM states the file has, "all" or the "last" scale's; None where it has no states.
    """
    assert isinstance(event.memory, RecurrentMemory)
    last = event.canvas.done == len(event.canvas.schedule)
    for block, (conv_tail, ssm) in enumerate(event.memory.committed.values()):
        place = f"{name}/block_{block}"
        checks.check(f"{place}/conv_tail_{event.k}", conv_tail, optional=stored is None)
        checks.check(f"{place}/ssm_{event.k}", ssm, optional=stored is None or (stored == "last" and not last))


KINDS: dict[str, Callable[[VectorFile, Checks], None]] = {"mamba2": check_mamba2, "m_var": check_m_var}
"""Kind of file to what computes and checks its outputs."""


def model_of(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> MVAR:
    """The transformer of official weights, through our converter; what the file says of it must be what its
    tensors show.
    """
    config = convert.model_config(
        state, settings["patch_nums"], heads=settings.get("num_heads"), norm_eps=settings.get("norm_eps", 1e-6)
    )
    found = {
        "depth": config.depth,
        "embed_dim": config.width,
        "num_heads": config.heads,
        "num_classes": config.classes,
        "attn_l2_norm": config.l2_norm,
    }
    agree(settings, found)
    model = MVAR(config)
    model.load_state_dict(convert.model_from_official(state, config))
    return model.eval().requires_grad_(False)
