"""HMAR's official names and ours, both ways (arXiv 2506.04421; names as published, none of the code was read).

There are three kinds of file: both stages in one (``hmar-d16.pth``), and what either stage of training leaves. The
first stage's has exactly VAR's names, so that its mask alone tells them apart; the second's is merged with it. The
tokenizer is VAR's own. Configurations are read off names and shapes; buffers are dropped on the way in and computed
anew on the way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert import var
from nextscale.checkpoints.convert.renaming import Target, Targets, count, marked, to_ours, to_theirs, zeros_like_first
from nextscale.checkpoints.shapes import without_values
from nextscale.errors import CheckpointError, InputError
from nextscale.models.hmar import HMAR, HMARConfig
from nextscale.models.var import VARConfig
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.residual import ResidualConfig

StateDict = Mapping[str, Tensor]

TRANSFORMER = "HMAR transformer"
MARKS = {"model": (*var.MARKS["model"], "mask_blocks.*")}
SECOND = (*var.MARKS["model"], "blocks.*", "word_embed_bias", "mask_embed.weight")
"""Marks of what the second stage of training leaves."""
MASK = "attn_bias_for_masking"
NAMES = (
    (r"^mask_head_ada_lin\.", "mask_head_nm.ada_lin.1."),
    (r"^mask_head_lin\.", "mask_head."),
    (r"^mask_embedding$", "mask_embed.weight"),
    (r"(^mask_blocks\.\d+)\.ada_lin\.", r"\1.ada_lin.1."),
    *var.TRANSFORMER_NAMES,
)
BEST = {16: (2.7, 1000), 20: (2.9, 950), 24: (3.1, 900), 30: (2.6, 650)}
"""Depth to (guidance_scale, top_k) of the authors' evaluation; their cfg 1.7 is a guidance scale of 2.7."""
DEPTHS = tuple(BEST)


def recognises(state: StateDict) -> str | None:
    """Both stages in one or either alone. What has VAR's names and no mask is recognised, too, see :func:`doubt`."""
    if marked(state, MARKS | {"second": SECOND}) is not None:
        return "model"
    first = marked(state, var.MARKS) == "model" and not any(name.startswith("blocks.0.mamba.") for name in state)
    return "model" if first and _diagonal(state) is not False else None


def doubt(state: StateDict) -> str | None:
    """Why what is recognised may be a VAR; None where it is none."""
    if "word_embed_bias" in state or _diagonal(state) is not None:
        return None
    return (
        f"holds a VAR transformer or the first stage of an {TRANSFORMER}, which have the same tensors but for the mask "
        f"{MASK}, and it has no such mask; say which it is with --system var or --system hmar (system=...)"
    )


def _diagonal(state: StateDict) -> bool | None:
    """Whether the mask hides the first token from the last one, as attention inside scales does; None: no mask."""
    mask = state.get(MASK)
    if mask is None or mask.is_meta or mask.ndim != 4 or not mask.numel() or mask.layout != torch.strided:
        return None
    return bool(mask[0, 0, -1, 0] < -1)


def config(component: str, state: StateDict, sizes: var.Sizes | None = None) -> HMARConfig:
    """As VAR's; there is one component, the model. How many blocks the masked branch has of its own is counted.

    Raises ``CheckpointError`` for the second stage alone, which lacks the blocks that draw a scale first.
    """
    if marked(state, {"second": SECOND}):
        raise CheckpointError(
            f"this is the second stage of an {TRANSFORMER} alone, which cannot draw; give the file of the first stage "
            "beside it, and both are merged"
        )
    masked = count(state, "mask_blocks.")
    alike = var.transformer_config(_first_stage(state), sizes, heads=None, norm_eps=1e-6, drop_path=0.0)
    shared = {field.name: getattr(alike, field.name) for field in fields(VARConfig)}
    try:
        return HMARConfig(**shared, mask_blocks=masked)
    except InputError as error:
        raise CheckpointError(f"the {TRANSFORMER} cannot be read: {error}") from None


def _first_stage(state: StateDict) -> dict[str, Tensor]:
    """What draws a scale first, under VAR's names."""
    base = count(state, "base_blocks.")

    def name_of(name: str) -> str:
        name = re.sub(r"^base_blocks\.", "blocks.", name)
        name = re.sub(r"^ns_blocks\.(\d{1,9})\.", lambda found: f"blocks.{base + int(found[1])}.", name)
        return re.sub(r"^ns_head", "head", name)

    return {name_of(name): t for name, t in state.items()}


