"""HMAR's vector files: whole generators, both branches over all scales at once, the losses of both stages, and runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.checkpoints.convert import hmar as convert
from nextscale.conditions.classes import class_features
from nextscale.models.base import Again
from nextscale.models.hmar import HMAR
from nextscale.tokenizers.residual import ResidualTokenizer
from nextscale.training.objectives.teacher_forcing import token_weights
from nextscale.verification.generation import check_run, check_teacher_forcing
from nextscale.verification.report import Checks
from nextscale.verification.residual import check_phi
from nextscale.verification.var import tokenizer_of
from nextscale.verification.vectors import VectorFile, agree


def check_hmar(file: VectorFile, checks: Checks) -> None:
    """A whole generator: teacher forcing and its losses, the masked branch, and every run of ``config.sampling``."""
    tokenizer = tokenizer_of(file.section("vae"), file.model_state("vae"))
    model = model_of(file.section("hmar"), file.model_state("hmar"))
    check_phi(file, checks, tokenizer)
    maps, inputs = check_teacher_forcing(file, checks, tokenizer, model)
    if any(name.startswith("train/") for name in file.outputs):
        _check_losses(file, checks, model, maps, inputs)
    if "mask_1" in file.inputs:
        _check_masked(file, checks, tokenizer, model, maps, inputs)
    for name in file.config.get("sampling", {}):
        check_run(file, checks, name, tokenizer, model, maps)


@torch.no_grad()
def _check_losses(file: VectorFile, checks: Checks, model: HMAR, maps: list[Tensor], inputs: list[Tensor]) -> None:
    """``train/loss_*``: the first stage's, by every weighting; the official ``equal`` sums to the number of scales."""
    logits = model(inputs, model.condition(class_features(file.input("label_B"))))
    tokens = torch.cat([m.flatten(1) for m in maps], 1)
    losses = F.cross_entropy(logits.movedim(-1, 1), tokens, reduction="none")
    checks.check("train/loss", losses.mean(), optional=True)
    for kind, whole in (("lognorm", 1), ("equal", len(maps))):
        weights = token_weights(kind, model.schedule) * whole  # type: ignore[arg-type]
        loss = (losses * weights).mean()
        checks.check(f"train/loss_{kind}", loss.to(checks.outputs.get(f"train/loss_{kind}", loss).dtype), optional=True)


@torch.no_grad()
def _check_masked(
    file: VectorFile,
    checks: Checks,
    tokenizer: ResidualTokenizer,
    model: HMAR,
    maps: list[Tensor],
    inputs: list[Tensor],
) -> None:
    """``masked/logits`` of all scales, of which in/mask_k (l) or (B, l), bool or 0 and 1, says what is masked, and
    ``masked/loss``, the mean over what is.
    """
    told, places = list[Again | None]([None]), [torch.zeros_like(maps[0].flatten(1), dtype=torch.bool)]
    for k, tokens in enumerate(maps[1:], 1):
        masked = file.input(f"mask_{k}").reshape(-1, tokens.shape[1] * tokens.shape[2]).bool()
        own = tokenizer.own_input(tokens, k, None, masked if model.hides_masked else None)
        told.append(Again(tokens, own, masked, 1))
        places.append(masked.expand(len(tokens), -1))
    logits = model(inputs, model.condition(class_features(file.input("label_B"))), again=told)
    checks.check("masked/logits", logits)
    hidden, tokens = torch.cat(places, 1), torch.cat([m.flatten(1) for m in maps], 1)
    checks.check("masked/loss", F.cross_entropy(logits[hidden], tokens[hidden]), optional=True)


KINDS: dict[str, Callable[[VectorFile, Checks], None]] = {"hmar": check_hmar}
"""Kind of file to what computes and checks its outputs."""


def model_of(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> HMAR:
    """The transformer of official weights, through our converter; what the file says of it must be what its tensors
    show.
    """
    config = convert.config("model", state, settings["patch_nums"])
    found = {
        "depth": config.depth,
        "embed_dim": config.width,
        "num_heads": config.heads,
        "num_classes": config.classes,
        "shared_aln": config.shared_adaln,
        "attn_l2_norm": config.l2_norm,
        "num_mask_blocks": config.mask_blocks,
    }
    agree(settings, found)
    model = HMAR(config)
    model.load_state_dict(convert.from_official(state, config))
    return model.eval().requires_grad_(False)
