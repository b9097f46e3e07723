"""Features of texts in a file: what comes out is what went in, only what is asked for is read, and damage is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nextscale.conditions.encoder import EncoderReference, digest
from nextscale.conditions.text import TextConditioner
from nextscale.conditions.textfile import FORMAT, TextFeatures
from nextscale.device import memory_in_use
from nextscale.errors import CheckpointError, InputError
from tests.conditions.tiny_t5 import WIDTH, reference, save_t5

PROMPTS = ["a red fox", "", "the fox sits in the snow", "blue sky"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("encoders") / "t5"
    save_t5(path)
    return path


@pytest.fixture
def conditioner(folder: Path) -> TextConditioner:
    return TextConditioner(reference(folder))


@pytest.fixture
def file(conditioner: TextConditioner, tmp_path: Path) -> Path:
    conditioner.save_features(tmp_path / "f.safetensors", [*PROMPTS, "a red fox"])
    return tmp_path / "f.safetensors"


def same(a: object, b: object) -> bool:
    return all(torch.equal(a.tensors[n], b.tensors[n]) for n in ("states", "mask"))  # type: ignore[attr-defined]


def test_a_reader_gives_the_states_of_each_text(conditioner: TextConditioner, file: Path, folder: Path) -> None:
    reader = TextFeatures(file)
    assert (reader.prompts, reader.tokens) == (PROMPTS, 15)
    assert reader.reference == EncoderReference(str(folder), None, digest(folder), WIDTH, 16)
    for prompt in PROMPTS:
        expected = conditioner.features([{"prompt": prompt}]).sources["text"]
        assert prompt in reader
        assert torch.equal(reader.states(prompt), expected.tensors["states"][0])
    assert "a cat" not in reader


def test_any_reader_of_safetensors_opens_it(file: Path) -> None:
    """Packed, without padding."""
    tensors = load_file(file)
    assert tensors["lengths"].tolist() == [4, 1, 7, 3]
    assert tensors["states"].shape == (15, WIDTH)
    assert json.loads(bytes(tensors["prompts"].tolist())) == PROMPTS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_replaces_the_encoder_bit_by_bit(folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    one, away = TextConditioner(reference(folder)), tmp_path / "away"
    one.to(torch.device("cpu"), dtype)
    one.save_features(tmp_path / "f", PROMPTS)
    folder_then = folder.rename(away)
    try:
        other = TextConditioner(reference(folder)).with_features(tmp_path / "f")
        asked = one.resolve(prompt=["a red fox", "blue sky"], negative_prompt=["", "the fox sits in the snow"])
        for name in ("text", "negative"):
            assert same(other.features(asked).sources[name], one.features(asked).sources[name])
        sentence = r"'a fox' is not in .*, and the text encoder .* is neither a folder here nor"
        with pytest.raises(CheckpointError, match=sentence):
            other.features([{"prompt": "blue sky"}, {"prompt": "a fox"}])
    finally:
        folder_then.rename(folder)
    mixed = other.features([{"prompt": "blue sky"}, {"prompt": "a fox"}])
    assert mixed.sources["text"].tensors["mask"].sum(1).tolist() == [3, 3]
    assert [entry["prompt"] for entry in other.samples(2)] == PROMPTS[:2]


def test_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    """A file with 8 GiB of states, nearly all of which are a hole, opens and gives a text in a few megabytes."""
    width, lengths, path = 2048, torch.tensor([3, 2**20], dtype=torch.int32), tmp_path / "large"
    size = int(lengths.sum()) * width * 4
    header = {
        "__metadata__": {"format": FORMAT, "encoder": json.dumps({"encoder": "me/t5", "width": width})},
        "lengths": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]},
        "states": {"dtype": "F32", "shape": [size // (width * 4), width], "data_offsets": [8, 8 + size]},
        "prompts": {"dtype": "U8", "shape": [10], "data_offsets": [8 + size, 18 + size]},
    }
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head + lengths.numpy().tobytes())
        file.seek(size, 1)
        file.write(b'["a", "b"]')
    assert path.stat().st_size > 2**33
    before = memory_in_use(torch.device("cpu"))
    assert TextFeatures(path).states("a").shape == (3, width)
    assert memory_in_use(torch.device("cpu")) - before < 2**26


def test_where_only_the_weights_of_an_encoder_differ_the_sentence_tells_them_apart(file: Path, folder: Path) -> None:
    other = EncoderReference(str(folder), sha256="0" * 64, width=WIDTH, length=16)
    with pytest.raises(
        InputError, match=r"were made by .*, sha256 [0-9a-f]{64}; expected those of sha256 0{64}, which"
    ):
        TextConditioner(other).with_features(file)


def test_features_of_another_encoder_are_refused(conditioner: TextConditioner, file: Path, folder: Path) -> None:
    for other in (
        EncoderReference("me/t5", width=WIDTH, length=16),
        EncoderReference(str(folder), width=WIDTH, length=15),
        EncoderReference(str(folder), width=9, length=16),
        EncoderReference(str(folder), sha256="0" * 64, width=WIDTH, length=16),
    ):
        with pytest.raises(InputError, match=r"the features in .* were made by .*; expected those of"):
            TextConditioner(other).with_features(file)
    # The same weights under another name give the same states.
    TextConditioner(EncoderReference("me/t5", sha256=digest(folder), width=WIDTH, length=16)).with_features(file)


def test_a_damaged_file_is_one_sentence(file: Path, tmp_path: Path) -> None:
    whole = file.read_bytes()
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    other = tmp_path / "other"
    for content in (whole[:-1], whole[:100], b"", b"text"):
        other.write_bytes(content)
        with pytest.raises(InputError, match=r"other cannot be read .*; expected a file of prompts that nextscale enc"):
            TextFeatures(other)
    for change in (
        {"lengths": tensors["lengths"] + 1},
        {"lengths": tensors["lengths"].float()},
        {"states": tensors["states"][:, :4].contiguous()},
        {"states": tensors["states"].long()},
        {"prompts": tensors["prompts"][:-1]},
        {"prompts": torch.tensor(list(b"[1, 2, 3, 4]"), dtype=torch.uint8)},
        {"prompts": torch.tensor(list(b'["a"]'), dtype=torch.uint8)},
    ):
        save_file(tensors | change, other, about)
        with pytest.raises(InputError, match=r"other is damaged.*; expected a file of prompts"):
            TextFeatures(other)
    save_file(tensors, other, about | {"encoder": '{"width": "many"}'})
    with pytest.raises(InputError, match="other is damaged"):
        TextFeatures(other)
    save_file({"scale_0": torch.zeros(1)}, other, {"format": "nextscale-tokens-1"})
    with pytest.raises(InputError, match="other holds other things than texts"):
        TextFeatures(other)
    with pytest.raises(InputError, match="is missing; expected a file of prompts"):
        TextFeatures(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder; expected a file of prompts"):
        TextFeatures(tmp_path)
    tensors["states"][2, 3] = float("nan")
    save_file(tensors, other, about)
    with pytest.raises(InputError, match=r"the states of 'a red fox' in .* are no numbers"):
        TextFeatures(other).states("a red fox")


def test_nothing_is_replaced_and_nothing_is_half_written(
    conditioner: TextConditioner, file: Path, tmp_path: Path
) -> None:
    before, done = file.read_bytes(), list[tuple[int, int]]()
    with pytest.raises(InputError, match="exists; choose another name, or --overwrite"):
        conditioner.save_features(file, ["a"])

    def stop(one: int, all_of_them: int) -> None:
        raise KeyboardInterrupt

    for overwrite, path in ((True, file), (False, tmp_path / "new")):
        with pytest.raises(KeyboardInterrupt):
            conditioner.save_features(path, ["a"], overwrite, stop)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]
    many = [f"a {i}" for i in range(70)]
    assert conditioner.save_features(file, many, True, lambda a, b: done.append((a, b))).prompts == many
    assert done == [(64, 70), (70, 70)]
    for prompts, sentence in (([], "there is no prompt to encode"), ([3], "a prompt is 3; expected a text")):
        with pytest.raises(InputError, match=sentence):
            conditioner.save_features(tmp_path / "none", prompts)  # type: ignore[arg-type]
