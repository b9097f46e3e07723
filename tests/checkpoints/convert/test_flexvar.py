"""FlexVAR's official names and ours: exact both ways, told from VAR's and LlamaGen's, and refused where unfit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.checkpoints.convert import convert_files
from nextscale.checkpoints.convert import flexvar as convert
from nextscale.checkpoints.published import FLEXVAR_REPO, PUBLISHED, SAR_REPO
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import module_of
from nextscale.errors import CheckpointError, InputError
from nextscale.models.flexvar import FlexVAR, FlexVARConfig
from nextscale.pipeline import load
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.direct import DirectConfig, DirectTokenizer
from nextscale.verification.vectors import read_vectors
from tests.checkpoints.official import transformer
from tests.makers import randomise
from tests.verification.golden import GOLDEN, all_files, metadata_of

LAYOUTS: dict[str, Any] = json.loads((GOLDEN / "flexvar" / "official_keys.json").read_text())["models"]
SMALL = FlexVARConfig(depth=1, width=64, heads=1, classes=7, codes=24, sizes=((1, 1), (2, 2)), greedy=True)
SMALL_TOKENIZER = DirectConfig(
    codes=24, sizes=SMALL.sizes, autoencoder=AutoencoderConfig(ch=128, mult=(1, 1), z=4, res_blocks=2)
)


def hollow(name: str) -> dict[str, Tensor]:
    """An official state dict of zeros that take no memory."""
    return {key: torch.zeros(()).expand(entry["shape"]) for key, entry in LAYOUTS[name]["keys"].items()}


def signature(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(t.shape) for name, t in state.items()}


def official_transformer(config: FlexVARConfig = SMALL) -> dict[str, Tensor]:
    model = FlexVAR(config)
    randomise(model)
    return convert.to_official(model.state_dict(), config)


def official_tokenizer(config: DirectConfig = SMALL_TOKENIZER) -> dict[str, Tensor]:
    tokenizer = DirectTokenizer(config)
    randomise(tokenizer)
    return convert.to_official(tokenizer.state_dict(), config)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A transformer and a tokenizer as they are published: nested, the mask that of another schedule."""
    folder = tmp_path_factory.mktemp("official")
    state = official_transformer() | {"attn_bias_for_masking": torch.zeros(1, 1, 24, 24)}
    torch.save({"trainer": {"var_wo_ddp": state}}, folder / "model.pth")
    torch.save({"model": official_tokenizer()}, folder / "vae.pth")
    return folder / "model.pth", folder / "vae.pth"


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_layouts(name: str) -> None:
    """What is read off the tensors is what the name stands for, and the way back has the same names and shapes."""
    state = hollow(name)
    component = convert.recognises(state)
    assert component == ("tokenizer" if name == "FlexVAE" else "model")
    config = convert.config(component, state)
    known = convert.published("flexvar-d16" if name == "FlexVAE" else f"flexvar-{name}", config)
    assert known is not None
    assert config == known[component]
    ours = convert.from_official(state, config)
    assert signature(ours) == signature(without_values(lambda: module_of(config)).state_dict())
    assert sum(t.numel() for t in ours.values()) == LAYOUTS[name]["parameters"]
    assert signature(convert.to_official(ours, config)) == signature(state)


def test_names_of_sizes() -> None:
    assert convert.published("sar-d24") == convert.published("flexvar-d24")
    assert convert.published("var-d16") is None
    with pytest.raises(InputError, match="there is no size 'flexvar-d30' to plan; there are flexvar-d16, flexvar-d20"):
        convert.published("flexvar-d30")
    assert PUBLISHED["flexvar-d20"].files == ((FLEXVAR_REPO, "FlexVARd20-epo249.pth"), (FLEXVAR_REPO, "FlexVAE.pth"))
    assert PUBLISHED["sar-d20"].files == ((SAR_REPO, "SARd20-epo249.pth"), (FLEXVAR_REPO, "FlexVAE.pth"))


def test_the_weights_of_every_vector_file_come_back_with_the_same_bits() -> None:
    files = [read_vectors(path) for path in all_files() if metadata_of(path)["system"] == "flexvar"]
    for file in files:
        for part in [part for part in ("vae", "var") if part in file.config]:
            state = file.model_state(part)
            if part == "vae":
                tokenizer = convert.tokenizer_config(state, [1])
                back = convert.tokenizer_to_official(convert.tokenizer_from_official(state, tokenizer), tokenizer)
            else:
                model = convert.model_config(state, [1])
                back = convert.model_to_official(convert.from_official(state, model), model)
            kept = {name for name in back if name != "quantize.codebook_used" and not convert.is_model_buffer(name)}
            assert kept == {name for name in state if not convert.is_model_buffer(name)}
            assert all(torch.equal(back[name], state[name]) for name in kept)


