"""``nextscale convert`` on other people's files: what is good is read, what is not is named in one sentence."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.checkpoints.convert.test_var import official_tokenizer, official_transformer
from tests.cli.conftest import Command

State = Mapping[str, Tensor]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The official pair, var.pth and vae.pth, where the command runs."""
    monkeypatch.chdir(tmp_path)
    torch.save(official_transformer(), "var.pth")
    torch.save(official_tokenizer(), "vae.pth")


def under(prefix: str, state: State) -> dict[str, Tensor]:
    return {prefix + name: t for name, t in state.items()}


def shifted(state: State) -> dict[str, Tensor]:
    """Other numbers, as an average of weights has them."""
    return {name: t + 1 if t.is_floating_point() and t.numel() < 10**6 else t for name, t in state.items()}


def head(folder: str = "out") -> Tensor:
    return load_file(Path(folder) / "model.safetensors")["head_lin.bias"]


PREFIXES = [
    "module.",
    "_orig_mod.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "model.",
    "_fsdp_wrapped_module.",
    "net.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_taken_off(nextscale: Command, prefix: str) -> None:
    torch.save(under(prefix, official_transformer()), "a.pth")
    torch.save(under(prefix, official_tokenizer()), "b.pth")
    done = nextscale("convert", "a.pth", "b.pth", "-o", "out")
    assert done.code == 0, done.err
    assert f"VAR transformer from {prefix.strip('.')}" in done.out
    assert nextscale("convert", "var.pth", "vae.pth", "-o", "plain").code == 0
    for name in ("model.safetensors", "tokenizer.safetensors"):
        assert (Path("out") / name).read_bytes() == (Path("plain") / name).read_bytes()


def test_wrappers_inside_names_are_taken_out(nextscale: Command) -> None:
    inner = {
        "blocks.0.": "blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.",
        "blocks.1.": "blocks.1._orig_mod.",
    }
    state = official_transformer()
    for ours, theirs in inner.items():
        state = {name.replace(ours, theirs): t for name, t in state.items()}
    torch.save(under("_fsdp_wrapped_module.", state), "a.pth")
    assert nextscale("convert", "a.pth", "-o", "out").code == 0
    torch.save(official_transformer() | under("blocks.0._orig_mod.", {"ffn.fc1.bias": torch.ones(1)}), "twice.pth")
    done = nextscale("convert", "twice.pth", "-o", "new")
    assert "holds the tensor blocks.0.ffn.fc1.bias twice" in done.err


@pytest.mark.parametrize(
    "name", ["ema", "model_ema", "ema_state_dict", "state_dict_ema", "EMA", "modelEma", "ema_0.9999", "polyak"]
)
def test_averaged_weights_go_first_and_it_is_said(nextscale: Command, name: str) -> None:
    plain = official_transformer()
    average = {"n_averaged": torch.tensor(3), **under("module.", shifted(plain))}
    torch.save({"model": plain, name: average, "optimizer": {"state": {}}, "steps": 10}, "both.pth")
    done = nextscale("convert", "both.pth", "-o", "out")
    assert done.code == 0, done.err
    assert f"from {name}.module (averaged weights, EMA); --no-ema takes model" in done.out
    assert "optimizer, steps" in done.out
    assert torch.equal(head(), plain["head.bias"] + 1)
    assert nextscale("convert", "both.pth", "-o", "new", "--no-ema").code == 0
    assert torch.equal(head("new"), plain["head.bias"])


@pytest.mark.parametrize("place", ["step", "model_ema.decay", "num_batches_tracked"])
def test_a_number_as_a_tensor_is_passed_over_by_name(nextscale: Command, place: str) -> None:
    torch.save(official_transformer() | {place: torch.tensor(3)}, "counted.pth")
    done = nextscale("convert", "counted.pth", "-o", "out")
    assert done.code == 0, done.err
    assert f"passed over: {place}" in done.out


def test_of_two_state_dicts_a_way_to_choose_is_told(nextscale: Command) -> None:
    torch.save({"student": official_transformer(), "teacher": shifted(official_transformer())}, "two.pth")
    done = nextscale("convert", "two.pth", "-o", "out")
    assert done.code == 2
    assert "holds two transformers (student and teacher); expected one" in done.err
    assert "save the one to convert in a file of its own" in " ".join(done.err.split())


def test_averaged_weights_are_found_in_a_trainers_file_and_behind_flat_prefixes(nextscale: Command) -> None:
    var, vae = official_transformer(), official_tokenizer()
    trainer = {"var_wo_ddp": var, "var_ema": shifted(var), "vae_local": vae, "vae_ema": shifted(vae), "var_opt": {}}
    torch.save({"trainer": trainer, "epoch": 3}, "trainer.pth")
    torch.save(under("model.", var) | under("model_ema.", shifted(var)) | {"loss.w": torch.ones(1)}, "flat.pth")
    for file in ("trainer.pth", "flat.pth"):
        done = nextscale("convert", file, "-o", "out", "--overwrite")
        assert done.code == 0, done.err
        assert torch.equal(head(), var["head.bias"] + 1)
    assert "passed over: model, loss.w\n" in done.out


def test_averaged_or_plain_weights_that_are_not_there_are_not_replaced_by_others(nextscale: Command) -> None:
    torch.save({"ema": official_transformer()}, "ema.pth")
    assert "--ema was asked for, but the files hold plain" in nextscale("convert", "var.pth", "-o", "out", "--ema").err
    assert "--no-ema was asked for" in nextscale("convert", "ema.pth", "-o", "out", "--no-ema").err
    assert not Path("out").exists()


def test_plain_entries_beside_the_tensors_are_passed_over_by_name(nextscale: Command) -> None:
    more: dict[Any, Any] = {"epoch": 3, 7: "x", 10**500: 1, "bad\x1b[31m\n": None}
    torch.save({**more, **official_transformer()}, "plain.pth")
    done = nextscale("convert", "plain.pth", "-o", "out")
    assert done.code == 0, done.err
    assert re.search(r"passed over: epoch, 7, 10*\.\.\. \(\d+ characters\), 'bad\\x1b\[31m\\n'", done.out)
    answer = json.loads(nextscale("convert", "plain.pth", "-o", "out", "--overwrite", "--json").out)
    first, second, _, last = answer["passed_over"]["plain.pth"]
    assert [first, second, last] == ["epoch", "7", "'bad\\x1b[31m\\n'"]


def test_python_objects_are_not_run_and_the_lines_that_save_the_tensors_again_work(nextscale: Command) -> None:
    whole = {
        "model": official_transformer(),
        "args": argparse.Namespace(depth=2),
        "at": Path("x"),
        "net": torch.nn.Linear(2, 2),
    }
    name = 'it\'s a "file".pth'
    torch.save(whole, name)
    done = nextscale("convert", name, "-o", "out")
    assert done.code == 2
    sentence, *lines = done.err.splitlines()
    assert "nothing was run" in sentence
    assert len(lines) == 3
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, timeout=120)
    new = re.search(r"convert (.*)$", sentence)
    assert new is not None
    assert nextscale("convert", new[1], "-o", "out").code == 0
    assert torch.equal(head(), official_transformer()["head.bias"])


