"""Official files to a folder and back; whatever is wrong gets one sentence and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from nextscale.checkpoints.convert import convert_files, export_file, export_official
from nextscale.checkpoints.store import load_component, save_checkpoint
from nextscale.errors import CheckpointError
from nextscale.models.var import VAR
from nextscale.pipeline import load
from nextscale.tokenizers.residual import ResidualTokenizer
from tests.checkpoints.convert.test_var import OURS, SMALL, official_tokenizer, official_transformer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with official files: var.pth and vae.pth."""
    torch.save(official_transformer(), tmp_path / "var.pth")
    torch.save(official_tokenizer(), tmp_path / "vae.pth")
    return tmp_path


def test_a_pair_becomes_a_pipeline_that_draws(folder: Path) -> None:
    report = convert_files([folder / "vae.pth", folder / "var.pth"], folder / "out")
    pipe = load(folder / "out", device="cpu")
    assert pipe.model.config == SMALL
    assert pipe.tokenizer.config == replace(
        OURS, sizes=SMALL.sizes
    )  # the file serves every resolution; the model's is taken
    assert pipe("1", seed=1, output_type="pt").images.shape == (1, 3, 6, 6)
    assert report.components == {"model": "VAR", "tokenizer": "ResidualTokenizer"}
    assert report.parameters["model"] == sum(p.numel() for p in pipe.model.parameters())
    assert report.settings["model"]["depth"] == 2
    assert "sizes [1 2 3]" in str(report)
    assert str(folder / "out") in str(report)
    assert set(report.to_dict()["files"].values()) == {"VAR transformer", "VAR tokenizer"}


def test_what_is_ours_already_is_not_converted(folder: Path) -> None:
    convert_files([folder / "vae.pth", folder / "var.pth"], folder / "out")
    for path in (folder / "out", folder / "out" / "model.safetensors"):
        with pytest.raises(CheckpointError, match="is a nextscale checkpoint already"):
            convert_files([path], folder / "again")
    (folder / "config.json").write_text("{}")  # of somebody else's
    convert_files([folder / "vae.pth"], folder / "again")


def test_every_bit_survives_the_way_there_and_back(folder: Path) -> None:
    convert_files([folder / "var.pth", folder / "vae.pth"], folder / "out")
    for component, official in (("model", official_transformer()), ("tokenizer", official_tokenizer())):
        back = export_official(folder / "out", component)
        assert set(back) == set(official)
        assert all(torch.equal(back[name], t) for name, t in official.items() if "ema_vocab" not in name)
    export_file(folder / "out", "model", folder / "back.safetensors")
    convert_files([folder / "back.safetensors", folder / "vae.pth"], folder / "again")
    for name in ("model.safetensors", "tokenizer.safetensors"):
        assert (folder / "again" / name).read_bytes() == (folder / "out" / name).read_bytes()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda transformer, tokenizer: {"state_dict": transformer, "epoch": 3},
        lambda transformer, tokenizer: {
            "trainer": {"var_wo_ddp": transformer, "var_opt": {"state": {0: {"step": torch.ones(1)}}}}
        },
        lambda transformer, tokenizer: {
            "trainer": {"var_wo_ddp": transformer, "vae_local": tokenizer},
            "args": {"depth": 2},
        },
    ],
)
def test_what_trainers_wrap_is_unwrapped(folder: Path, wrap: Callable[..., Any]) -> None:
    torch.save(wrap(official_transformer(), official_tokenizer()), folder / "ckpt.pth")
    convert_files([folder / "ckpt.pth", folder / "vae.pth"], folder / "out")
    assert torch.equal(
        load_component(folder / "out", "model").state_dict()["head_lin.bias"], official_transformer()["head.bias"]
    )


def test_old_pickles_half_precision_and_casts(folder: Path) -> None:
    half = {name: t.half() if t.is_floating_point() else t for name, t in official_transformer().items()}
    torch.save(half, folder / "old.pth", _use_new_zipfile_serialization=False)
    convert_files([folder / "old.pth"], folder / "same")
    convert_files([folder / "old.pth"], folder / "cast", dtype=torch.float32)
    same, cast = (load_file(folder / name / "model.safetensors")["head_lin.bias"] for name in ("same", "cast"))
    assert (same.dtype, cast.dtype) == (torch.float16, torch.float32)
    assert torch.equal(same.float(), cast)
    assert torch.equal(export_official(folder / "same", "model")["head.bias"], half["head.bias"])


