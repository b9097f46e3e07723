"""Infinity's official names and ours, both ways (FoundationVision/Infinity: ``models/infinity.py``, ``basic.py``); its
tokenizer's stand in ``bitwise.py``.

Configurations are read off names and shapes. Zero biases are dropped on the way in and written anew on the way out;
every parameter keeps its bits both ways.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch import Tensor

from nextscale.checkpoints.convert import bitwise
from nextscale.checkpoints.convert.renaming import (
    Target,
    Targets,
    count,
    marked,
    respelt,
    tensor_of,
    to_ours,
    to_theirs,
    zeros_like_first,
)
from nextscale.checkpoints.shapes import without_values
from nextscale.conditions.encoder import EncoderReference
from nextscale.conditions.text import TextConditioner
from nextscale.errors import CheckpointError, InputError
from nextscale.models.infinity import Infinity, InfinityConfig, Sizes
from nextscale.ratios import PUBLISHED, PUBLISHED_LENGTHS
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.bitwise import BitwiseConfig

StateDict = Mapping[str, Tensor]
Given = Iterable[int | Iterable[int]]

MARKS = {
    "model": ("text_proj_for_sos.ca.mat_q", "word_embed.weight"),
    "tokenizer": ("encoder.conv_in.conv.weight", "encoder.down.*"),
}
TRANSFORMER = "Infinity transformer"
NAMES = (
    (r"^null$", "cfg_uncond"),
    (r"^pool\.query$", "text_proj_for_sos.ca.mat_q"),
    (r"^pool\.text\.kv\.", "text_proj_for_sos.ca.mat_kv."),
    (r"^pool\.(text\.)?", "text_proj_for_sos.ca."),
    (r"^text_in\.fc1\.", "text_proj_for_ca.0."),
    (r"^text_in\.fc2\.", "text_proj_for_ca.2."),
    (r"^level_embedding$", "lvl_embed.weight"),
    (r"^word_embedding\.", "word_embed."),
    (r"^shared_ada_lin\.", "shared_ada_lin.1."),
    (r"^head_ada_lin\.", "head_nm.ada_lin.1."),
    (r"^head_lin\.", "head."),
    (r"\.attention\.qkv\.", ".sa.mat_qkv."),
    (r"\.attention\.scale_mul$", ".sa.scale_mul_1H11"),
    (r"\.attention\.", ".sa."),
    (r"\.cross\.q\.", ".ca.mat_q."),
    (r"\.cross\.text\.kv\.", ".ca.mat_kv."),
    (r"\.cross\.(text\.)?", ".ca."),
    (r"\.cross_norm\.", ".ca_norm."),
)
LEADING = {"pos_start": 1, "mat_q": 1, "scale_mul_1H11": 1, "ada_gss": 2}
"""How many leading axes of length 1 an official tensor has more than ours, by the last part of its name."""
LAYOUTS = {
    "125m": (12, 768, 8, 3072, 4),
    "layer12": (12, 768, 8, 3072, 4),
    "layer16": (16, 1152, 12, 4608, 4),
    "1b": (24, 1536, 16, 6144, 4),
    "layer24": (24, 1536, 16, 6144, 4),
    "2b": (32, 2048, 16, 8192, 8),
    "layer32": (32, 2080, 20, 8192, 4),
    "layer40": (40, 2688, 24, 10752, 4),
    "layer48": (48, 3360, 28, 13312, 4),
    "8b": (40, 3584, 28, 14336, 8),
    "8b-512": (40, 3584, 28, 14336, 8),
    "20b": (58, 4608, 36, 18432, 1),
}
"""What the authors call their sizes, behind the name of the system: depth, width, heads, hidden, chunks. How many
chunks the largest has is not known.
"""
LEVELS = 15
SCHEDULES = tuple(schedule.sizes for schedule in PUBLISHED)
SQUARE = next(sizes for sizes in SCHEDULES if sizes[-1][0] == sizes[-1][1])
PATCHIFIED = {"8b", "8b-512"}
"""Sizes that read tokens of 4 x 14 bits."""
CHUNK = re.compile(r"block_chunks\.(\d{1,9})\.(?:module\.)?(\d{1,9})\.")
"""Where a block stands; the reader takes ``module`` out of names, since wrappers put it there."""


def recognises(names: Collection[str]) -> str | None:
    """The component of Infinity that a file with these tensors holds; None where it is none."""
    if marked(names, {"model": MARKS["model"]}):
        return "model"
    return "tokenizer" if bitwise.is_tokenizer(names) else None


def config(component: str, state: StateDict, sizes: Given | None = None) -> InfinityConfig | BitwiseConfig:
    """The configuration of a component, read off its tensors; see :func:`model_config` and
    :func:`bitwise.tokenizer_config`."""
    if component == "model":
        return model_config(state, sizes)
    return bitwise.tokenizer_config(state, SQUARE if sizes is None else sizes)


def from_official(state: StateDict, config: InfinityConfig | BitwiseConfig) -> dict[str, Tensor]:
    """The parameters of an official component under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    if isinstance(config, BitwiseConfig):
        return bitwise.tokenizer_from_official(state, config)
    return model_from_official(state, config)


