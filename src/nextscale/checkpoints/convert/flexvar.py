"""FlexVAR's official names and ours, both ways (jiaosiyu1999/FlexVAR: ``models/flexvar.py``, ``vq_llama.py``).

Files of SAR (arXiv 2512.06421) have the same layout. Configurations are read off names and shapes. Buffers (the mask of
whatever schedule was drawn last, zero biases, usage counters) are dropped on the way in and computed anew on the way
out; every parameter keeps its bits both ways.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.convert.renaming import (
    Targets,
    count,
    marked,
    tensor_of,
    to_ours,
    to_theirs,
    zeros_like_first,
)
from nextscale.checkpoints.convert.var import TRANSFORMER_NAMES, Sizes, StateDict, targets_of
from nextscale.checkpoints.shapes import without_values
from nextscale.errors import CheckpointError, InputError
from nextscale.memory.mask import block_causal
from nextscale.models.flexvar import FlexVAR, FlexVARConfig
from nextscale.scales import PRESETS, ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.direct import OFFICIAL, DirectConfig, DirectTokenizer

MARKS = {
    "tokenizer": ("quantize.embedding.weight", "encoder.conv_blocks.*"),
    "model": ("pos_1LC", "word_embed.weight", "pos_start", "class_emb.weight"),
}
TRANSFORMER, TOKENIZER = "FlexVAR transformer", "FlexVAR tokenizer"
DEPTHS = (16, 20, 24)
FAMILIES = ("flexvar", "sar")
"""Who published models of these depths: the authors, and those who tuned them further."""
CODE_DIM, PLACES, COUNTER = 32, 32, 65_536
"""Of every official file; LlamaGen's tokenizers, whose names are the same, have narrower codes."""
TOKENIZER_NAMES = (
    (r"^codebook\.", "quantize.embedding."),
    (r"\.mid\.block_1\.", ".mid.0."),
    (r"\.mid\.attention\.", ".mid.1."),
    (r"\.mid\.block_2\.", ".mid.2."),
    (r"\.levels\.", ".conv_blocks."),
    (r"\.blocks\.", ".res."),
    (r"\.attention\.", ".attn."),
    (r"^(encoder\..*)\.resample\.", r"\1.downsample."),
    (r"^(decoder\..*)\.resample\.", r"\1.upsample."),
    (r"\.(norm|conv)_([12])\.", r".\1\2."),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.proj\.", ".proj_out."),
)
FUSED = re.compile(r"(.*(?:attn\.\d{1,9}|mid\.1))\.(q|k|v|qkv)\.(weight|bias)")
"""An official projection of an attention, or the three of them in one."""


def recognises(state: StateDict) -> str | None:
    """The component of FlexVAR that a file with these tensors holds; None where it is none. VAR's transformers have the
    same names and positions in a row; LlamaGen's tokenizers have the same names and narrower codes.
    """
    component = marked(state, MARKS)
    if component == "model":
        return component if state["pos_1LC"].ndim == 4 else None
    return component if component and state["quantize.embedding.weight"].shape[1:] == (CODE_DIM,) else None


def config(component: str, state: StateDict, sizes: Sizes | None = None) -> FlexVARConfig | DirectConfig:
    """The configuration of a component, read off its tensors; see :func:`model_config` and
    :func:`tokenizer_config`."""
    sizes = PRESETS["256"] if sizes is None else sizes
    return model_config(state, sizes) if component == "model" else tokenizer_config(state, sizes)


