"""Infinity's vector files: every way of being wrong shows, odd settings are carried out or get one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nextscale.checkpoints.convert import bitwise
from nextscale.checkpoints.convert import infinity as convert
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from nextscale.verification.infinity import KINDS
from nextscale.verification.report import FileReport
from nextscale.verification.run import verify_file
from nextscale.verification.vectors import read_vectors
from tests.makers import randomise
from tests.verification.golden import golden, rewrite, tensor
from tests.verification.test_configurations import Recorder

BSQ, VAE, ROPE, WHOLE = (
    golden(case, "infinity") for case in ("bsq_small", "vae_stride4_ch24", "rope_small", "infinity_patchify_tall")
)


def changed(path: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> FileReport:
    """Verified with another config."""
    config = json.loads(json.dumps(read_vectors(path).config))
    change(config)
    return verify_file(rewrite(path, tmp_path / "x.safetensors", metadata={"config": json.dumps(config)}))


def perturbed(path: Path, tmp_path: Path, name: str, change: Callable[[Tensor], Tensor]) -> FileReport:
    """Verified with another tensor."""
    return verify_file(rewrite(path, tmp_path / "x.safetensors", {name: change(tensor(path, name).clone())}))


def failed(report: FileReport) -> set[str]:
    return {row.name for row in report.rows if not row.ok}


def one_more(x: Tensor) -> Tensor:
    x.view(-1)[0] += 1
    return x


def one_other(x: Tensor) -> Tensor:
    x.view(-1)[0] = ~x.view(-1)[0]
    return x


@pytest.mark.parametrize(
    ("path", "name", "change", "shows"),
    [
        (BSQ, "in/square/f", torch.neg, {"square/bits_0", "square/quantized"}),
        (BSQ, "in/square/first_two/flip_0", one_other, {"square/first_two/canvas_0"}),
        (BSQ, "in/patchify/cotangent", one_more, {"patchify/grad_f"}),
        (BSQ, "in/index", lambda x: x ^ 1, {"index/bits", "index/codes"}),
        (BSQ, "out/tall/bits_1", one_other, {"tall/bits_1"}),
        (VAE, "state/encoder.conv_out.conv.weight", one_more, {"tall/features"}),
        (VAE, "state/decoder.conv_out.conv.bias", one_more, {"tall/image_0", "tall/reconstruction"}),
        (ROPE, "in/mode2_tall/q", one_more, {"mode2_tall/q"}),
        (ROPE, "out/mode1_square/table", one_more, {"mode1_square/table"}),
        (WHOLE, "state/infinity/lvl_embed.weight", one_more, {"tf/logits", "greedy/logits_cond_0"}),
        (WHOLE, "state/infinity/cfg_uncond", one_more, {"text/cond", "greedy/logits_uncond_0", "insert/logits_0"}),
        (WHOLE, "in/negative_text", one_more, {"negative/logits_uncond_0", "negative/logits_0"}),
        (WHOLE, "in/text_mask", one_other, {"tf/cond", "tf/logits", "greedy/logits_0"}),
        (WHOLE, "in/tf/flip_0", one_other, {"tf/next_input", "tf/logits"}),
        (WHOLE, "in/leak/leak_bits_1", one_other, {"leak/bits_1"}),
        (WHOLE, "in/sampled/noise_1", lambda x: 1 / x, {"sampled/bits_1"}),
        (WHOLE, "state/vae/decoder.conv_out.conv.bias", one_more, {"greedy/image", "sampled/image"}),
    ],
)
def test_a_wrong_number_shows(path: Path, name: str, change: Any, shows: set[str], tmp_path: Path) -> None:
    stored = read_vectors(path).state.get(name.removeprefix("state/"))
    if name.startswith("state/") and stored is not None:
        report = verify_file(rewrite(path, tmp_path / "x.safetensors", {name: change(stored.clone())}))
    else:
        report = perturbed(path, tmp_path, name, change)
    assert report.reason == ""
    assert shows <= failed(report)
    assert not report.ok


def test_a_wrong_weight_leaves_what_does_not_depend_on_it(tmp_path: Path) -> None:
    bias = read_vectors(WHOLE).state["infinity/head.bias"].clone()
    report = verify_file(rewrite(WHOLE, tmp_path / "x.safetensors", {"state/infinity/head.bias": one_more(bias)}))
    assert {"tf/logits", "greedy/logits_cond_0", "train/reweight_dropped/loss"} <= failed(report)
    assert not {"tf/features", "tf/labels", "tf/next_input", "tf/cond", "tf/context"} & failed(report)


def setter(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change of config that sets the last of ``path`` at the place that the others name; ... takes it away."""
    *where, last, value = path

    def change(config: dict[str, Any]) -> None:
        for step in where:
            config = config[step]
        if value is ...:
            del config[last]
        else:
            config[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "change", "shows"),
    [
        (ROPE, setter("runs", "mode2_tall", "reference_grid", [10, 9]), {"mode2_tall/table", "mode2_tall/k"}),
        (ROPE, setter("runs", "mode2_tall", "rope2d_normalized_by_hw", 0), {"mode2_tall/table"}),
        (WHOLE, setter("rope_reference_schedule", 4, [9, 9]), {"tf/logits", "greedy/logits_2"}),
        (WHOLE, setter("infinity", "add_lvl_embeding_only_first_block", 1), {"tf/logits", "greedy/logits_0"}),
        (WHOLE, setter("gen", "greedy", "cfg", [2.0, 3.0, 3.0, 3.0]), {"greedy/logits_3"}),
        (WHOLE, setter("gen", "greedy", "tau", 1.0), {"greedy/logits_2"}),
        (WHOLE, setter("gen", "insert", "cfg_insertion_layer", [-1]), {"insert/logits_0"}),
        (WHOLE, setter("gen", "insert_and_logits", "cfg_insertion_layer", [0]), {"insert_and_logits/logits_0"}),
        (WHOLE, setter("gen", "negative", "negative", False), {"negative/logits_uncond_0"}),
        (WHOLE, setter("train", "reweight_dropped", "drop", [0, 0]), {"train/reweight_dropped/loss"}),
        (WHOLE, setter("train", "reweight_dropped", "bitloss_type", "sum"), {"train/reweight_dropped/loss"}),
    ],
)
def test_a_wrong_setting_shows(path: Path, change: Any, shows: set[str], tmp_path: Path) -> None:
    report = changed(path, tmp_path, change)
    assert report.reason == ""
    assert shows <= failed(report)