def test_a_schedule_that_is_not_shown_is_asked_for_by_its_option(nextscale: Command) -> None:
    bare = {name: t for name, t in official_transformer().items() if name not in ("lvl_1L", "attn_bias_for_masking")}
    torch.save(bare, "bare.pth")
    assert "say which it is with --system var" in nextscale("convert", "bare.pth", "-o", "out").err
    words = ["convert", "bare.pth", "-o", "out", "--system", "var"]
    assert '--scales "1 2 ...": 3 sides whose squares add up to 14' in nextscale(*words).err
    assert nextscale(*words, "--scales", "1 2 3").code == 0


@pytest.mark.parametrize(
    ("scales", "sentence"),
    [
        ("1 2 3 9999", "have 99980015 tokens in 4 scales, but the VAR transformer has 14 in 3"),
        ("1 2 2", "have 9 tokens in 3 scales"),
        ("1 2 3 99999999", "expected sides such as"),
        ("1 ² 3", "expected sides such as"),
        ("1 ٢ ٣", "expected sides such as"),
        ("1 " * 10**6, "expected sides such as"),
        ("3 2 1", "must not shrink"),
    ],
)
def test_scales_that_are_none_or_do_not_fit_build_nothing(nextscale: Command, scales: str, sentence: str) -> None:
    done = nextscale("convert", "var.pth", "-o", "out", "--scales", scales)
    assert (done.code, Path("out").exists()) == (2, False)
    assert sentence in done.err
    assert len(done.err) < 400


def vqgan(separate: bool) -> dict[str, Tensor]:
    """A tokenizer as taming-transformers saves it: no residual quantiser, and q, k and v each of its own."""
    found: dict[str, Tensor] = {}
    for name, t in official_tokenizer().items():
        if ".qkv." in name and separate:
            found |= {name.replace(".qkv.", f".{q}."): part for q, part in zip("qkv", t.chunk(3), strict=True)}
        elif "quant_resi" not in name and "ema_vocab" not in name:
            found[name] = t
    return found