def from_official(state: StateDict, config: FlexVARConfig | DirectConfig) -> dict[str, Tensor]:
    """The parameters of an official component under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    if isinstance(config, DirectConfig):
        return tokenizer_from_official(state, config)
    return to_ours(state, model_targets(config), TRANSFORMER, is_model_buffer)


def to_official(state: StateDict, config: FlexVARConfig | DirectConfig) -> dict[str, Tensor]:
    """The inverse, buffers included. Raises ``CheckpointError`` where the official class has no such component."""
    if isinstance(config, DirectConfig):
        check_tokenizer_exports(config)
        return tokenizer_to_official(state, config)
    check_model_exports(config)
    return model_to_official(state, config)


def sampling(config: object) -> Mapping[str, Any]:
    """How the published models are evaluated, whatever their size; their cfg 2.5 is a guidance scale of 3.5."""
    return {"guidance_scale": 3.5, "top_k": 900, "top_p": 0.95}


def published(name: str, like: object = None) -> dict[str, Any] | None:
    """The configurations by component of a size that the authors call ``name``, such as flexvar-d16 or sar-d24; None
    for a name of another form.

    like: a configuration that settings of training alone are taken from. Raises ``InputError`` for a size that they do
    not have.
    """
    found = re.fullmatch(rf"({'|'.join(FAMILIES)})-d(\d{{1,9}})", name)
    if found is None:
        return None
    if int(found[2]) not in DEPTHS:
        sizes = ", ".join(f"{found[1]}-d{depth}" for depth in DEPTHS)
        raise InputError(f"there is no size {name!r} to plan; there are {sizes}")
    model = FlexVARConfig.published(int(found[2]))
    if isinstance(like, FlexVARConfig):
        model = replace(model, drop_path=like.drop_path)
    return {"tokenizer": DirectConfig(sizes=model.sizes), "model": model}


def model_config(state: StateDict, sizes: Sizes, *, norm_eps: float = 1e-6, drop_path: float = 0.0) -> FlexVARConfig:
    """The configuration of an official transformer, read off its tensors; the arguments are what no tensor shows. It
    draws as its authors do, see ``FlexVARConfig.greedy``. Raises ``CheckpointError`` where the tensors show no FlexVAR
    transformer.
    """
    _, width, places, across = tensor_of(state, "pos_1LC", 4, TRANSFORMER).shape
    if places != across:
        raise CheckpointError(f"pos_1LC of the {TRANSFORMER} is {places}x{across} positions; expected a square")
    head, word = tensor_of(state, "head.weight", 2, TRANSFORMER), tensor_of(state, "word_embed.weight", 2, TRANSFORMER)
    l2_norm = "blocks.0.attn.scale_mul_1H11" in state
    heads = tensor_of(state, "blocks.0.attn.scale_mul_1H11", 4, TRANSFORMER).shape[1] if l2_norm else width // 64
    try:
        return FlexVARConfig(
            depth=count(state, "blocks."),
            width=width,
            heads=heads,
            mlp_ratio=tensor_of(state, "blocks.0.ffn.fc1.weight", 2, TRANSFORMER).shape[0] / width,
            classes=tensor_of(state, "class_emb.weight", 2, TRANSFORMER).shape[0] - 1,
            codes=head.shape[0],
            code_dim=word.shape[1],
            sizes=ScaleSchedule.of(sizes).sizes,
            shared_adaln="shared_ada_lin.1.weight" in state,
            l2_norm=l2_norm,
            norm_eps=norm_eps,
            drop_path=drop_path,
            places=places,
            greedy=True,
        )
    except InputError as error:
        raise CheckpointError(f"the {TRANSFORMER} cannot be read: {error}") from None


def model_targets(config: FlexVARConfig) -> Targets:
    """Our tensor names of a transformer with this configuration to the official ones."""
    return targets_of(without_values(lambda: FlexVAR(config)).state_dict(), TRANSFORMER_NAMES)


def is_model_buffer(name: str) -> bool:
    """Whether the official class computes this tensor itself."""
    return name == "attn_bias_for_masking" or name.endswith(".attn.zero_k_bias")


def model_to_official(state: StateDict, config: FlexVARConfig) -> dict[str, Tensor]:
    """Our transformer's parameters under the official names, and the buffers that the official class computes: the mask
    is that of the default schedule.
    """
    official, schedule = to_theirs(state, model_targets(config)), ScaleSchedule(config.sizes)
    sees = block_causal(schedule, torch.device("cpu"))
    mask = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)
    official["attn_bias_for_masking"] = mask[None, None].to(next(iter(official.values())).device)
    for i in range(config.depth):
        official[f"blocks.{i}.attn.zero_k_bias"] = zeros_like_first(official, config.width)
    return official


def check_model_exports(config: FlexVARConfig) -> None:
    """What no tensor of an official file shows must be as the official class has it, and what it fixes, too."""
    meant = {"norm_eps": 1e-6, "code_dim": CODE_DIM, "places": PLACES}
    if not config.l2_norm:
        meant["heads"] = config.width / 64
    for name, value in meant.items():
        if getattr(config, name) != value:
            raise CheckpointError(f"the model has {name} {getattr(config, name)}; the official class has {value:g}")


def tokenizer_config(state: StateDict, sizes: Sizes, *, beta: float = 0.25, entropy: float = 0.0) -> DirectConfig:
    """The configuration of an official tokenizer, read off its tensors; the arguments are what no tensor shows. Raises
    ``CheckpointError`` where the tensors show no FlexVAR tokenizer.
    """
    levels, ch = (
        count(state, "encoder.conv_blocks."),
        tensor_of(state, "encoder.conv_in.weight", 4, TOKENIZER).shape[0],
    )
    firsts = [tensor_of(state, f"encoder.conv_blocks.{i}.res.0.conv1.weight", 4, TOKENIZER) for i in range(levels)]
    widths = [first.shape[0] for first in firsts]
    if not widths or any(width % ch for width in widths):
        raise CheckpointError(f"the levels of the {TOKENIZER} are {widths} wide; expected multiples of the first, {ch}")
    codes, code_dim = tensor_of(state, "quantize.embedding.weight", 2, TOKENIZER).shape
    try:
        return DirectConfig(
            codes=codes,
            code_dim=code_dim,
            sizes=ScaleSchedule.of(sizes).sizes,
            beta=beta,
            entropy=entropy,
            autoencoder=AutoencoderConfig(
                ch=ch,
                mult=tuple(width // ch for width in widths),
                z=tensor_of(state, "encoder.conv_out.weight", 4, TOKENIZER).shape[0],
                res_blocks=count(state, "encoder.conv_blocks.0.res."),
            ),
        )
    except InputError as error:
        raise CheckpointError(f"the {TOKENIZER} cannot be read: {error}") from None


def tokenizer_targets(config: DirectConfig) -> Targets:
    """Our tensor names of a tokenizer with this configuration to the official ones, the projections of every attention
    in one, see :func:`fused`.
    """
    return targets_of(without_values(lambda: DirectTokenizer(config)).state_dict(), TOKENIZER_NAMES)


def fused(state: StateDict) -> dict[str, Tensor]:
    """The same tensors, with the three projections of an attention put into one, ``qkv``. Raises ``CheckpointError``
    where one is missing or they are unlike.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        part = FUSED.fullmatch(name)
        if part is None:
            found[name] = tensor
        elif part[2] == "qkv":
            raise CheckpointError(f"the {TOKENIZER} has the tensor {name}; expected q, k and v, each on its own")
        elif f"{part[1]}.qkv.{part[3]}" not in found:
            names = [f"{part[1]}.{kind}.{part[3]}" for kind in "qkv"]
            absent = next((one for one in names if one not in state), None)
            if absent is not None:
                raise CheckpointError(f"the {TOKENIZER} lacks the tensor {absent}")
            three = [state[one] for one in names]
            if len({(one.shape, one.dtype) for one in three}) > 1 or not tensor.ndim:
                shapes = ", ".join(f"{tuple(one.shape)} {one.dtype}" for one in three)
                raise CheckpointError(f"{names[0]} and its k and v of the {TOKENIZER} are {shapes}; expected the same")
            found[f"{part[1]}.qkv.{part[3]}"] = torch.cat(three)
    return found