def merge(one: StateDict, other: StateDict) -> dict[str, Tensor] | None:
    """Both stages of a model in one; None where these are not its first and its second stage, in any order.

    The second stage trains the last blocks, the head and the mask's embedding; how many blocks is seen by comparing.
    Raises ``CheckpointError`` where it did not begin with this first stage.
    """
    second = next((state for state in (one, other) if marked(state, {"second": SECOND})), None)
    first = other if second is one else one
    if second is None or marked(first, MARKS | {"second": SECOND}) or "word_embed.bias" not in first:
        return None
    depth = count(first, "blocks.")
    same = {name: torch.equal(t, second[name]) for name, t in first.items() if name in second and t.is_floating_point()}
    changed = [int(name.split(".")[1]) for name, equal in same.items() if name.startswith("blocks.") and not equal]
    base = min(changed, default=depth)
    strange = [name for name, equal in same.items() if not (equal or name.startswith(("blocks.", "head", MASK)))]
    if strange or base == depth or count(second, "blocks.") != depth:
        why = f"they differ in {strange[0]}" if strange else "their blocks are the same, or of another number"
        raise CheckpointError(
            f"the second stage of the {TRANSFORMER} did not begin with this first stage: {why}; expected its last "
            "blocks and its head to differ, and nothing else"
        )
    merged = {}
    for name, t in first.items():
        merged[_merged_name(name, base, "ns") if name != "word_embed.bias" else "word_embed_bias"] = t
    own = [f"blocks.{i}." for i in range(base, depth)]
    for name, t in second.items():
        if name.startswith((*own, "head")):
            merged[_merged_name(name, base, "mask")] = t
    return merged | {"mask_embed.weight": second["mask_embed.weight"]}


def _merged_name(name: str, base: int, branch: str) -> str:
    """A name of a stage as both stages in one have it; branch: ``ns`` or ``mask``, base: blocks that both run."""
    found = re.fullmatch(r"blocks\.(\d{1,9})\.(.*)", name)
    if found is not None:
        i = int(found[1])
        return f"base_blocks.{i}.{found[2]}" if i < base else f"{branch}_blocks.{i - base}.{found[2]}"
    return f"{branch}_{name}" if name.startswith("head") else name


def from_official(state: StateDict, config: HMARConfig) -> dict[str, Tensor]:
    """As VAR's."""
    return to_ours(state, model_targets(config), TRANSFORMER, var.is_model_buffer)


def to_official(state: StateDict, config: HMARConfig) -> dict[str, Tensor]:
    """The inverse, buffers included: both stages in one, or the first one where there is no masked branch."""
    var.check_model_exports(config)
    if not config.leak:
        raise CheckpointError(
            "the model was trained without a leak of masked tokens (leak is False); the official class always has one"
        )
    targets = model_targets(config)
    official, lengths = to_theirs(state, targets), torch.tensor(ScaleSchedule(config.sizes).lengths)
    device = next(iter(official.values())).device
    levels = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    hidden = levels[:, None] != levels
    official["lvl_1L"] = levels[None].to(device)
    official[MASK] = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[None, None].to(device)
    for name in [target.name for target in targets.values() if target.name.endswith(".attn.q_bias")]:
        official[name.replace("q_bias", "zero_k_bias")] = zeros_like_first(official, config.width)
    return official


def model_targets(config: HMARConfig) -> Targets:
    """Our tensor names of a transformer with this configuration to the official ones."""
    targets = var.targets_of(without_values(lambda: HMAR(config)).state_dict(), NAMES)
    if not config.mask_blocks:
        return targets
    base, merged = config.depth - config.mask_blocks, dict[str, Target]()
    for ours, target in targets.items():
        name = "word_embed_bias" if target.name == "word_embed.bias" else _merged_name(target.name, base, "ns")
        merged[ours] = replace(target, name=name)
    return merged


def published(name: str, like: object = None) -> dict[str, Any] | None:
    """As VAR's. How many blocks the masked branch has of its own only the files can say."""
    model = var.published_size(name, "hmar", DEPTHS, HMARConfig.published)
    if model is None:
        return None
    if isinstance(like, HMARConfig):
        model = replace(model, drop_path=like.drop_path, mask_blocks=like.mask_blocks, leak=like.leak)
    return {"tokenizer": ResidualConfig(sizes=model.sizes), "model": model}


def sampling(config: HMARConfig) -> Mapping[str, Any]:
    """How a model of this depth is evaluated by its authors; others as the smallest."""
    guidance_scale, top_k = BEST.get(config.depth, BEST[16])
    found: dict[str, Any] = {"guidance_scale": guidance_scale, "top_k": top_k, "top_p": 0.99}
    fits = config.sizes[1:3] == ((2, 2), (3, 3))
    return found | ({"refine": "paper"} if config.mask_blocks and fits else {})