def named(*names: str) -> dict[str, Tensor]:
    return {name: torch.ones(1) for name in names}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            lambda: {"state_dict": vqgan(True), "epoch": 1},
            "plain VQGAN, as taming-transformers trains them.* single scale",
        ),
        (lambda: vqgan(False), "plain VQGAN"),
        (
            lambda: named("encoder.down_blocks.0.resnets.0.conv1.weight", "quant_conv.weight"),
            "autoencoder of diffusers",
        ),
        (lambda: {"state_dict": named("encoder.down.0.block.0.conv1.weight")}, "autoencoder of latent diffusion"),
        (lambda: named("model.diffusion_model.x", "first_stage_model.encoder.down.0.x"), "Stable Diffusion checkpoint"),
        (
            lambda: {"model": named("encoder.conv_blocks.0.res.0.x", "quantize.embedding.weight")},
            "tokenizer of LlamaGen",
        ),
        (lambda: {"state": {0: named("exp_avg")}, "param_groups": []}, "state of an optimiser"),
        (lambda: named("blocks.0.attn.lora_A.weight"), "LoRA"),
        (lambda: named("layers.0.weight"), "neither a VAR tokenizer .* first layers.0.weight"),
    ],
)
def test_files_of_other_systems_are_called_what_they_are(
    nextscale: Command, content: Callable[[], Any], what: str
) -> None:
    torch.save(content(), "foreign.ckpt")
    for beside in ([], ["var.pth"], ["vae.pth"]):
        done = nextscale("convert", "foreign.ckpt", *beside, "-o", "out")
        assert (done.code, Path("out").exists()) == (2, False)
        assert re.search(f"foreign.ckpt is (a |an |the )?{what}", done.err), done.err


def test_what_is_no_weight_file_is_called_what_it_is(nextscale: Command) -> None:
    """Told by the first bytes, whatever the name; a pipe or a device is not read at all."""
    Path("page.pth").write_text("\n<!DOCTYPE html><html>")
    Path("pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n")
    Path("packed.pt").write_bytes(gzip.compress(b"weights"))
    Path("config.bin").write_text('{"a": 1}')
    with zipfile.ZipFile("zip.pth", "w") as archive:
        archive.writestr("readme.txt", "x")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), "jit.pt")
    os.mkfifo("pipe.pth")
    os.symlink("loop.pth", "loop.pth")
    Path("folder").mkdir()
    Path("folder/var.pth").touch()
    for name, what in {
        "page.pth": "web page",
        "pointer.safetensors": "Git LFS pointer",
        "packed.pt": "gzip archive",
        "config.bin": "JSON text",
        "zip.pth": "ZIP archive",
        "jit.pt": "TorchScript program",
        "pipe.pth": "pipe",
        "loop.pth": "link to nowhere",
        "folder": "is a folder; expected a weight file, such as folder/var.pth",
        "/dev/zero": "device",
        "none.pth": "is missing",
        "x" * 5000: "too long",
    }.items():
        done = nextscale("convert", name, "vae.pth", "-o", "out")
        assert done.code == 2
        assert what in done.err, done.err


