"""Official names of Infinity's tokenizer and ours, both ways (FoundationVision/Infinity: ``models/bsq_vae``).

Every convolution and norm stands in a wrapper (``.conv.``, ``.norm.``) that some files leave out; both spellings are
read, the official one is written.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nextscale.checkpoints.convert.renaming import Target, Targets, count, respelt, tensor_of, to_ours, to_theirs
from nextscale.checkpoints.convert.residual import official_autoencoder_name
from nextscale.checkpoints.shapes import without_values
from nextscale.errors import CheckpointError, InputError
from nextscale.scales import ScaleSchedule, Size
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import OFFICIAL, BitwiseConfig, BitwiseTokenizer

StateDict = Mapping[str, Tensor]

TOKENIZER = "Infinity tokenizer"
MASKS = ("quantizer.lfq.mask", "quantize.lfq.mask")
"""Two names under which every file has the value of each bit in an integer label; nothing reads them."""
PIXELS = 16
"""Side in pixels of what a token stands for; a tokenizer with a finer latent grid is patchified."""


def is_tokenizer(names: Collection[str]) -> bool:
    """Whether these are the names of a bitwise tokenizer: an autoencoder without attention and without a codebook."""
    both = all(any(name.startswith(part) for name in names) for part in ("encoder.down.", "decoder.up."))
    others = any(".attn" in name or name.startswith(("quantize.embedding.", "quant_conv.")) for name in names)
    return both and not others


def tokenizer_config(
    state: StateDict, sizes: Iterable[int | Iterable[int]], *, patchify: bool | None = None
) -> BitwiseConfig:
    """The configuration of an official tokenizer, read off its tensors; the arguments are what no tensor shows.

    sizes: the schedule; patchify: by default it is where its latent grid is finer than one position for 16 pixels.
    Raises ``CheckpointError`` where the tensors show no such tokenizer.
    """
    state = wrapped(state)
    levels = count(state, "encoder.down.")
    ch = tensor_of(state, "encoder.conv_in.conv.weight", 4, TOKENIZER).shape[0]
    bits = tensor_of(state, "encoder.conv_out.conv.weight", 4, TOKENIZER).shape[0]
    firsts = [tensor_of(state, f"encoder.down.{i}.block.0.conv1.conv.weight", 4, TOKENIZER) for i in range(levels)]
    widths = [first.shape[0] for first in firsts]
    if not widths or any(width % ch for width in widths):
        raise CheckpointError(f"the levels of the {TOKENIZER} are {widths} wide; expected multiples of the first, {ch}")
    if patchify is None:
        patchify = 2 ** (levels - 1) < PIXELS
    try:
        return BitwiseConfig(
            bits=bits,
            sizes=ScaleSchedule.of(sizes).sizes,
            patchify=patchify,
            autoencoder=AutoencoderConfig(
                ch=ch,
                mult=tuple(width // ch for width in widths),
                z=bits,
                res_blocks=count(state, "encoder.down.0.block."),
                attention=False,
                mid_attention=False,
                groups=None,
            ),
        )
    except InputError as error:
        raise CheckpointError(f"the {TOKENIZER} cannot be read: {error}") from None


def official_config(bits: int, sizes: tuple[Size, ...], patchify: bool) -> BitwiseConfig:
    """The configuration of the published tokenizers: those of 14 bits are patchified, with a level less."""
    layout = replace(OFFICIAL, z=bits, mult=OFFICIAL.mult[:4] if patchify else OFFICIAL.mult)
    return BitwiseConfig(bits=bits, sizes=sizes, patchify=patchify, autoencoder=layout)


def tokenizer_targets(config: BitwiseConfig) -> Targets:
    """Our tensor names of a tokenizer with this configuration to the official ones."""
    state = without_values(lambda: BitwiseTokenizer(config)).state_dict()
    last = len(config.autoencoder.mult) - 1
    return {
        ours: Target(_wrapped_name(official_autoencoder_name(ours, last)), tuple(t.shape), tuple(t.shape))
        for ours, t in state.items()
    }


def wrapped(state: StateDict) -> dict[str, Tensor]:
    """The same tensors under names with wrappers, whichever spelling they have. Raises ``CheckpointError`` where one is
    there in both."""

    def spelling(name: str) -> str:
        plain = name.startswith(("encoder.", "decoder.")) and not _is_wrapped(name)
        return _wrapped_name(name) if plain else name

    return respelt(state, spelling, TOKENIZER)


def tokenizer_from_official(state: StateDict, config: BitwiseConfig) -> dict[str, Tensor]:
    """The official tokenizer's parameters under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    return to_ours(wrapped(state), tokenizer_targets(config), TOKENIZER, lambda name: name in MASKS)


def tokenizer_to_official(state: StateDict, config: BitwiseConfig) -> dict[str, Tensor]:
    """Our tokenizer's parameters under the official names, and the masks. Raises ``CheckpointError`` where the official
    builder has no such tokenizer."""
    layout = config.autoencoder
    if (
        layout.attention
        or layout.mid_attention
        or any(layout.norm_groups(w) != (24 if w % 32 else 32) for w in layout.widths)
    ):
        raise CheckpointError("the tokenizer has attention or other norm groups; the official class has neither")
    weights = 2 ** torch.arange(config.bits - 1, -1, -1)  # overflows from 64 bits on, there as here
    official = to_theirs(state, tokenizer_targets(config))
    device = next(iter(official.values())).device
    return official | {name: weights.clone().to(device) for name in MASKS}  # no two tensors of a file share numbers


def _is_wrapped(name: str) -> bool:
    """Whether the module behind a convolution's or norm's name is the wrapper's: ``conv_in.conv.weight``. The
    convolution of a change of resolution is called ``conv`` itself.
    """
    *modules, _ = name.split(".")
    if modules[-1] == "norm":
        return True
    return modules[-1] == "conv" and modules[-2] not in ("downsample", "upsample")


def _wrapped_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    inner = "norm" if re.search(r"\bnorm(1|2|_out)$", module) else "conv"
    return f"{module}.{inner}.{kind}"