@pytest.mark.parametrize(
    ("path", "change", "sentence"),
    [
        (BSQ, setter("quantizer", ...), "config lacks 'quantizer'"),
        (BSQ, setter("quantizer", "dim", ...), "the config of quantizer lacks 'dim'"),
        (BSQ, setter("runs", "tall", "schedule", ...), "the config of tall lacks 'schedule'"),
        (VAE, setter("runs", ...), "config lacks 'runs'"),
        (VAE, setter("vae", "codebook_dim", 7), "says codebook_dim 7, but its tensors show 4"),
        (ROPE, setter("runs", "mode2_tall", "rope2d_normalized_by_hw", 3), "is 3; expected one of 2, 1, 0"),
        (ROPE, setter("runs", "mode2_tall", "reference_grid", ...), "the config of mode2_tall lacks 'reference_grid'"),
        (ROPE, setter("runs", "mode2_tall", "head_dim", 6), "mode2_tall has a head_dim of 6; expected a multiple of 4"),
        (WHOLE, setter("schedule", ...), "the config of the file lacks 'schedule'"),
        (WHOLE, setter("vae", ...), "config lacks 'vae'"),
        (WHOLE, setter("infinity", "depth", 4), "says depth 4, but its tensors show 3"),
        (WHOLE, setter("infinity", "rope2d_normalized_by_hw", "2"), "is '2'; expected one of 2, 1, 0"),
        (WHOLE, setter("infinity", "rope2d_each_sa_layer", 0), "rope2d_each_sa_layer 0; expected 1"),
        (WHOLE, setter("gen", "greedy", "B", ...), "the config of greedy lacks 'B'"),
        (WHOLE, setter("gen", "greedy", "B", 3), r"in/text is \(2, 7, 256\) .* of at least 3 texts"),
        (WHOLE, setter("gen", "greedy", "cfg", ...), "the config of greedy lacks 'cfg'"),
        (WHOLE, setter("gen", "greedy", "cfg", [3.0]), r"greedy has cfg \[3.0\]; expected a number, or 4"),
        (WHOLE, setter("gen", "greedy", "tau", ["a"] * 4), "greedy has tau .*; expected a number, or 4"),
        (WHOLE, setter("gen", "insert", "cfg_insertion_layer", [-4]), "insert mixes at -4; expected -3 or more"),
        (WHOLE, setter("gen", "insert", "cfg_insertion_layer", 0), "cfg_insertion_layer 0; expected a list"),
        (WHOLE, setter("gen", "greedy", "gt_leak", 1), "lacks the input in/greedy/leak_bits_0"),
        (WHOLE, setter("gen", "sampled", "noise", "other"), "lacks the input in/other/noise_0"),
        (WHOLE, setter("gen", "greedy", "top_k", 2), "run greedy draws bits, but names no noise and no g_seed"),
        (WHOLE, setter("train", "reweight_dropped", "drop", [1]), "has a drop of 1 texts; expected one for each of 2"),
    ],
)
def test_what_cannot_be_carried_out_gets_one_sentence(path: Path, change: Any, sentence: str, tmp_path: Path) -> None:
    reason = changed(path, tmp_path, change).reason
    assert re.search(sentence, reason), reason
    assert "broke off" not in reason