class Unsafe:
    """Would make a folder when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


def spoil(folder: Path, name: str) -> list[Path]:
    """Files that cannot be converted, by what is wrong with them."""
    path = folder / f"{name}.pth"
    whole = (folder / "var.pth").read_bytes()
    transformer, tokenizer = official_transformer(), official_tokenizer()
    match name:
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "cut_old":
            torch.save(transformer, path, _use_new_zipfile_serialization=False)
            path.write_bytes(path.read_bytes()[:-5000])
        case "cut_safetensors":
            path = folder / "cut.safetensors"
            save_file({"pos_1LC": torch.ones(1, 14, 64)}, path)
            path.write_bytes(path.read_bytes()[:-9])
        case "page":
            path.write_text("<!DOCTYPE html><html>not found</html>")
        case "empty":
            path.write_bytes(b"")
        case "numbers":
            torch.save([1, 2, 3], path)
        case "foreign":
            torch.save({"layer.weight": torch.ones(2)}, path)
        case "unsafe":
            torch.save({"state_dict": transformer, "x": Unsafe(folder / "harm")}, path)
        case "unsafe_pickle":
            path.write_bytes(pickle.dumps(Unsafe(folder / "harm")))
        case "shape":
            torch.save(transformer | {"head.bias": torch.ones(17)}, path)
        case "m_var":
            torch.save(transformer | {"blocks.0.mamba.in_proj.weight": torch.ones(1)}, path)
        case "two":
            torch.save({"a": transformer, "b": transformer}, path)
        case "codes":
            torch.save(official_tokenizer(replace(OURS, codes=17)), path)
            return [path, folder / "var.pth"]
        case "same_role":
            torch.save(tokenizer, path)
            return [path, folder / "vae.pth"]
        case "missing":
            pass
        case "nothing":
            return []
    return [path]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cut", "is truncated or not a PyTorch weight file; expected a whole"),
        ("cut_old", "is truncated or not a PyTorch weight file; expected a whole"),
        ("cut_safetensors", "not a whole safetensors file"),
        ("page", "page.pth is a web page: the download went wrong"),
        ("empty", "is empty; expected a weight file"),
        ("numbers", r"holds no tensors by name \(found a list\)"),
        ("foreign", "neither a VAR tokenizer .* nor a VAR transformer .* holds 1 tensors, first layer.weight"),
        ("unsafe", "holds Python objects.* which could run code .*expected tensors only, and nothing was run"),
        ("unsafe_pickle", "holds Python objects.* which could run code .*expected tensors only, and nothing was run"),
        ("shape", r"shape.pth: head.bias of the VAR transformer has the shape \(17,\); expected \(16,\)"),
        ("m_var", "m_var.pth: this is no M-VAR transformer: it lacks the tensor blocks.0.mamba.norm.weight"),
        ("two", r"holds two transformers \(a and b\); expected one"),
        ("codes", "the tokenizer has 17 codes but the transformer expects 16"),
        ("same_role", "both hold a tokenizer; expected one"),
        ("missing", "is missing; expected a weight file"),
        ("nothing", "no file was given"),
    ],
)
def test_what_cannot_be_converted_leaves_nothing_behind(folder: Path, name: str, sentence: str) -> None:
    paths = spoil(folder, name)
    before = sorted(folder.iterdir())
    with pytest.raises(CheckpointError, match=sentence):
        convert_files(paths, folder / "new" / "out")
    assert sorted(folder.iterdir()) == before


def test_a_folder_with_something_else_in_it_is_left_alone(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        convert_files([folder / "var.pth"], folder)
    with pytest.raises(CheckpointError, match="is a file; expected a folder"):
        convert_files([folder / "var.pth"], folder / "vae.pth")
    assert sorted(path.name for path in folder.iterdir()) == ["vae.pth", "var.pth"]


def test_a_schedule_that_no_tensor_shows_can_be_given(folder: Path) -> None:
    bare: dict[str, Tensor] = {
        name: t for name, t in official_transformer().items() if name not in ("lvl_1L", "attn_bias_for_masking")
    }
    torch.save(bare, folder / "bare.pth")
    with pytest.raises(CheckpointError, match=r"bare.pth: .*14 tokens in 3 scales"):
        convert_files([folder / "bare.pth"], folder / "out", system="var")
    convert_files([folder / "bare.pth"], folder / "out", sizes=[1, 2, 3], system="var")
    assert load_component(folder / "out", "model").config == SMALL


@pytest.mark.parametrize(
    ("component", "sentence"),
    [
        ("cosine", "cosine True; an official file cannot say so and means False"),
        ("ratio", "phi_ratio 0.25; an official file cannot say so and means 0.5"),
        ("heads", "2 heads at a width of 64 without L2 normalisation"),
        ("other", "has no other"),
    ],
)
def test_what_an_official_file_cannot_say_is_not_exported(tmp_path: Path, component: str, sentence: str) -> None:
    components = {
        "cosine": ResidualTokenizer(replace(OURS, cosine=True)),
        "ratio": ResidualTokenizer(replace(OURS, phi_ratio=0.25)),
        "heads": VAR(replace(SMALL, l2_norm=False)),
    }
    save_checkpoint(tmp_path / "c", components)
    with pytest.raises(CheckpointError, match=sentence):
        export_file(tmp_path / "c", component, tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
