"""VAR's official names and ours, both ways (FoundationVision/VAR: ``models/var.py``, ``vqvae.py``, ``quant.py``).

Configurations are read off names and shapes. Buffers (masks, level indices, zero biases, usage counters) are dropped on
the way in, whatever their size, and computed anew on the way out; every parameter keeps its bits both ways.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor

from nextscale.checkpoints.convert.renaming import (
    Target,
    Targets,
    count,
    tensor_of,
    to_official,
    to_ours,
    zeros_like_first,
)
from nextscale.checkpoints.shapes import without_values
from nextscale.errors import CheckpointError, InputError
from nextscale.memory.mask import block_causal
from nextscale.models.var import VAR, VARConfig
from nextscale.scales import PRESETS, ScaleSchedule, Size
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer

State = Mapping[str, Tensor]

TOKENIZER, TRANSFORMER = "VAR tokenizer", "VAR transformer"
GROUPS = 32
"""Groups of every norm, hard-coded in the official autoencoder."""

TOKENIZER_PARTS = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "shortcut": "nin_shortcut",
    "blocks": "block",
    "attention": "attn",
    "proj": "proj_out",
}
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


def is_tokenizer(state: Collection[str]) -> bool:
    """Whether the names look like VAR's tokenizer."""
    return "quantize.embedding.weight" in state and any(name.startswith("encoder.down.") for name in state)


def is_transformer(state: Collection[str]) -> bool:
    """Whether the names look like VAR's transformer (M-VAR's, which builds on it, among them)."""
    return "pos_1LC" in state and "word_embed.weight" in state


def tokenizer_config(
    state: State,
    sizes: Iterable[int | Iterable[int]] = PRESETS["256"],
    *,
    phi_ratio: float = 0.5,
    cosine: bool = False,
    beta: float = 0.25,
    dropout: float = 0.0,
) -> ResidualConfig:
    """The configuration of an official tokenizer, read off its tensors; the arguments are what no tensor shows.

    sizes: the schedule, which depends on the transformer, not on this file; the other defaults are the official ones.
    Raises ``CheckpointError`` where the tensors show no VAR tokenizer.
    """
    schedule = ScaleSchedule.of(sizes)
    codes, code_dim = tensor_of(state, "quantize.embedding.weight", 2, TOKENIZER).shape
    phi, separate = _phi(state)
    try:
        return ResidualConfig(
            codes=codes,
            code_dim=code_dim,
            sizes=schedule.sizes,
            phi=0 if separate and phi == len(schedule) else phi or 1,
            phi_ratio=abs(phi_ratio) if phi else 0.0,
            quant_kernel=tensor_of(state, "quant_conv.weight", 4, TOKENIZER).shape[-1],
            cosine=cosine,
            beta=beta,
            autoencoder=_autoencoder_config(state, dropout),
        )
    except InputError as error:
        raise CheckpointError(f"the {TOKENIZER} cannot be read: {error}") from None