def test_files_as_they_are_published_become_a_model_that_draws_any_size(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    report = convert_files(files, tmp_path / "out", sizes=[1, 2, 4])
    assert "FlexVAR transformer from trainer.var_wo_ddp" in str(report)
    assert "FlexVAR tokenizer from model" in str(report)
    pipe = load(tmp_path / "out", device="cpu", dtype="float32")
    assert isinstance(pipe.model, FlexVAR)
    assert pipe.model.config.greedy
    assert pipe.defaults == {"guidance_scale": 3.5, "top_k": 24, "top_p": 0.95}
    images = pipe(class_labels=[3], scales=[1, (2, 3), (4, 7)], seed=0, output_type="pt").images
    assert images.shape == (1, 3, 8, 14)


@pytest.mark.parametrize("component", ["model", "tokenizer"])
def test_a_mask_of_any_size_and_a_counter_change_nothing(component: str) -> None:
    state = official_transformer() if component == "model" else official_tokenizer()
    buffers = {"attn_bias_for_masking": torch.ones(1, 1, 8, 8)} if component == "model" else {}
    buffers |= {"quantize.codebook_used": torch.ones(9)} if component == "tokenizer" else {}
    config = convert.config(component, state, [1, 2])
    one, two = (convert.from_official(found, config) for found in (state, state | buffers))
    assert all(torch.equal(one[name], t) for name, t in two.items())


def test_a_transformer_of_vars_and_a_tokenizer_of_llamagens_are_none_of_flexvars() -> None:
    assert convert.recognises(transformer()) is None
    assert convert.recognises(official_tokenizer() | {"quantize.embedding.weight": torch.ones(24, 8)}) is None


def test_a_flexvar_tokenizer_for_a_var_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    torch.save(transformer(), tmp_path / "var.pth")
    with pytest.raises(CheckpointError, match="the tokenizer has 24 codes but the transformer expects 4096"):
        convert_files([tmp_path / "var.pth", files[1]], tmp_path / "out", sizes=None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"norm_eps": 1e-5}, "has norm_eps 1e-05; the official class has 1e-06"),
        ({"places": 16}, "has places 16; the official class has 32"),
        ({"code_dim": 8}, "has code_dim 8; the official class has 32"),
        ({"l2_norm": False, "heads": 2}, "has heads 2; the official class has 1"),
    ],
)
def test_a_transformer_that_the_official_class_cannot_be_is_refused(changed: dict[str, Any], sentence: str) -> None:
    config = replace(SMALL, **changed)
    with pytest.raises(CheckpointError, match=sentence):
        convert.to_official(FlexVAR(config).state_dict(), config)


@pytest.mark.parametrize(
    ("changed", "sentence"), [({"ch": 32}, "has ch 32; the official class has 128"), ({"groups": 16}, "has groups 16")]
)
def test_a_tokenizer_that_the_official_class_cannot_be_is_refused(changed: dict[str, Any], sentence: str) -> None:
    config = replace(SMALL_TOKENIZER, autoencoder=replace(SMALL_TOKENIZER.autoencoder, **changed))
    with pytest.raises(CheckpointError, match=sentence):
        convert.to_official({}, config)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"encoder.mid.1.k.weight": None}, "lacks the tensor encoder.mid.1.k.weight"),
        ({"encoder.mid.1.qkv.bias": torch.ones(384)}, "has the tensor encoder.mid.1.qkv.bias; expected q, k and v"),
        (
            {"encoder.mid.1.v.bias": torch.ones(9)},
            r"encoder.mid.1.q.bias and its k and v .* \(9,\) .* expected the same",
        ),
        ({"novelty": torch.ones(1)}, "1 tensors that do not belong there, first novelty"),
        ({"quant_conv.weight": torch.ones(32, 4, 3, 3)}, r"quant_conv.weight .* expected \(32, 4, 1, 1\)"),
        ({"encoder.conv_blocks.0.res.0.conv1.weight": torch.ones(100, 128, 3, 3)}, r"are \[100, 128\] wide"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(changed: dict[str, Tensor | None], sentence: str) -> None:
    state = {name: t for name, t in (official_tokenizer() | changed).items() if t is not None}
    with pytest.raises(CheckpointError, match=sentence):
        convert.from_official(state, convert.config("tokenizer", state, [1, 2]))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"pos_1LC": torch.ones(1, 64, 32, 16)}, "pos_1LC of the FlexVAR transformer is 32x16 positions"),
        ({"lvl_embed.weight": torch.ones(2, 64)}, "1 tensors that do not belong there, first lvl_embed.weight"),
        ({"head.bias": None}, "lacks the tensor head.bias"),
    ],
)
def test_a_transformer_that_does_not_fit_is_refused(changed: dict[str, Tensor | None], sentence: str) -> None:
    state = {name: t for name, t in (official_transformer() | changed).items() if t is not None}
    with pytest.raises(CheckpointError, match=sentence):
        convert.from_official(state, convert.config("model", state, [1, 2]))
