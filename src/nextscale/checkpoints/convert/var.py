"""VAR's official names and ours, both ways (FoundationVision/VAR: ``models/var.py``); its tokenizer's stand in
``residual.py``.

Configurations are read off names and shapes. Buffers (masks, level indices, zero biases, usage counters) are dropped on
the way in, whatever their size, and computed anew on the way out; every parameter keeps its bits both ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from nextscale.checkpoints.convert import residual
from nextscale.checkpoints.convert.renaming import (
    Target,
    Targets,
    count,
    marked,
    tensor_of,
    to_ours,
    to_theirs,
    zeros_like_first,
)
from nextscale.checkpoints.published import PUBLISHED
from nextscale.checkpoints.shapes import without_values
from nextscale.errors import CheckpointError, InputError
from nextscale.memory.mask import block_causal
from nextscale.models.class_transformer import ClassTransformerConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.scales import PRESETS, ScaleSchedule, Size
from nextscale.tokenizers.residual import ResidualConfig

StateDict = Mapping[str, Tensor]
Sizes = Iterable[int | Iterable[int]]
Config = TypeVar("Config", bound=ClassTransformerConfig)

MARKS = {
    "tokenizer": ("quantize.embedding.weight", "encoder.down.*"),
    "model": ("pos_1LC", "word_embed.weight"),
}
SAMPLING: Mapping[str, Any] = {"guidance_scale": 2.5, "top_k": 900, "top_p": 0.96}
"""How the published models are evaluated; their cfg 1.5 is a guidance scale of 2.5."""
DEPTHS = (12, 16, 20, 24, 30, 36)

TRANSFORMER = "VAR transformer"
TRANSFORMER_NAMES = (
    (r"^class_embedding\.", "class_emb."),
    (r"^pos_embedding$", "pos_1LC"),
    (r"^level_embedding$", "lvl_embed.weight"),
    (r"^word_embedding\.", "word_embed."),
    (r"^shared_ada_lin\.", "shared_ada_lin.1."),
    (r"^head_ada_lin\.", "head_nm.ada_lin.1."),
    (r"^head_lin\.", "head."),
    (r"\.attention\.qkv\.", ".attn.mat_qkv."),
    (r"\.attention\.scale_mul$", ".attn.scale_mul_1H11"),
    (r"\.attention\.", ".attn."),
    (r"(^blocks\.\d+)\.ada_lin\.", r"\1.ada_lin.1."),
)
WHOLE = {torch.int64, torch.int32, torch.int16, torch.uint8}
"""Number types of level indices."""
LEADING = {"pos_start": 1, "pos_1LC": 1, "scale_mul_1H11": 1, "ada_gss": 2}
"""Official shapes with leading ones that ours do not have."""


def recognises(names: Collection[str]) -> str | None:
    """The component of VAR that a file with these tensors holds; None where it is none. M-VAR's transformer, which
    builds on VAR's, has the same names and more.

    Raises ``CheckpointError`` for a tokenizer of a single scale.
    """
    component = marked(names, MARKS)
    if component == "tokenizer":
        residual.check_scales(names)
    return component


def config(component: str, state: StateDict, sizes: Sizes | None = None) -> VARConfig | ResidualConfig:
    """The configuration of a component, read off its tensors; see :func:`model_config` and
    :func:`residual.tokenizer_config`."""
    if component == "model":
        return model_config(state, sizes)
    return residual.tokenizer_config(state) if sizes is None else residual.tokenizer_config(state, sizes)


def from_official(state: StateDict, config: VARConfig | ResidualConfig) -> dict[str, Tensor]:
    """The parameters of an official component under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    if isinstance(config, ResidualConfig):
        return residual.tokenizer_from_official(state, config)
    return model_from_official(state, config)


def to_official(state: StateDict, config: VARConfig | ResidualConfig) -> dict[str, Tensor]:
    """The inverse, buffers included. Raises ``CheckpointError`` where the official builder has no such model."""
    if isinstance(config, ResidualConfig):
        residual.check_tokenizer_exports(config)
        return residual.tokenizer_to_official(state, config)
    check_model_exports(config)
    return model_to_official(state, config)


def sampling(config: object) -> Mapping[str, Any]:
    """How the published models are evaluated, whatever their size."""
    return SAMPLING


def published(name: str, like: object = None) -> dict[str, Any] | None:
    """The configurations by component of a size that the authors call ``name``, such as var-d16 or var-d36-1024; None
    for a name of another form.

    like: a configuration; what the authors leave open, or only training uses, is taken from it. Raises ``InputError``
    for a size that they do not have.
    """
    model = published_size(name, "var", DEPTHS, VARConfig.published)
    if model is None:
        return None
    if isinstance(like, VARConfig):
        model = replace(model, drop_path=like.drop_path)
    return {"tokenizer": ResidualConfig(sizes=model.sizes), "model": model}