@pytest.mark.parametrize("name", ["text", "text_mask", "negative_text", "image", "leak/leak_bits_2", "sampled/noise_3"])
def test_a_missing_input_is_named(name: str, tmp_path: Path) -> None:
    report = verify_file(rewrite(WHOLE, tmp_path / "x.safetensors", {f"in/{name}": None}))
    assert report.reason == f"the file lacks the input in/{name}"


# Settings that no file here has. These files are written by this implementation, so they show nothing about exactness.

SIZES = ((1, 1), (2, 3), (4, 5))
RUNS: dict[str, dict[str, Any]] = {
    "scalars": {"B": 1, "cfg": 3, "tau": 0.5, "top_k": 1, "cfg_insertion_layer": [0]},
    "all_given": {"B": 2, "cfg": 2.0, "tau": 1.0, "gt_leak": 9},
    "everywhere": {"B": 2, "cfg": [2.0, 1.0, 3.0], "tau": 1, "top_k": 1, "cfg_insertion_layer": [0, -1, -4]},
    "probabilities": {"B": 1, "cfg": 2.0, "tau": 1, "top_k": 1, "cfg_insertion_layer": [1]},
    "seed": {"B": 2, "cfg": 1, "tau": 1.0, "g_seed": 4},
    "negative": {"B": 2, "cfg": 3.0, "tau": 1.0, "top_k": 1, "negative": True, "trunk_scale": 2},
}


def write(path: Path, runs: Mapping[str, Any], patchify: bool) -> set[str]:
    """A vector file of the outputs that we compute; returns their names."""
    patch, d = (2, 2) if patchify else (1, 3)
    layout = AutoencoderConfig(ch=32, mult=(1,), z=d, res_blocks=1, attention=False, mid_attention=False, groups=None)
    tokenizer = BitwiseTokenizer(BitwiseConfig(bits=d, sizes=SIZES, patchify=patchify, autoencoder=layout))
    settings: dict[str, Any] = {"depth": 4, "width": 32, "heads": 2, "hidden": 64, "bits": tokenizer.draws}
    settings |= {"text_width": 128, "text_length": 6, "text_heads": 1, "chunks": 2, "sizes": SIZES}
    model = Infinity(InfinityConfig(**settings))
    randomise(tokenizer)
    randomise(model, 0, 0.5)
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {"in/image": torch.rand(2, 3, 4 * patch, 5 * patch, generator=generator) * 2 - 1}
    for name, lengths, longest in (("text", [1, 5], 5), ("negative_text", [3, 1], 3)):
        tensors[f"in/{name}"] = torch.randn(2, longest, 128, generator=generator)
        tensors[f"in/{name}_mask"] = torch.arange(longest) < torch.tensor(lengths)[:, None]
    for k, (h, w) in enumerate(SIZES):
        tensors[f"in/all_given/leak_bits_{k}"] = torch.rand(2, h * patch, w * patch, d, generator=generator) < 0.5
    states = {"infinity": convert.model_to_official(model.state_dict(), model.config)}
    states["vae"] = bitwise.tokenizer_to_official(tokenizer.state_dict(), tokenizer.config)
    tensors |= {f"state/{part}/{name}": t for part, state in states.items() for name, t in state.items()}
    config = {"schedule": SIZES, "rope_reference_schedule": (*SIZES, (8, 9)), "gen": runs, "vae": {}}
    config |= {"infinity": {"apply_spatial_patchify": int(patchify)}}
    metadata = {"format": "1", "system": "infinity", "kind": "infinity", "case": "ours", "config": json.dumps(config)}
    metadata["models"] = '["vae", "infinity"]'
    whole = {name: t.contiguous().clone() for name, t in tensors.items()}
    save_file(whole, path, metadata=metadata)
    recorder = Recorder({}, 1e-4)
    KINDS["infinity"](read_vectors(path), recorder)
    save_file(whole | {f"out/{name}": t for name, t in recorder.outputs.items()}, path, metadata=metadata)
    return set(recorder.outputs)


@pytest.mark.parametrize("patchify", [False, True])
def test_settings_that_no_stored_file_has_are_carried_out(patchify: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    names = write(path, RUNS, patchify)
    report = verify_file(path)
    assert (report.reason, report.notes, report.unchecked) == ("", [], [])
    assert report.ok
    assert {f"{run}/image" for run in RUNS} | {"text/cond", "text/context", "tf/logits"} <= names
    assert "scalars/logits_uncond_0" in names
    assert "seed/logits_uncond_0" not in names
    assert "negative/canvas_1" in names
    assert "negative/canvas_2" not in names
    found, given = read_vectors(path).outputs, read_vectors(path).inputs
    for k in range(3):
        assert torch.equal(found[f"all_given/bits_{k}"], given[f"all_given/leak_bits_{k}"])
    # Guidance "on probabilities" is read and never applied.
    torch.testing.assert_close(found["probabilities/logits_0"], found["probabilities/logits_cond_0"])


def test_a_file_of_teacher_forcing_alone_needs_no_runs(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors", {}, False)
    assert verify_file(tmp_path / "x.safetensors").ok
