"""Infinity's official names and ours: exact both ways, for the weights of every vector file and of every layout."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nextscale.checkpoints.convert import bitwise
from nextscale.checkpoints.convert import infinity as convert
from nextscale.checkpoints.convert.files import read_official
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import module_of
from nextscale.errors import CheckpointError, InputError
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.ratios import PUBLISHED
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from nextscale.verification.vectors import VectorFile, read_vectors
from tests.makers import randomise
from tests.verification.golden import GOLDEN, all_files, metadata_of

LAYOUTS: dict[str, Any] = json.loads((GOLDEN / "infinity" / "official_keys.json").read_text())["models"]
TRANSFORMERS = [name for name in LAYOUTS if name.startswith("infinity_")]
TOKENIZERS = [name for name in LAYOUTS if name.startswith("vae_")]
SHEET = {
    "125m": 125.2e6,
    "layer12": 125.2e6,
    "layer16": 361.6e6,
    "1b": 940.9e6,
    "layer24": 940.9e6,
    "2b": 2.2046e9,
    "layer32": 2.2567e9,
    "layer40": 4.716e9,
    "layer48": 8.767e9,
    "8b": 8.376e9,
    "8b-512": 8.376e9,
    "20b": 19.95e9,
}
"""Parameters as the official classes have them."""
SMALL = InfinityConfig(
    depth=4,
    width=32,
    heads=2,
    hidden=64,
    bits=4,
    text_width=256,
    text_length=5,
    text_heads=2,
    chunks=2,
    sizes=convert.SQUARE[:7],
    schedules=convert.SCHEDULES,
    lengths=(7, 10, 12, 13),
)
SMALL_TOKENIZER = BitwiseConfig(
    bits=4,
    sizes=SMALL.sizes,
    autoencoder=AutoencoderConfig(
        ch=32, mult=(1, 1, 1, 1, 1), z=4, res_blocks=1, attention=False, mid_attention=False, groups=None
    ),
)


def meta(name: str) -> dict[str, Tensor]:
    """An official state dict without numbers."""
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for key, (shape, dtype) in LAYOUTS[name]["state"].items()
    }


def signature(state: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    return {name: (tuple(t.shape), t.dtype) for name, t in state.items()}


def official_transformer(config: InfinityConfig = SMALL) -> dict[str, Tensor]:
    module = Infinity(config)
    randomise(module)
    return convert.model_to_official(module.state_dict(), config)


def official_tokenizer(config: BitwiseConfig = SMALL_TOKENIZER) -> dict[str, Tensor]:
    module = BitwiseTokenizer(config)
    randomise(module)
    return bitwise.tokenizer_to_official(module.state_dict(), config)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_published_transformers(name: str) -> None:
    """What is read off the tensors is what the name stands for, and the way back has the same names and shapes."""
    state = meta(name)
    assert convert.recognises(state) == "model"
    config = convert.config("model", state)
    published = convert.published(name.replace("_", "-"))
    assert published is not None
    assert config == published["model"]
    ours = convert.from_official(state, config)
    assert signature(ours) == signature(without_values(lambda: module_of(config)).state_dict())
    assert sum(t.numel() for t in ours.values()) == LAYOUTS[name]["parameters"]
    assert signature(convert.to_official(ours, config)) == signature(state)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_published_tokenizers(name: str) -> None:
    state = meta(name)
    assert convert.recognises(state) == "tokenizer"
    config = convert.config("tokenizer", state)
    bits = LAYOUTS[name]["config"]["codebook_dim"]
    assert config == bitwise.official_config(bits, convert.SQUARE, patchify=bits == 14)
    ours = convert.from_official(state, config)
    assert signature(ours) == signature(without_values(lambda: module_of(config)).state_dict())
    assert sum(t.numel() for t in ours.values()) == LAYOUTS[name]["parameters"]
    assert signature(convert.to_official(ours, config)) == signature(state)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("2b", "vae_d32"), ("8b", "vae_d56_f8_14_patchify"), ("8b-512", "vae_d56_f8_14_patchify")],
)
def test_transformers_and_tokenizers_of_a_size_fit(name: str, layout: str) -> None:
    found = convert.published(f"infinity-{name}")
    assert found is not None
    tokenizer: Any = without_values(lambda: module_of(found["tokenizer"]))
    assert found["tokenizer"] == convert.config("tokenizer", meta(layout), found["model"].sizes)
    assert (tokenizer.draws, tokenizer.stride) == (found["model"].bits, 16)


@pytest.mark.parametrize("name", SHEET)
def test_parameters_of_all_sizes(name: str) -> None:
    found = convert.published(f"infinity-{name}")
    assert found is not None
    count = sum(p.numel() for p in without_values(lambda: module_of(found["model"])).parameters())
    assert count == pytest.approx(SHEET[name], rel=5e-4)


def test_names_of_sizes() -> None:
    assert set(convert.LAYOUTS) == set(SHEET)
    assert convert.published("var-d16") is None
    with pytest.raises(InputError, match="there is no size 'infinity-3b' to plan; there are infinity-125m, "):
        convert.published("infinity-3b")
    tuned = convert.published("infinity-2b", replace(SMALL, drop_path=0.3))
    assert tuned is not None
    assert tuned["model"].drop_path == 0.3


def whole_models() -> list[VectorFile]:
    files = [path for path in all_files() if metadata_of(path)["system"] == "infinity"]
    return [read_vectors(path) for path in files if metadata_of(path)["kind"] in ("infinity", "vae")]


def test_the_weights_of_every_vector_file_come_back_with_the_same_bits() -> None:
    for file in whole_models():
        for part in [part for part in ("infinity", "vae") if part in file.config]:
            state = file.model_state(part)
            config: Any = convert.config({"infinity": "model", "vae": "tokenizer"}[part], state, [1, 2])
            back_to = convert.model_to_official if part == "infinity" else convert.to_official
            back = back_to(convert.from_official(state, config), config)
            computed = {name for name in back if convert.is_model_buffer(name) or name in bitwise.MASKS}
            assert set(back) - computed == set(state) - computed
            assert all(torch.equal(back[name], t) for name, t in state.items())


@given(chunks=st.integers(1, 9), each=st.integers(1, 9), module=st.booleans())
def test_blocks_are_counted_through_and_put_back_into_their_chunks(chunks: int, each: int, module: bool) -> None:
    config = replace(SMALL, depth=chunks * each, chunks=chunks)
    names = [f"blocks.{i}.sa.q_bias" for i in range(config.depth)]
    spelt = [convert.chunked(name, config) for name in names]
    given = [name if module else name.replace(".module.", ".") for name in spelt]
    found, counted = convert.flat({name: torch.tensor(i) for i, name in enumerate(given)})
    assert ([int(found[name]) for name in names], counted) == (list(range(config.depth)), chunks)


@settings(max_examples=8)
@given(length=st.integers(1, 40), levels=st.integers(13, 20))
def test_lengths_that_a_file_shows_are_read_off_it(length: int, levels: int) -> None:
    """A fine-tuned file of another ``cfg_uncond`` converts; other texts are then cut at its length."""
    state = official_transformer(replace(SMALL, text_length=length, levels=levels, depth=2))
    config = convert.model_config(state)
    assert (config.text_length, config.levels) == (length, levels)
    assert convert.conditioner(config).reference.length == length if length > 1 else True
    assert signature(convert.model_from_official(state, config))["null"] == ((length, 256), torch.float32)


def test_both_shapes_of_a_scale_are_read() -> None:
    state = official_transformer()
    other = {name: t.reshape(1, 1, -1, 1) if "scale_mul" in name else t for name, t in state.items()}
    assert convert.model_config(other) == convert.model_config(state)
    one, two = (convert.model_from_official(s, SMALL) for s in (state, other))
    assert all(torch.equal(one[name], t) for name, t in two.items())


def test_both_spellings_of_a_tokenizer_are_read_and_the_official_one_is_written() -> None:
    state = official_tokenizer()
    bare = {name.replace(".norm.", ".").replace("conv.conv.", "conv."): t for name, t in state.items()}
    bare = {name.replace("_in.conv.", "_in.").replace("_out.conv.", "_out."): t for name, t in bare.items()}
    assert set(bare) != set(state)
    config = convert.config("tokenizer", bare)
    back = convert.to_official(convert.from_official(bare, config), config)
    assert set(back) == set(state)
    assert all(torch.equal(back[name], t) for name, t in state.items())


@pytest.mark.parametrize("bits", [2, 62, 63, 64, 65])
def test_masks_of_many_bits_overflow_and_are_read_by_nobody(bits: int) -> None:
    layout = replace(SMALL_TOKENIZER, bits=bits, autoencoder=replace(SMALL_TOKENIZER.autoencoder, z=bits))
    state = official_tokenizer(layout)
    assert state["quantizer.lfq.mask"].shape == (bits,)
    config = convert.config("tokenizer", state, layout.sizes)
    assert config == layout
    assert not set(bitwise.MASKS) & set(convert.from_official(state, config))


@pytest.mark.parametrize(
    ("sizes", "tables", "lengths"),
    [
        (None, 15, (7, 10, 12, 13)),
        (PUBLISHED[9].sizes[:10], 15, (7, 10, 12, 13)),
        ([1, 2, 4], 15, (3, 7, 10, 12, 13)),
        ([1, 2, 5], 0, ()),
        ([*convert.SQUARE, (80, 80)], 0, ()),
    ],
)
def test_a_schedule_that_begins_a_published_table_keeps_the_tables(sizes: Any, tables: int, lengths: Any) -> None:
    config = convert.model_config(official_transformer(), sizes)
    assert (len(config.schedules), config.lengths) == (tables, lengths)
    assert (config.sizes == convert.SQUARE) is (sizes is None)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"positions": "raw"}, "has positions raw; an official file cannot say so and means stretched"),
        ({"level_per_chunk": True}, "has level_per_chunk True; an official file cannot say so and means False"),
        ({"norm_eps": 1e-5}, "has norm_eps 1e-05"),
        ({"mixer": "mamba2"}, "has mixer mamba2; an official file cannot say so and means None"),
        ({"levels": 14}, "has levels 14; .* means 15"),
        ({"text_heads": 4}, "has text_heads 4; .* means 2"),
        (
            {"schedules": (), "lengths": ()},
            "draws the scales 1 2 4 6 8 12 16; the official class has those of its published tables",
        ),
        ({"sizes": ((1, 1), (3, 3))}, "draws the scales 1 3; the official class has"),
    ],
)
def test_what_an_official_file_cannot_say_is_refused(changed: dict[str, Any], sentence: str) -> None:
    config = replace(SMALL, **changed)
    with pytest.raises(CheckpointError, match=sentence):
        convert.to_official(Infinity(config).state_dict(), config)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"block_chunks.1.module.1.sa.q_bias": None}, "lacks the tensor blocks.3.sa.q_bias"),
        ({"block_chunks.2.module.0.sa.q_bias": torch.ones(32)}, "has 5 blocks in 3 chunks; expected 2 in each"),
        ({"lvl_embed.weight": torch.ones(12, 32)}, "has 13 scales; expected at most as many as levels, 12"),
        ({"novelty": torch.ones(1)}, "1 tensors that do not belong there, first novelty"),
        ({"head.bias": torch.ones(9)}, r"head.bias .* has the shape \(9,\); expected \(8,\)"),
        ({"cfg_uncond": None}, "lacks the tensor cfg_uncond"),
        (
            {"blocks.3.sa.q_bias": torch.ones(32)},
            "has the tensor blocks.3.sa.q_bias twice, once as blocks.3.sa.q_bias",
        ),
    ],
)
def test_a_transformer_that_does_not_fit_is_refused(changed: dict[str, Tensor | None], sentence: str) -> None:
    state = {name: t for name, t in (official_transformer() | changed).items() if t is not None}
    with pytest.raises(CheckpointError, match=sentence):
        convert.from_official(state, convert.config("model", state))


def test_a_tokenizer_in_two_spellings_at_once_is_refused() -> None:
    """One of them would be lost."""
    state = official_tokenizer() | {"encoder.conv_in.weight": torch.ones(32, 3, 3, 3)}
    with pytest.raises(CheckpointError, match=r"encoder.conv_in.conv.weight twice, once as encoder.conv_in.weight"):
        convert.config("tokenizer", state)


@pytest.mark.parametrize("change", [{"encoder.conv_in.conv.bias": None}, {"quant_conv.weight": torch.ones(4, 4, 1, 1)}])
def test_of_published_files_that_do_not_fit_it_is_said_what_is_known(tmp_path: Path, change: dict[str, Any]) -> None:
    """And of files of other names it is not, nor of the same names where they fit."""
    whole = official_tokenizer()
    wrong = {name: tensor for name, tensor in (whole | change).items() if tensor is not None}
    known = r"; users report of the published file of this name that the official code does not load it either"
    for name, state in (("infinity_vae_d64.pth", wrong), ("mine.pth", wrong), ("infinity_vae_d32.pth", whole)):
        torch.save({"vae": state}, tmp_path / name)
        if state is whole:
            assert "tokenizer" in read_official([tmp_path / name]).components
            continue
        with pytest.raises(CheckpointError) as refused:
            read_official([tmp_path / name])
        assert (re.search(known, str(refused.value)) is not None) == (name != "mine.pth")


def test_what_a_refusal_carries_beside_its_sentence_is_kept(tmp_path: Path) -> None:
    torch.save({"vae": official_tokenizer(), "made": tmp_path}, tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match="holds Python objects") as refused:
        read_official([tmp_path / "mine.pth"])
    assert any("torch.save" in note for note in refused.value.__notes__)