def _autoencoder_config(state: State, dropout: float) -> AutoencoderConfig:
    levels, ch = count(state, "encoder.down."), tensor_of(state, "encoder.conv_in.weight", 4, TOKENIZER).shape[0]
    firsts = [tensor_of(state, f"encoder.down.{i}.block.0.conv1.weight", 4, TOKENIZER) for i in range(levels)]
    if not firsts or any(first.shape[0] % ch for first in firsts):
        widths = [first.shape[0] for first in firsts]
        raise CheckpointError(f"the levels of the {TOKENIZER} are {widths} wide; expected multiples of the first, {ch}")
    return AutoencoderConfig(
        ch=ch,
        mult=tuple(first.shape[0] // ch for first in firsts),
        z=tensor_of(state, "encoder.conv_out.weight", 4, TOKENIZER).shape[0],
        res_blocks=count(state, "encoder.down.0.block."),
        attention=f"encoder.down.{levels - 1}.attn.0.qkv.weight" in state,
        groups=GROUPS,
        dropout=dropout,
    )


def _phi(state: State) -> tuple[int, bool]:
    """How many phi convolutions there are, and whether their names say that every scale has its own."""
    if "quantize.quant_resi.qresi.weight" in state:
        return 1, False
    separate = count(state, "quantize.quant_resi.")
    return (separate, True) if separate else (count(state, "quantize.quant_resi.qresi_ls."), False)


def tokenizer_targets(config: ResidualConfig, separate: bool | None = None) -> Targets:
    """Our tensor names of a tokenizer with this configuration to the official ones.

    separate: whether the phi convolutions carry the names of ``share_quant_resi=0``; by default where there is one per
    scale.
    """
    if config.autoencoder.groups != GROUPS:
        raise CheckpointError(
            f"the tokenizer's norms have {config.autoencoder.groups} groups; the official class has {GROUPS}, always"
        )
    state = without_values(lambda: ResidualTokenizer(config)).state_dict()
    last = len(config.autoencoder.mult) - 1
    separate = config.phi == 0 if separate is None else separate
    shared = config.phi == 1 and not separate
    phi = "quant_resi." if separate else "quant_resi.qresi_ls."
    targets = {}
    for ours, t in state.items():
        if ours.startswith("quantizer.phi."):
            _, _, index, _, kind = ours.split(".")
            name = f"quantize.quant_resi.qresi.{kind}" if shared else f"quantize.{phi}{index}.{kind}"
        else:
            name = _tokenizer_name(ours, last)
        targets[ours] = Target(name, tuple(t.shape), tuple(t.shape))
    return targets


def _tokenizer_name(ours: str, last: int) -> str:
    """``last``: the deepest level; the official decoder counts levels from the image, ours in running order."""
    if ours == "quantizer.codebook.weight":
        return "quantize.embedding.weight"
    parts = ours.replace("mid.attention", "mid.attn_1").split(".")
    if parts[1] == "levels":
        encoder = parts[0] == "encoder"
        level = parts[2] if encoder else str(last - int(parts[2]))
        parts[1:3] = ["down" if encoder else "up", level]
        parts = [("downsample" if encoder else "upsample") if part == "resample" else part for part in parts]
    return ".".join(TOKENIZER_PARTS.get(part, part) for part in parts)


def tokenizer_from_official(state: State, config: ResidualConfig) -> dict[str, Tensor]:
    """The official tokenizer's parameters under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    targets = tokenizer_targets(config, _phi(state)[1])
    return to_ours(state, targets, TOKENIZER, lambda name: name == "quantize.ema_vocab_hit_SV")


def tokenizer_to_official(state: State, config: ResidualConfig, separate: bool | None = None) -> dict[str, Tensor]:
    """Our tokenizer's parameters under the official names, and the usage counter as it starts: all zeros.

    separate: see :func:`tokenizer_targets`. Raises ``CheckpointError`` for norm groups that the official class does not
    have.
    """
    official = to_official(state, tokenizer_targets(config, separate))
    return official | {"quantize.ema_vocab_hit_SV": zeros_like_first(official, len(config.sizes), config.codes)}


def model_config(
    state: State,
    sizes: Iterable[int | Iterable[int]] | None = None,
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
    state: State,
    sizes: Iterable[int | Iterable[int]] | None,
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


def _tokens(state: State) -> tuple[int, int, int]:
    """Tokens in all, scales, and tokens of the first scale, as the embeddings have them."""
    tokens = tensor_of(state, "pos_1LC", 3, TRANSFORMER).shape[1]
    scales = tensor_of(state, "lvl_embed.weight", 2, TRANSFORMER).shape[0]
    return tokens, scales, tensor_of(state, "pos_start", 3, TRANSFORMER).shape[1]


def _given(state: State, sizes: Iterable[int | Iterable[int]]) -> tuple[Size, ...]:
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


def _lengths(state: State) -> list[int]:
    """Tokens per scale where a buffer shows them, else empty."""
    tokens, scales, first = _tokens(state)
    for lengths in (_level_lengths(state, tokens), _mask_lengths(state, tokens)):
        if (len(lengths), sum(lengths), lengths[:1]) == (scales, tokens, [first]):
            return lengths
    return []


def _sizes(state: State) -> tuple[Size, ...]:
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


def _level_lengths(state: State, tokens: int) -> list[int]:
    """Tokens per scale according to the buffer of level indices; empty where it is absent or broken."""
    levels = state.get("lvl_1L")
    if levels is None or levels.is_meta or levels.dtype not in WHOLE or levels.numel() != tokens:
        return []
    flat = levels.flatten().long()
    whole = int(flat[0]) == 0 and bool(((flat.diff() == 0) | (flat.diff() == 1)).all())
    return flat.bincount().tolist() if whole else []


def _mask_lengths(state: State, tokens: int) -> list[int]:
    """Tokens per scale according to the blocks of the attention mask; empty where it is absent or broken."""
    mask = state.get("attn_bias_for_masking")
    if mask is None or mask.is_meta or mask.shape != (1, 1, tokens, tokens):
        return []
    ends = (mask[0, 0] == 0).sum(-1).unique()
    return torch.cat([ends[:1], ends.diff()]).tolist()


def model_targets(config: VARConfig) -> Targets:
    """Our tensor names of a transformer with this configuration to the official ones."""
    return targets_of(without_values(lambda: VAR(config)).state_dict(), TRANSFORMER_NAMES)


def targets_of(state: State, names: Iterable[tuple[str, str]]) -> Targets:
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


def model_from_official(state: State, config: VARConfig) -> dict[str, Tensor]:
    """The official transformer's parameters under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    return to_ours(state, model_targets(config), TRANSFORMER, is_model_buffer)


def model_to_official(state: State, config: VARConfig) -> dict[str, Tensor]:
    """Our transformer's parameters under the official names, and the buffers that the official class computes."""
    official, schedule = to_official(state, model_targets(config)), ScaleSchedule(config.sizes)
    device = next(iter(official.values())).device
    levels = torch.repeat_interleave(torch.arange(len(schedule)), torch.tensor(schedule.lengths))
    sees = block_causal(schedule, torch.device("cpu"))
    official["lvl_1L"] = levels[None].to(device)
    official["attn_bias_for_masking"] = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)[None, None].to(device)
    for i in range(config.depth):
        official[f"blocks.{i}.attn.zero_k_bias"] = zeros_like_first(official, config.width)
    return official
