"""Official names of VAR's tokenizer and ours, both ways (FoundationVision/VAR: ``models/vqvae.py``, ``quant.py``)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from nextscale.checkpoints.convert.foreign import SINGLE_SCALE
from nextscale.checkpoints.convert.renaming import (
    Target,
    Targets,
    count,
    tensor_of,
    to_ours,
    to_theirs,
    zeros_like_first,
)
from nextscale.checkpoints.shapes import without_values
from nextscale.errors import CheckpointError, InputError
from nextscale.scales import PRESETS, ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer

StateDict = Mapping[str, Tensor]

TOKENIZER = "VAR tokenizer"
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


def check_scales(names: Collection[str]) -> None:
    """Raises ``CheckpointError`` for a VQGAN, whose names are much the same."""
    if not any(name.startswith(("quantize.quant_resi.", "quantize.ema_vocab")) for name in names):
        raise CheckpointError(f"is {SINGLE_SCALE}; VAR needs a tokenizer of many scales, such as vae_ch160v4096z32.pth")


def tokenizer_config(
    state: StateDict,
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


def _autoencoder_config(state: StateDict, dropout: float) -> AutoencoderConfig:
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


def _phi(state: StateDict) -> tuple[int, bool]:
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
            name = official_autoencoder_name(ours, last)
        targets[ours] = Target(name, tuple(t.shape), tuple(t.shape))
    return targets


def official_autoencoder_name(ours: str, last: int) -> str:
    """The official name of a tokenizer's tensor. last: the deepest level; the official decoder counts levels from the
    image, ours in running order."""
    if ours == "quantizer.codebook.weight":
        return "quantize.embedding.weight"
    parts = ours.replace("mid.attention", "mid.attn_1").split(".")
    if parts[1] == "levels":
        encoder = parts[0] == "encoder"
        level = parts[2] if encoder else str(last - int(parts[2]))
        parts[1:3] = ["down" if encoder else "up", level]
        parts = [("downsample" if encoder else "upsample") if part == "resample" else part for part in parts]
    return ".".join(TOKENIZER_PARTS.get(part, part) for part in parts)


def tokenizer_from_official(state: StateDict, config: ResidualConfig) -> dict[str, Tensor]:
    """The official tokenizer's parameters under our names. Raises ``CheckpointError`` where one does not fit
    ``config``."""
    targets = tokenizer_targets(config, _phi(state)[1])
    return to_ours(state, targets, TOKENIZER, lambda name: name == "quantize.ema_vocab_hit_SV")


def tokenizer_to_official(state: StateDict, config: ResidualConfig, separate: bool | None = None) -> dict[str, Tensor]:
    """Our tokenizer's parameters under the official names, and the usage counter as it starts: all zeros.

    separate: see :func:`tokenizer_targets`. Raises ``CheckpointError`` for norm groups that the official class does not
    have.
    """
    official = to_theirs(state, tokenizer_targets(config, separate))
    return official | {"quantize.ema_vocab_hit_SV": zeros_like_first(official, len(config.sizes), config.codes)}


def check_tokenizer_exports(config: ResidualConfig) -> None:
    """What no tensor of an official file shows must be as the official builder has it."""
    for name, ours, official in (
        ("cosine", config.cosine, (False,)),
        ("phi_ratio", config.phi_ratio, (0.0, 0.5)),
    ):
        if ours not in official:
            raise CheckpointError(
                f"the tokenizer has {name} {ours}; an official file cannot say so and means {official[-1]}"
            )
