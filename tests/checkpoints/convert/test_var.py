"""VAR's official names and ours: exact both ways, for the weights of every vector file and for every published size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.checkpoints.convert import residual, var
from nextscale.errors import CheckpointError
from nextscale.models.var import VAR, VARConfig
from nextscale.scales import ScaleSchedule
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from nextscale.verification.vectors import VectorFile, read_vectors
from tests.makers import randomise
from tests.verification.golden import GOLDEN, all_files, metadata_of

PUBLISHED: dict[str, Any] = json.loads((GOLDEN / "var" / "official_keys.json").read_text())["models"]
TRANSFORMERS = [name for name in PUBLISHED if name.startswith("var_")]
OURS = ResidualConfig(
    codes=16, code_dim=4, sizes=((1, 1), (2, 2)), autoencoder=AutoencoderConfig(ch=32, mult=(1, 2), z=4, res_blocks=1)
)
SMALL = VARConfig(depth=2, width=64, heads=2, classes=3, codes=16, code_dim=4, sizes=((1, 1), (2, 2), (3, 3)))


def official_meta(name: str) -> dict[str, Tensor]:
    """The published state dict without numbers: names expanded by the file's own rule."""
    found = {}
    for tensor, dtype, shape, _ in PUBLISHED[name]["tensors"]:
        indices = range(PUBLISHED[name]["blocks"]) if "{i}" in tensor else range(1)
        for i in indices:
            found[tensor.replace("{i}", str(i))] = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    assert len(found) == PUBLISHED[name]["keys"]
    return found


def meta_state(module: type[VAR] | type[ResidualTokenizer], config: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(module(config).state_dict())


def signature(state: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(t.shape), t.dtype) for name, t in state.items()}


def official_transformer(config: VARConfig = SMALL) -> dict[str, Tensor]:
    module = VAR(config)
    randomise(module)
    return var.model_to_official(module.state_dict(), config)


def official_tokenizer(config: ResidualConfig = OURS, separate: bool | None = None) -> dict[str, Tensor]:
    module = ResidualTokenizer(config)
    randomise(module)
    return residual.tokenizer_to_official(module.state_dict(), config, separate)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_published_transformers(name: str) -> None:
    """The configuration is read off the tensors, ours has as many parameters, and the way back has the same names and
    shapes."""
    state, said = official_meta(name), PUBLISHED[name]["config"]
    config = var.model_config(state)
    published = VARConfig.published(said["depth"], 512 if said["shared_aln"] else 256)
    assert config == replace(published, drop_path=0.0)
    assert (config.width, config.heads, config.classes) == (said["embed_dim"], said["num_heads"], said["num_classes"])
    assert config.sizes == ScaleSchedule.of(said["patch_nums"]).sizes
    ours = var.model_from_official(state, config)
    assert signature(ours) == signature(meta_state(VAR, config))
    assert sum(t.numel() for t in ours.values()) == PUBLISHED[name]["parameters"]
    assert signature(var.model_to_official(ours, config)) == signature(state)


def test_the_published_tokenizer() -> None:
    (name,) = set(PUBLISHED) - set(TRANSFORMERS)
    state = official_meta(name)
    config = residual.tokenizer_config(state)
    assert config == ResidualConfig()
    ours = residual.tokenizer_from_official(state, config)
    assert signature(ours) == signature(meta_state(ResidualTokenizer, config))
    assert sum(t.numel() for t in ours.values()) == PUBLISHED[name]["parameters"]
    assert signature(residual.tokenizer_to_official(ours, config)) == signature(state)


def whole_models() -> list[VectorFile]:
    return [
        read_vectors(path)
        for path in all_files()
        if metadata_of(path)["system"] == "var" and metadata_of(path)["kind"] in ("tokenizer", "var")
    ]


def test_the_weights_of_every_vector_file_come_back_with_the_same_bits() -> None:
    for file in whole_models():
        state = file.model_state("vae")
        config = residual.tokenizer_config(state, file.config["vae"]["v_patch_nums"])
        back = residual.tokenizer_to_official(residual.tokenizer_from_official(state, config), config)
        assert set(back) == set(state) | {"quantize.ema_vocab_hit_SV"}, file.case
        assert all(torch.equal(back[name], state[name]) for name in state if "ema_vocab" not in name), file.case
        if "var" not in file.config:
            continue
        state = file.model_state("var")
        said = file.config["var"]
        transformer = var.model_config(state, heads=said["num_heads"])
        assert transformer.sizes == ScaleSchedule.of(said["patch_nums"]).sizes
        back = var.model_to_official(var.model_from_official(state, transformer), transformer)
        assert set(back) >= set(state), file.case
        assert all(torch.equal(back[name], state[name]) for name in state), file.case  # buffers included


@pytest.mark.parametrize("separate", [None, True])
@pytest.mark.parametrize(
    ("phi", "ratio", "names"),
    [
        (4, 0.5, {"qresi_ls.0", "qresi_ls.1", "qresi_ls.2", "qresi_ls.3"}),
        (3, 0.5, {"qresi_ls.0", "qresi_ls.1", "qresi_ls.2"}),
        (1, 0.5, {"qresi"}),
        (0, 0.5, {"0", "1"}),
        (4, 0.0, set()),
    ],
)
def test_every_layout_of_phi(phi: int, ratio: float, names: set[str], separate: bool | None) -> None:
    config = replace(OURS, phi=phi, phi_ratio=ratio)
    if separate:
        names = {str(i) for i in range((phi or 2) if ratio else 0)}
    state = official_tokenizer(config, separate)
    prefix = "quantize.quant_resi."
    assert {name.removeprefix(prefix).rpartition(".")[0] for name in state if name.startswith(prefix)} == names
    read = residual.tokenizer_config(state, OURS.sizes)
    count = (phi or len(OURS.sizes)) if ratio else 0
    assert len(ResidualTokenizer(read).quantizer.phi) == count
    back = residual.tokenizer_to_official(residual.tokenizer_from_official(state, read), read, separate)
    assert all(torch.equal(back[name], t) for name, t in state.items())
    assert set(back) == set(state)