def published_size(
    name: str, system: str, depths: tuple[int, ...], make: Callable[[int, int], Config]
) -> Config | None:
    """The transformer that ``name`` (system-dDEPTH, -PIXELS behind it where they are not the usual ones) is made of."""
    found = re.fullmatch(rf"{system}-d(\d{{1,9}})(?:-(\d{{1,9}}))?", name)
    if found is None:
        return None
    depth = int(found[1])
    if depth not in depths and name not in PUBLISHED:
        sizes = ", ".join(f"{system}-d{known}" for known in depths)
        raise InputError(f"there is no size {name!r} to plan; there are {sizes}")
    pixels = found[2] or ("512" if depth == 36 else "256")
    if pixels not in PRESETS:
        raise InputError(f"there is no published size {name!r}; {system}-d{depth} has 256, 512 or 1024 pixels")
    return make(depth, int(pixels))


def model_config(
    state: StateDict,
    sizes: Sizes | None = None,
    *,
    heads: int | None = None,
    norm_eps: float = 1e-6,
    drop_path: float = 0.0,
) -> VARConfig:
    """The configuration of an official transformer, read off its tensors; the arguments are what no tensor shows.

    sizes: the schedule; if absent it is read off the level indices or the mask, or else is the published one with as
    many tokens and scales. heads: only needed without L2-normalised attention, by default the official width / 64.
    Raises ``CheckpointError`` where the tensors show no VAR transformer (an M-VAR one is named), or leave the schedule
    open.
    """
    if any(name.startswith("blocks.0.mamba.") for name in state):
        raise CheckpointError(
            f"this is an M-VAR transformer: it has tensors blocks.0.mamba.*; expected a {TRANSFORMER}"
        )
    return transformer_config(state, sizes, heads=heads, norm_eps=norm_eps, drop_path=drop_path)


def transformer_config(
    state: StateDict,
    sizes: Sizes | None,
    *,
    heads: int | None,
    norm_eps: float,
    drop_path: float,
) -> VARConfig:
    """What :func:`model_config` reads, from the tensors that VAR shares with the systems built on it."""
    width = tensor_of(state, "pos_1LC", 3, TRANSFORMER).shape[2]
    scale_mul = state.get("blocks.0.attn.scale_mul_1H11")
    head, word = tensor_of(state, "head.weight", 2, TRANSFORMER), tensor_of(state, "word_embed.weight", 2, TRANSFORMER)
    fc1 = tensor_of(state, "blocks.0.ffn.fc1.weight", 2, TRANSFORMER)
    if scale_mul is not None:
        heads = tensor_of(state, "blocks.0.attn.scale_mul_1H11", 4, TRANSFORMER).shape[1]
    elif heads is None and width % 64:
        raise CheckpointError(f"the {TRANSFORMER} is {width} wide; expected a multiple of 64, or the number of heads")
    schedule = _sizes(state) if sizes is None else _given(state, sizes)
    try:
        return VARConfig(
            depth=count(state, "blocks."),
            width=width,
            heads=heads or width // 64,
            mlp_ratio=fc1.shape[0] / width,
            classes=tensor_of(state, "class_emb.weight", 2, TRANSFORMER).shape[0] - 1,
            codes=head.shape[0],
            code_dim=word.shape[1],
            sizes=schedule,
            shared_adaln="shared_ada_lin.1.weight" in state,
            l2_norm=scale_mul is not None,
            norm_eps=norm_eps,
            drop_path=drop_path,
        )
    except InputError as error:
        raise CheckpointError(f"the {TRANSFORMER} cannot be read: {error}") from None


def _tokens(state: StateDict) -> tuple[int, int, int]:
    """Tokens in all, scales, and tokens of the first scale, as the embeddings have them."""
    tokens = tensor_of(state, "pos_1LC", 3, TRANSFORMER).shape[1]
    scales = tensor_of(state, "lvl_embed.weight", 2, TRANSFORMER).shape[0]
    return tokens, scales, tensor_of(state, "pos_start", 3, TRANSFORMER).shape[1]


def _given(state: StateDict, sizes: Sizes) -> tuple[Size, ...]:
    """The schedule that was given, which must be the transformer's as far as its tensors show."""
    schedule, (tokens, scales, first) = ScaleSchedule.of(sizes), _tokens(state)
    if (schedule.tokens, len(schedule), schedule.lengths[0]) != (tokens, scales, first):
        raise CheckpointError(
            f"the scales given (--scales) have {schedule.tokens} tokens in {len(schedule)} scales, but the "
            f"{TRANSFORMER} has {tokens} in {scales}, {first} of them in the first"
        )
    lengths = _lengths(state)
    if lengths and lengths != [*schedule.lengths]:
        raise CheckpointError(
            f"the scales given (--scales) have {schedule.lengths} tokens, but the {TRANSFORMER} has {tuple(lengths)}"
        )
    return schedule.sizes