def to_official(state: StateDict, config: InfinityConfig | BitwiseConfig) -> dict[str, Tensor]:
    """The inverse, buffers included. Raises ``CheckpointError`` where the official builder has no such model."""
    if isinstance(config, BitwiseConfig):
        return bitwise.tokenizer_to_official(state, config)
    check_model_exports(config)
    return model_to_official(state, config)


def published(name: str, like: object = None) -> dict[str, Any] | None:
    """The configurations by component of a size that the authors call ``name``, such as infinity-2b; None for a name of
    another form.

    like: a configuration that settings of training alone are taken from. Raises ``InputError`` for a size that they do
    not have.
    """
    size = name.removeprefix("infinity-")
    if size == name:
        return None
    if size not in LAYOUTS:
        raise InputError(f"there is no size {name!r} to plan; there are {', '.join(f'infinity-{x}' for x in LAYOUTS)}")
    depth, width, heads, hidden, chunks = LAYOUTS[size]
    patchify = size in PATCHIFIED
    sizes = SQUARE[:10] if size.endswith("-512") else SQUARE
    model = InfinityConfig(
        depth=depth,
        width=width,
        heads=heads,
        hidden=hidden,
        bits=56 if patchify else 32,
        text_heads=official_text_heads(width, 2048),
        levels=LEVELS,
        chunks=chunks,
        sizes=sizes,
        schedules=SCHEDULES,
        lengths=PUBLISHED_LENGTHS,
        drop_path=like.drop_path if isinstance(like, InfinityConfig) else 0.0,
    )
    return {"tokenizer": bitwise.official_config(14 if patchify else 32, sizes, patchify), "model": model}


def conditioner(config: InfinityConfig) -> TextConditioner:
    """The text encoder of all published models, in the width and the length that this one reads."""
    return TextConditioner(EncoderReference(width=config.text_width, length=config.text_length))


def sampling(config: InfinityConfig) -> Mapping[str, Any]:
    """How the authors draw: with the patchified models at temperature 1, with the others at 0.5."""
    return {"guidance_scale": 3.0, "temperature": 1.0 if config.bits > 32 else 0.5, "top_p": 0.97}


def drawn(sizes: Given | None) -> dict[str, Any]:
    """Sizes, schedules and lengths of a configuration that draws ``sizes`` by default; no tensor shows them. Where
    ``sizes`` is None or begins a published table, the schedules are the published ones; else ``sizes`` alone.
    """
    default = SQUARE if sizes is None else ScaleSchedule.of(sizes).sizes
    if not any(default == table[: len(default)] for table in SCHEDULES):
        return {"sizes": default, "schedules": (), "lengths": ()}
    return {"sizes": default, "schedules": SCHEDULES, "lengths": tuple(sorted({*PUBLISHED_LENGTHS, len(default)}))}


def model_config(
    state: StateDict,
    sizes: Given | None = None,
    *,
    schedules: tuple[Sizes, ...] | None = None,
    level_per_chunk: bool = False,
    norm_eps: float = 1e-6,
) -> InfinityConfig:
    """The configuration of an official transformer, read off its tensors; the arguments are what no tensor shows, see
    :func:`drawn` and ``InfinityConfig``. Raises ``CheckpointError`` where the tensors show no Infinity transformer.
    """
    state, chunks = flat(state)
    _, text_heads, each = tensor_of(state, "text_proj_for_sos.ca.mat_q", 3, TRANSFORMER).shape
    text_length, text_width = tensor_of(state, "cfg_uncond", 2, TRANSFORMER).shape
    said = drawn(sizes) if schedules is None else {**drawn(sizes), "schedules": schedules, "lengths": ()}
    try:
        return InfinityConfig(
            depth=count(state, "blocks."),
            width=text_heads * each,
            heads=tensor_of(state, "blocks.0.sa.scale_mul_1H11", 4, TRANSFORMER).numel(),
            hidden=tensor_of(state, "blocks.0.ffn.fc1.weight", 2, TRANSFORMER).shape[0],
            bits=tensor_of(state, "word_embed.weight", 2, TRANSFORMER).shape[1],
            text_width=text_width,
            text_length=text_length,
            text_heads=text_heads,
            levels=tensor_of(state, "lvl_embed.weight", 2, TRANSFORMER).shape[0],
            chunks=chunks,
            level_per_chunk=level_per_chunk,
            norm_eps=norm_eps,
            **said,
        )
    except InputError as error:
        raise CheckpointError(f"the {TRANSFORMER} cannot be read: {error}") from None