def tokenizer_from_official(state: StateDict, config: DirectConfig) -> dict[str, Tensor]:
    """The official tokenizer's parameters under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    return to_ours(fused(state), tokenizer_targets(config), TOKENIZER, lambda name: name == "quantize.codebook_used")


def tokenizer_to_official(state: StateDict, config: DirectConfig) -> dict[str, Tensor]:
    """Our tokenizer's parameters under the official names, and the usage counter as it starts: all zeros."""
    official: dict[str, Tensor] = {}
    for name, tensor in to_theirs(state, tokenizer_targets(config)).items():
        part = FUSED.fullmatch(name)
        if part is None:
            official[name] = tensor
        else:
            for kind, third in zip(part[2], tensor.chunk(3), strict=True):
                official[f"{part[1]}.{kind}.{part[3]}"] = third.clone()  # no two tensors of a file share numbers
    return official | {"quantize.codebook_used": zeros_like_first(official, COUNTER)}


def check_tokenizer_exports(config: DirectConfig) -> None:
    """Raises ``CheckpointError`` for what the official class has otherwise, always."""
    layout = config.autoencoder
    for name, ours, theirs in (
        ("code_dim", config.code_dim, CODE_DIM),
        ("ch", layout.ch, OFFICIAL.ch),
        ("res_blocks", layout.res_blocks, OFFICIAL.res_blocks),
        ("groups", layout.groups, OFFICIAL.groups),
        ("attention", layout.attention, True),
        ("mid_attention", layout.mid_attention, True),
    ):
        if ours != theirs:
            raise CheckpointError(f"the tokenizer has {name} {ours}; the official class has {theirs}, always")