def test_a_model_in_several_files_is_read_by_its_index(nextscale: Command) -> None:
    state = official_transformer()
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    placed = {name: files[i % 2] for i, name in enumerate(state)}
    for file in files:
        save_file({name: state[name].contiguous() for name in state if placed[name] == file}, file)
    Path("model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    assert nextscale("convert", "model.safetensors.index.json", "-o", "out").code == 0
    assert torch.equal(head(), state["head.bias"])
    assert "give their index, model.safetensors.index.json" in nextscale("convert", files[0], "-o", "new").err
    Path(files[1]).unlink()
    assert f"{files[1]} is missing" in nextscale("convert", "model.safetensors.index.json", "-o", "new").err
    for listed in ('{"weight_map": {"a": "../x.safetensors"}}', "[]", "[" * 100_000):
        Path("model.safetensors.index.json").write_text(listed)
        assert nextscale("convert", "model.safetensors.index.json", "-o", "new").code == 2


def test_the_suffix_does_not_matter_where_the_content_is_clear(nextscale: Command) -> None:
    save_file({name: t.contiguous() for name, t in official_transformer().items()}, "var.bin")
    assert nextscale("convert", "var.bin", "-o", "out").code == 0


def test_float8_is_cast_on_request_and_else_the_option_is_named(nextscale: Command) -> None:
    wide = official_transformer()
    narrow = {
        name: t.to(torch.float8_e4m3fn) if t.ndim == 2 and t.is_floating_point() else t for name, t in wide.items()
    }
    save_file({name: t.contiguous() for name, t in narrow.items()}, "f8.safetensors")
    done = nextscale("convert", "f8.safetensors", "-o", "out")
    assert (done.code, Path("out").exists()) == (2, False)
    assert "holds torch.float8_e4m3fn" in done.err
    assert "--dtype bf16" in done.err
    assert nextscale("convert", "f8.safetensors", "-o", "out", "--dtype", "bf16").code == 0
    weight = load_file("out/model.safetensors")["head_lin.weight"]
    assert torch.equal(weight.float(), narrow["head.weight"].float())


W = "head.weight"


def renumbered(state: State, index: str) -> dict[str, Tensor]:
    return {name.replace("blocks.1.", f"blocks.{index}."): t for name, t in state.items()}


def deep(state: Any) -> Any:
    for _ in range(200):
        state = {"a": state}
    return state


@pytest.mark.parametrize(
    ("spoilt", "sentence"),
    [
        (lambda s: s | {W: s[W].int()}, "head.weight .* holds torch.int32; expected floating point numbers"),
        (lambda s: s | {W: s[W].bool()}, "holds torch.bool"),
        (lambda s: s | {W: s[W].to(torch.complex64)}, "holds torch.complex64"),
        (lambda s: s | {W: s[W].to_sparse()}, "head.weight is a sparse tensor"),
        (lambda s: s | {W: s[W].to("meta")}, "head.weight is a meta"),
        (lambda s: s | {"lvl_1L": s["lvl_1L"].to_sparse()}, "lvl_1L is a sparse tensor"),
        (
            lambda s: s | {W: torch.zeros(1).expand(10**5, 10**5)},
            "head.weight claims the shape .* does not hold so many",
        ),
        (lambda s: s | {"pos_1LC": torch.zeros(1).expand(1, 10**9, 64)}, "pos_1LC claims the shape"),
        (lambda s: s | {"lvl_1L": torch.zeros(1).expand(1, 10**10)}, "lvl_1L claims the shape"),
        (
            lambda s: s | {W: torch.zeros(0, 0)},
            r"head.weight .* has the shape \(0, 0\); expected 2 dimensions, none empty",
        ),
        (lambda s: s | {W: s[W].clone().fill_(torch.nan)}, "not finite numbers"),
        (lambda s: s | {"head.bias": s["head.bias"].clone().fill_(torch.inf)}, "x.pth.* not finite numbers"),
        (lambda s: s | {"head.bias": s["head.bias"].clone().fill_(1e38)}, "x.pth.* 1e\\+38"),
        (lambda s: renumbered(s, "1000000000"), r"do not belong there, first blocks\.1000000000"),
        (lambda s: renumbered(s, "7"), "there is a blocks.7 but no blocks.1"),
        (lambda s: renumbered(s, "9" * 5000), "do not belong there, first .?blocks.9"),
        (lambda s: renumbered(s, "٣"), "do not belong there, first blocks.٣"),
        (lambda s: s | {5: torch.zeros(1)}, "holds a tensor under 5; expected a name"),
        (lambda s: s | {"\x1b[31m\n" * 999: torch.zeros(1)}, r"do not belong there, first '\\x1b\[31m\\n"),
        (lambda s: [*s.values()], "found a list"),
        (lambda s: "x", "found a str"),
        (deep, "holds no tensors by name"),
    ],
)
def test_tensors_that_are_no_weights_are_named(nextscale: Command, spoilt: Callable[[Any], Any], sentence: str) -> None:
    """In one short sentence, with nothing written and nothing of the claimed size built."""
    torch.save(spoilt(official_transformer()), "x.pth")
    done = nextscale("convert", "x.pth", "vae.pth", "-o", "new/out")
    assert (done.code, Path("new").exists()) == (2, False)
    assert re.search(sentence, done.err), done.err
    assert "x.pth" in done.err
    assert len(done.err) < 500
    assert "\x1b" not in done.err


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": "XX"},
        {"dtype": None},
        {"dtype": "F4"},
        {"shape": [2**32, 2**32]},
        {"shape": [-1]},
        {"data_offsets": [-8, 8]},
        {"data_offsets": [0, 2**62]},
    ],
)
def test_a_damaged_header_is_one_sentence(nextscale: Command, change: dict[str, Any]) -> None:
    save_file({name: t.contiguous() for name, t in official_transformer().items()}, "x.safetensors")
    data = Path("x.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[W] |= change
    text = json.dumps(header).encode()
    Path("x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    done = nextscale("convert", "x.safetensors", "vae.pth", "-o", "out")
    assert (done.code, Path("out").exists()) == (2, False)
    assert "x.safetensors" in done.err
