"""A model in several files is converted from its folder or its index; whatever does not belong together is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from nextscale.checkpoints.convert import convert_files, export_file, export_official
from nextscale.checkpoints.convert.infinity import SCHEDULES
from nextscale.checkpoints.load import load_conditioner, read_origin
from nextscale.checkpoints.store import load_component
from nextscale.cli.main import app
from nextscale.errors import CheckpointError
from nextscale.pipeline import load
from tests.checkpoints.convert.test_infinity import (
    SMALL,
    SMALL_TOKENIZER,
    official_tokenizer,
    official_transformer,
)
from tests.conditions.tiny_t5 import save_t5


def sharded(folder: Path, state: dict[str, Tensor], pattern: str = "model-{}.safetensors", count: int = 3) -> Path:
    """A folder with ``state`` in several files and their index, as the hub's tools save it."""
    stem, suffix = pattern.split("-{}")
    files = [pattern.format(f"{i + 1:05}-of-{count:05}") for i in range(count)]
    placed = {name: files[i % count] for i, name in enumerate(state)}
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        part = {name: t.contiguous() for name, t in state.items() if placed[name] == file}
        (save_file if suffix == ".safetensors" else torch.save)(part, folder / file)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with small official files: the transformer's ``weights`` in shards, and vae.pth."""
    sharded(tmp_path / "weights", official_transformer())
    torch.save({"vae": official_tokenizer()}, tmp_path / "vae.pth")
    return tmp_path


@pytest.mark.parametrize("pattern", ["model-{}.safetensors", "pytorch_model-{}.bin"])
@pytest.mark.parametrize("by_index", [False, True])
def test_shards_are_converted_from_their_folder_or_index(tmp_path: Path, pattern: str, by_index: bool) -> None:
    place = sharded(tmp_path / "weights", official_transformer(), pattern)
    (place / "config.json").write_text('{"architectures": ["Infinity"]}')
    path = next(place.glob("*.index.json")) if by_index else place
    torch.save({"vae": official_tokenizer()}, tmp_path / "vae.pth")
    report = convert_files([path, tmp_path / "vae.pth"], tmp_path / "out")
    assert report.files[str(path)] == "Infinity transformer"
    assert report.passed_over[str(path)] == []
    assert "schedules [1:3 2:5 1:2 4:7 2:3 3:4 4:5 1:1 5:4 4:3 3:2 7:4 2:1 5:2 3:1]" in str(report)
    assert len(read_origin(tmp_path / "out")["files"]) == 1 + 3 + 1  # index, shards, tokenizer
    for component, state in (("model", official_transformer()), ("tokenizer", official_tokenizer())):
        back = export_official(tmp_path / "out", component)
        assert set(back) == set(state)
        assert all(torch.equal(back[name], t) for name, t in state.items())
        export_file(tmp_path / "out", component, tmp_path / f"{component}.safetensors")
    convert_files([tmp_path / "model.safetensors", tmp_path / "tokenizer.safetensors"], tmp_path / "again")
    for name in ("model", "tokenizer"):
        one, two = (load_component(tmp_path / part, name) for part in ("out", "again"))
        assert one.config == two.config
        assert all(torch.equal(one.state_dict()[key], t) for key, t in two.state_dict().items())


def test_what_is_converted_reads_text_through_the_authors_encoder(folder: Path) -> None:
    convert_files([folder / "weights", folder / "vae.pth"], folder / "out")
    conditioner = load_conditioner(folder / "out", {"text": 256})
    assert conditioner.to_dict()["encoder"] == "google/flan-t5-xl"
    assert (conditioner.gives, conditioner.to_dict()["length"]) == ({"text": 256}, 5)


def test_the_tokenizer_takes_the_schedule_of_the_transformer(folder: Path) -> None:
    convert_files([folder / "weights", folder / "vae.pth"], folder / "out", sizes=SMALL.sizes)
    assert load_component(folder / "out", "model").config == SMALL
    assert load_component(folder / "out", "tokenizer").config == SMALL_TOKENIZER


def missing(place: Path) -> None:
    (place / "model-00002-of-00003.safetensors").unlink()


def extra(place: Path) -> None:
    save_file({"novelty": torch.ones(1)}, place / "model-00004-of-00003.safetensors")


def damaged(place: Path) -> None:
    shard = place / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-40])


def pointer(place: Path) -> None:
    (place / "model-00002-of-00003.safetensors").write_text("version https://git-lfs.github.com/spec/v1")