def _lengths(state: StateDict) -> list[int]:
    """Tokens per scale where a buffer shows them, else empty."""
    tokens, scales, first = _tokens(state)
    for lengths in (_level_lengths(state, tokens), _mask_lengths(state, tokens)):
        if (len(lengths), sum(lengths), lengths[:1]) == (scales, tokens, [first]):
            return lengths
    return []


def _sizes(state: StateDict) -> tuple[Size, ...]:
    """The schedule of a transformer, from its buffers where they are whole, else from the published ones."""
    tokens, scales, first = _tokens(state)
    sides = [math.isqrt(length) for length in _lengths(state)]
    if sides and [side * side for side in sides] == _lengths(state) and sides == sorted(sides):
        return ScaleSchedule.of(sides).sizes
    for name in PRESETS:
        preset = ScaleSchedule.preset(name)
        if (len(preset), preset.tokens, preset.lengths[0]) == (scales, tokens, first):
            return preset.sizes
    raise CheckpointError(
        f"the {TRANSFORMER} has {tokens} tokens in {scales} scales and does not say which; no published schedule has, "
        f'so give it with --scales "1 2 ...": {scales} sides whose squares add up to {tokens}'
    )


def _level_lengths(state: StateDict, tokens: int) -> list[int]:
    """Tokens per scale according to the buffer of level indices; empty where it is absent or broken."""
    levels = state.get("lvl_1L")
    if levels is None or levels.is_meta or levels.dtype not in WHOLE or levels.numel() != tokens:
        return []
    flat = levels.flatten().long()
    whole = int(flat[0]) == 0 and bool(((flat.diff() == 0) | (flat.diff() == 1)).all())
    return flat.bincount().tolist() if whole else []


def _mask_lengths(state: StateDict, tokens: int) -> list[int]:
    """Tokens per scale according to the blocks of the attention mask; empty where it is absent or broken."""
    mask = state.get("attn_bias_for_masking")
    if mask is None or mask.is_meta or mask.shape != (1, 1, tokens, tokens):
        return []
    ends = (mask[0, 0] == 0).sum(-1).unique()
    return torch.cat([ends[:1], ends.diff()]).tolist()


def model_targets(config: VARConfig) -> Targets:
    """Our tensor names of a transformer with this configuration to the official ones."""
    return targets_of(without_values(lambda: VAR(config)).state_dict(), TRANSFORMER_NAMES)


def targets_of(state: StateDict, names: Iterable[tuple[str, str]]) -> Targets:
    """Our tensor names to the official ones that the patterns ``names`` make of them."""
    targets = {}
    for ours, t in state.items():
        name = ours
        for pattern, official in names:
            name = re.sub(pattern, official, name)
        leading = (1,) * LEADING.get(name.rpartition(".")[2], 0)
        targets[ours] = Target(name, leading + tuple(t.shape), tuple(t.shape))
    return targets


def is_model_buffer(name: str) -> bool:
    """Whether the official class computes this tensor itself."""
    return name in ("lvl_1L", "attn_bias_for_masking") or name.endswith(".attn.zero_k_bias")


def model_from_official(state: StateDict, config: VARConfig) -> dict[str, Tensor]:
    """The official transformer's parameters under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    return to_ours(state, model_targets(config), TRANSFORMER, is_model_buffer)


def model_to_official(state: StateDict, config: VARConfig) -> dict[str, Tensor]:
    """Our transformer's parameters under the official names, and the buffers that the official class computes."""
    official, schedule = to_theirs(state, model_targets(config)), ScaleSchedule(config.sizes)
    device = next(iter(official.values())).device
    levels = torch.repeat_interleave(torch.arange(len(schedule)), torch.tensor(schedule.lengths))
    sees = block_causal(schedule, torch.device("cpu"))
    official["lvl_1L"] = levels[None].to(device)
    official["attn_bias_for_masking"] = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)[None, None].to(device)
    for i in range(config.depth):
        official[f"blocks.{i}.attn.zero_k_bias"] = zeros_like_first(official, config.width)
    return official


def check_model_exports(config: ClassTransformerConfig) -> None:
    """What no tensor of an official file shows must be as the official builder has it."""
    if config.norm_eps != 1e-6:
        raise CheckpointError(
            f"the model has norm_eps {config.norm_eps}; an official file cannot say so and means 1e-06"
        )
    if not config.l2_norm and config.heads * 64 != config.width:
        raise CheckpointError(
            f"the model has {config.heads} heads at a width of {config.width} without L2 normalisation; an official "
            f"file cannot say so and means {config.width / 64:g}"
        )
    if any(h != w for h, w in config.sizes):
        raise CheckpointError(
            f"the model draws the scales {ScaleSchedule(config.sizes)}; the official class has square ones only"
        )