def flat(state: StateDict) -> tuple[dict[str, Tensor], int]:
    """The same tensors with blocks counted through (``blocks.3.``), and how many chunks they were in; one where they
    are counted through already. Raises ``CheckpointError`` for chunks of different sizes, and a block that is there
    twice.
    """
    places = [(int(found[1]), int(found[2])) for name in state if (found := CHUNK.match(name))]
    chunks, each = (1 + max(column, default=0) for column in zip(*places)) if places else (1, 1)
    blocks = {*places}
    if places and len(blocks) != chunks * each:
        raise CheckpointError(
            f"the {TRANSFORMER} has {len(blocks)} blocks in {chunks} chunks; expected {each} in each of them"
        )

    def counted(name: str) -> str:
        found = CHUNK.match(name)
        return f"blocks.{int(found[1]) * each + int(found[2])}.{name[found.end() :]}" if found else name

    return respelt(state, counted, TRANSFORMER), chunks


def model_targets(config: InfinityConfig) -> Targets:
    """Our tensor names of a transformer with this configuration to the official ones, with blocks counted through."""
    targets = {}
    for ours, t in without_values(lambda: Infinity(config)).state_dict().items():
        name = ours
        for pattern, official in NAMES:
            name = re.sub(pattern, official, name)
        leading = (1,) * LEADING.get(name.rpartition(".")[2], 0)
        targets[ours] = Target(name, leading + tuple(t.shape), tuple(t.shape))
    return targets


def official_parameter_names(config: InfinityConfig) -> dict[str, str]:
    """The official names of a transformer's parameters, in the chunks of ``config``, to ours."""
    return {chunked(target.name, config): ours for ours, target in model_targets(config).items()}


def is_model_buffer(name: str) -> bool:
    """Whether the official class computes this tensor itself."""
    return name.endswith(".zero_k_bias")


def model_from_official(state: StateDict, config: InfinityConfig) -> dict[str, Tensor]:
    """The official transformer's parameters under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    state, _ = flat(state)
    for name, tensor in state.items():
        if name.endswith(".scale_mul_1H11"):  # (1, 1, H, 1) where the authors' own attention kernel was used
            state[name] = tensor.reshape(1, -1, 1, 1)
    return to_ours(state, model_targets(config), TRANSFORMER, is_model_buffer)


def model_to_official(state: StateDict, config: InfinityConfig) -> dict[str, Tensor]:
    """Our transformer's parameters under the official names, in the chunks of ``config``, and the zero biases."""
    official = to_theirs(state, model_targets(config))
    for name in ("text_proj_for_sos.ca", *(f"blocks.{i}.{kind}" for i in range(config.depth) for kind in ("sa", "ca"))):
        official[f"{name}.zero_k_bias"] = zeros_like_first(official, config.width)
    return {chunked(name, config): tensor for name, tensor in official.items()}


def chunked(name: str, config: InfinityConfig) -> str:
    """The official name of a tensor whose block is counted through."""
    if config.chunks == 1 or not name.startswith("blocks."):
        return name
    _, i, rest = name.split(".", 2)
    each = config.depth // config.chunks
    return f"block_chunks.{int(i) // each}.module.{int(i) % each}.{rest}"


def official_text_heads(width: int, text_width: int) -> int:
    """Heads of the query that sums a text up, as the official builder has them: each 128 channels of the text wide, or
    64 in the widest models."""
    return text_width // (64 if width > 4096 else 128)


def check_model_exports(config: InfinityConfig) -> None:
    """Raises ``CheckpointError`` where the official builder has no such model: what no official file shows must be as
    the builder has it. An official file shows the number of chunks; with one, the official class trains but cannot
    draw.
    """
    meant = {
        "mixer": None,
        "positions": "stretched",
        "norm_eps": 1e-6,
        "level_per_chunk": False,
        "levels": LEVELS,
        "text_mixer": 0,
        "text_heads": official_text_heads(config.width, config.text_width),
    }
    for name, value in meant.items():
        if getattr(config, name) != value:
            raise CheckpointError(
                f"the model has {name} {getattr(config, name)}; an official file cannot say so and means {value}"
            )
    strange = [sizes for sizes in config.schedules or (config.sizes,) if sizes not in SCHEDULES]
    if strange or not any(config.sizes == table[: len(config.sizes)] for table in SCHEDULES):
        raise CheckpointError(
            f"the model draws the scales {ScaleSchedule((strange or [config.sizes])[0])}; the official class has those "
            "of its published tables only"
        )