def test_the_decoder_counts_levels_from_the_image() -> None:
    """Ours in running order: the deepest level, official up.1, is levels.0 and ends in an upsampling."""
    targets = {ours: target.name for ours, target in residual.tokenizer_targets(OURS).items()}
    assert targets["decoder.levels.0.resample.conv.weight"] == "decoder.up.1.upsample.conv.weight"
    assert targets["decoder.levels.1.blocks.0.shortcut.weight"] == "decoder.up.0.block.0.nin_shortcut.weight"
    assert targets["encoder.levels.1.attention.0.proj.bias"] == "encoder.down.1.attn.0.proj_out.bias"
    assert targets["decoder.mid.attention.qkv.weight"] == "decoder.mid.attn_1.qkv.weight"


def test_the_schedule_is_read_off_either_buffer() -> None:
    state = official_transformer()
    assert var.model_config(state).sizes == SMALL.sizes
    without_levels = {name: t for name, t in state.items() if name != "lvl_1L"}
    assert var.model_config(without_levels).sizes == SMALL.sizes
    broken = state | {"lvl_1L": torch.full((1, 14), 7)}
    assert var.model_config(broken).sizes == SMALL.sizes
    neither = {name: t for name, t in without_levels.items() if name != "attn_bias_for_masking"}
    with pytest.raises(CheckpointError, match="14 tokens in 3 scales and does not say which"):
        var.model_config(neither)
    assert var.model_config(neither, [1, 2, 3]).sizes == SMALL.sizes


def test_buffers_of_any_size_are_accepted_and_dropped() -> None:
    state = official_tokenizer() | {"quantize.ema_vocab_hit_SV": torch.ones(7, 16)}
    assert residual.tokenizer_config(state, OURS.sizes) == OURS
    back = residual.tokenizer_to_official(residual.tokenizer_from_official(state, OURS), OURS)
    assert torch.equal(back["quantize.ema_vocab_hit_SV"], torch.zeros(2, 16))


def test_heads_without_l2_norm_are_64_wide_unless_given() -> None:
    state = official_transformer(replace(SMALL, l2_norm=False))
    assert var.model_config(state).heads == 1
    assert var.model_config(state, heads=2) == replace(SMALL, l2_norm=False)
    with pytest.raises(CheckpointError, match="32 wide; expected a multiple of 64"):
        var.model_config(official_transformer(replace(SMALL, l2_norm=False, width=32)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"pos_start": None}, "lacks the tensor pos_start"),
        (
            {"blocks.1.attn.proj.bias": None},
            r"lacks the tensor blocks.1.attn.proj.bias, expected with the shape \(64,\)",
        ),
        (
            {"blocks.1.ffn.fc2.bias": torch.ones(63)},
            r"blocks.1.ffn.fc2.bias .* has the shape \(63,\); expected \(64,\)",
        ),
        ({"head.bias": torch.ones(16, dtype=torch.int64)}, "head.bias .* holds torch.int64; expected floating point"),
        ({"word_embed.weight": torch.ones(3)}, r"has the shape \(3,\); expected 2 dimensions"),
        ({"novelty": torch.ones(1)}, "1 tensors that do not belong there, first novelty"),
    ],
)
def test_a_transformer_that_does_not_fit_is_refused(changed: dict[str, Tensor | None], sentence: str) -> None:
    state = {name: t for name, t in (official_transformer() | changed).items() if t is not None}
    with pytest.raises(CheckpointError, match=sentence):
        var.model_from_official(state, var.model_config(state))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"quantize.embedding.weight": None}, "lacks the tensor quantize.embedding.weight"),
        ({"quantize.embedding.weight": torch.ones(16, 5)}, "4 channels but the codes 5"),
        ({"encoder.mid.block_1.conv1.weight": torch.ones(1)}, r"has the shape \(1,\); expected \(64, 64, 3, 3\)"),
        ({"encoder.conv_in.weight": torch.ones(24, 3, 3, 3)}, r"levels .* are \[32, 64\] wide; expected multiples"),
        ({"decoder.up.7.block.0.conv1.weight": torch.ones(1)}, "do not belong there, first decoder.up.7"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(changed: dict[str, Tensor | None], sentence: str) -> None:
    state = {name: t for name, t in (official_tokenizer() | changed).items() if t is not None}
    with pytest.raises(CheckpointError, match=sentence):
        residual.tokenizer_from_official(state, residual.tokenizer_config(state, OURS.sizes))


def test_norm_groups_that_the_official_class_does_not_have_are_refused() -> None:
    config = replace(OURS, autoencoder=replace(OURS.autoencoder, groups=8))
    with pytest.raises(CheckpointError, match="8 groups; the official class has 32"):
        residual.tokenizer_to_official(ResidualTokenizer(config).state_dict(), config)
