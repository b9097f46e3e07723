"""M-VAR's official names and ours, both ways (OliverRensu/MVAR: ``models/mvar.py``, ``basic_mvar.py``).

A transformer is VAR's but for nine AdaLN chunks instead of six and a Mamba-2 layer per block; its tokenizer
is VAR's own. Configurations are read off names and shapes; buffers are dropped on the way in and computed
anew on the way out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert import var
from nextscale.checkpoints.convert.renaming import Targets, marked, tensor_of, to_ours, to_theirs, zeros_like_first
from nextscale.checkpoints.shapes import without_values
from nextscale.errors import CheckpointError, InputError
from nextscale.models.class_transformer import ClassTransformerConfig
from nextscale.models.m_var import MVAR, MVARConfig
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.residual import ResidualConfig

StateDict = Mapping[str, Tensor]

TRANSFORMER = "M-VAR transformer"
MAMBA = "blocks.0.mamba."
NAMES = (*var.TRANSFORMER_NAMES, (r"\.mixer\.", ".mamba."))
MARKS = {"model": (*var.MARKS["model"], f"{MAMBA}*")}
sampling = var.sampling
DEPTHS = (12, 16, 20, 24, 30, 32)


def recognises(names: Collection[str]) -> str | None:
    """As VAR's: its transformer with a Mamba layer in its blocks."""
    return marked(names, MARKS)


def config(component: str, state: StateDict, sizes: var.Sizes | None = None) -> MVARConfig:
    """As VAR's; there is one component, the model."""
    return model_config(state, sizes)


def from_official(state: StateDict, config: MVARConfig) -> dict[str, Tensor]:
    """As VAR's."""
    return model_from_official(state, config)


def to_official(state: StateDict, config: MVARConfig) -> dict[str, Tensor]:
    """As VAR's."""
    var.check_model_exports(config)
    return model_to_official(state, config)


def published(name: str, like: object = None) -> dict[str, Any] | None:
    """As VAR's. Which files have L2-normalised attention only they can say."""
    model = var.published_size(name, "m-var", DEPTHS, MVARConfig.published)
    if model is None:
        return None
    if isinstance(like, MVARConfig):
        model = replace(model, drop_path=like.drop_path, l2_norm=like.l2_norm)
    return {"tokenizer": ResidualConfig(sizes=model.sizes), "model": model}


def model_config(
    state: StateDict,
    sizes: var.Sizes | None = None,
    *,
    heads: int | None = None,
    norm_eps: float = 1e-6,
    drop_path: float = 0.0,
) -> MVARConfig:
    """The configuration of an official transformer, read off its tensors; arguments as for VAR's. Raises
    ``CheckpointError`` for a VAR file, and where the tensors show no M-VAR transformer.
    """
    if not recognises(state):
        what = "a VAR transformer" if marked(state, {"model": var.MARKS["model"]}) else "something else"
        raise CheckpointError(f"this is {what}: it has no tensor {MAMBA}*; expected an {TRANSFORMER}")
    if "shared_ada_lin.1.weight" in state:
        raise CheckpointError(
            f"the {TRANSFORMER} has a shared AdaLN, which the official code cannot run; expected none"
        )
    inner = tensor_of(state, f"{MAMBA}norm.weight", 1, TRANSFORMER).shape[0]
    mixed = tensor_of(state, f"{MAMBA}conv1d.weight", 3, TRANSFORMER).shape[0]
    mamba_heads = tensor_of(state, f"{MAMBA}dt_bias", 1, TRANSFORMER).shape[0]
    if inner % mamba_heads or mixed < inner + 2:
        raise CheckpointError(
            f"{MAMBA}* of the {TRANSFORMER} has {mamba_heads} heads and {inner} of {mixed} mixed channels; expected a "
            "multiple of the heads, and two mixed ones more at least"
        )
    alike = var.transformer_config(state, sizes, heads=heads, norm_eps=norm_eps, drop_path=drop_path)
    shared = {field.name: getattr(alike, field.name) for field in fields(ClassTransformerConfig)}
    try:
        return MVARConfig(**shared, state=(mixed - inner) // 2, head_dim=inner // mamba_heads)
    except InputError as error:
        raise CheckpointError(f"the {TRANSFORMER} cannot be read: {error}") from None


def model_targets(config: MVARConfig) -> Targets:
    """Our tensor names of a transformer with this configuration to the official ones."""
    return var.targets_of(without_values(lambda: MVAR(config)).state_dict(), NAMES)


def _is_buffer(name: str) -> bool:
    return var.is_model_buffer(name) or name.endswith(".attn.patch_nums")


def model_from_official(state: StateDict, config: MVARConfig) -> dict[str, Tensor]:
    """The official transformer's parameters under our names. Raises ``CheckpointError`` where one does not
    fit ``config``.
    """
    return to_ours(state, model_targets(config), TRANSFORMER, _is_buffer)


def model_to_official(state: StateDict, config: MVARConfig) -> dict[str, Tensor]:
    """Our transformer's parameters under the official names, and the buffers that the official class
    computes. Raises ``CheckpointError`` for another mixer than Mamba-2.
    """
    if config.mixer != "mamba2":
        raise CheckpointError(
            f"the inter-scale mixer is {config.mixer!r}; the official class has 'mamba2' and no other"
        )
    official, lengths = to_theirs(state, model_targets(config)), torch.tensor(ScaleSchedule(config.sizes).lengths)
    device = next(iter(official.values())).device
    levels = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    hidden = levels[:, None] != levels
    official["lvl_1L"] = levels[None].to(device)
    official["attn_bias_for_masking"] = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[None, None].to(device)
    for i in range(config.depth):
        official[f"blocks.{i}.attn.zero_k_bias"] = zeros_like_first(official, config.width)
        official[f"blocks.{i}.attn.patch_nums"] = lengths.to(device, torch.int32)
    return official