def moved(place: Path) -> None:
    one, two = (place / f"model-0000{i}-of-00003.safetensors" for i in (1, 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def unlisted(place: Path) -> None:
    save_file({"novelty": torch.ones(1)}, place / "model-00002-of-00003.safetensors")


def index(place: Path, change: Callable[[str], str]) -> None:
    path = place / "model.safetensors.index.json"
    path.write_text(change(path.read_text()))


def twice(place: Path) -> None:
    index(place, lambda text: text.replace('"weight_map": {', '"weight_map": {"cfg_uncond": "x.safetensors", '))


def outside(place: Path) -> None:
    index(place, lambda text: text.replace("model-00002", "../model-00002"))


def absent(place: Path) -> None:
    one = '"weight_map": {"novelty": "model-00001-of-00003.safetensors", '
    index(place, lambda text: text.replace('"weight_map": {', one))


def second(place: Path) -> None:
    (place / "other.bin.index.json").write_text("{}")


def no_index(place: Path) -> None:
    (place / "model.safetensors.index.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (missing, r"weights/model-00002-of-00003.safetensors is missing; model.safetensors.index.json lists tensors"),
        (extra, r"weights/model-00004-of-00003.safetensors is left over: model.safetensors.index.json lists no tensor"),
        (damaged, r"weights/model-00002-of-00003.safetensors is not a whole safetensors file"),
        (pointer, r"weights/model-00002-of-00003.safetensors is a Git LFS pointer"),
        (moved, r"model-00001-of-00003.safetensors holds .* which .*index.json lists in model-00002-of-00003"),
        (unlisted, r"model-00002-of-00003.safetensors holds 'novelty', which model.safetensors.index.json does not li"),
        (twice, "index.json gives 'cfg_uncond' twice; expected every name once"),
        (outside, r"names '../model-00002-of-00003.safetensors', which lies elsewhere; expected files beside it"),
        (absent, "index.json lists the tensor 'novelty', which none of its files holds"),
        (second, "holds 2 models in several files; give the index of one: .*model.safetensors.index.json"),
        (no_index, "is a folder; expected a weight file, such as .*model-00001-of-00003.safetensors"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(
    folder: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(folder / "weights")
    with pytest.raises(CheckpointError, match=sentence) as refused:
        convert_files([folder / "weights", folder / "vae.pth"], folder / "out")
    assert "\n" not in str(refused.value)
    assert not (folder / "out").exists()


@pytest.mark.parametrize("prefix", ["", "module.", "_fsdp_wrapped_module.", "module._orig_mod."])
def test_nested_files_of_trainers_are_unwrapped_under_whatever_prefix(tmp_path: Path, prefix: str) -> None:
    """``trainer.gpt_fsdp`` and its average, beside a tokenizer's plain and averaged weights in a file of its own."""
    plain = official_transformer()
    averaged = {name: t + 1 if t.is_floating_point() else t for name, t in plain.items()}
    trainer = {
        key: {f"{prefix}{name}": t for name, t in state.items()}
        for key, state in (("gpt_fsdp", plain), ("gpt_ema_fsdp", averaged))
    }
    torch.save({"trainer": trainer, "iter": 3, "args": {"pn": "1M"}}, tmp_path / "ckpt.pth")
    vae = official_tokenizer()
    torch.save({"vae": vae, "ema": {name: t + t for name, t in vae.items()}}, tmp_path / "vae.pth")
    for out, ema, expected, scale in (("out", None, averaged, 2), ("plain", False, plain, 1)):
        report = convert_files([tmp_path / "ckpt.pth", tmp_path / "vae.pth"], tmp_path / out, ema=ema)
        back = export_official(tmp_path / out, "model")
        assert torch.equal(back["head.bias"], expected["head.bias"])
        assert torch.equal(back["block_chunks.1.module.1.sa.q_bias"], expected["block_chunks.1.module.1.sa.q_bias"])
        name = "encoder.conv_in.conv.weight"
        assert torch.equal(export_official(tmp_path / out, "tokenizer")[name], scale * vae[name])
        assert ("averaged" in report.files[str(tmp_path / "ckpt.pth")]) is (ema is None)


def test_a_transformer_and_a_tokenizer_that_do_not_belong_together_are_refused(folder: Path) -> None:
    state = official_transformer()
    state["word_embed.weight"], state["head.weight"] = torch.ones(32, 5), torch.ones(10, 32)
    state["head.bias"] = torch.ones(10)
    torch.save(state, folder / "five.pth")
    with pytest.raises(CheckpointError, match="the tokenizer has 4 draws per token but the transformer expects 5"):
        convert_files([folder / "five.pth", folder / "vae.pth"], folder / "out")


def test_what_is_converted_draws_a_text_at_the_ratio_that_is_asked_for(folder: Path) -> None:
    """With a small encoder in place of the authors'."""
    save_t5(folder / "t5", width=256)
    convert_files([folder / "weights", folder / "vae.pth"], folder / "out", sizes=SMALL.sizes)
    config = folder / "out" / "config.json"
    config.write_text(config.read_text().replace("google/flan-t5-xl", str(folder / "t5")))
    pipe = load(folder / "out", device="cpu", dtype="float32")
    result = pipe(prompt="a red fox", ratio="3:2", seed=1, output_type="pt")
    assert result.images.shape == (1, 3, 14 * 16, 21 * 16)
    assert [tuple(t.shape[1:]) for t in result.tokens] == [(*size, 4) for size in SCHEDULES[10][:7]]


def test_the_command_takes_a_folder_and_scales_that_are_no_squares(folder: Path) -> None:
    words = [str(folder / "weights"), str(folder / "vae.pth"), "-o", str(folder / "out")]
    done = CliRunner().invoke(app, ["convert", *words, "--scales", "1 2x2 3x2 6x4"])
    assert done.exit_code == 0, done.output
    config: Any = load_component(folder / "out", "model").config
    assert (config.sizes, config.lengths) == (SCHEDULES[4][:4], (4, 7, 10, 12, 13))
    for component in ("model", "tokenizer"):
        back = ["convert", str(folder / "out"), "--export", component, "-o", str(folder / f"{component}.safetensors")]
        assert CliRunner().invoke(app, back).exit_code == 0
    assert "cfg_uncond" in load_file(folder / "model.safetensors")
    assert "quantizer.lfq.mask" in load_file(folder / "tokenizer.safetensors")


def test_a_published_pair_that_was_not_trained_together_is_refused_by_the_names_of_its_files(tmp_path: Path) -> None:
    torch.save(official_transformer(), tmp_path / "infinity_2b_reg.pth")
    torch.save({"vae": official_tokenizer()}, tmp_path / "infinity_vae_d32.pth")
    with pytest.raises(CheckpointError, match=r"expected infinity_vae_d32reg.pth beside it \(rename infinity_vae_d32"):
        convert_files([tmp_path / "infinity_2b_reg.pth", tmp_path / "infinity_vae_d32.pth"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
