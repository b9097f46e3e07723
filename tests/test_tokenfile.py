"""Tokens in a file are those that were written, by this tokenizer and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nextscale.errors import InputError
from nextscale.tokenfile import digest, load_tokens, save_tokens, token_maps
from tests.makers import CODES, randomise, tiny_bitwise, tiny_tokenizer
from tests.toys import bit_tokenizer

MAPS = [torch.full((2, k, k), k) for k in (1, 2, 3, 4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_tokens(tmp_path / "t.safetensors", MAPS, ["cat", "dog"], "tiny", tiny_tokenizer())
    return tmp_path / "t.safetensors"


def rewritten(path: Path, about: dict[str, str | None], maps: dict[str, Any] | None = None) -> Path:
    """The file with other metadata (None: left out) or other tensors."""
    with safe_open(path, "pt") as file:
        old, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    new = {name: value for name, value in (old | about).items() if value is not None}
    save_file(tensors if maps is None else maps, path, new)
    return path


def test_tokens_and_names_survive(path: Path) -> None:
    found = load_tokens(path, tiny_tokenizer())
    assert all(torch.equal(a, b) and b.dtype == torch.int64 for a, b in zip(MAPS, found.maps, strict=True))
    assert (found.names, found.model) == (["cat", "dog"], "tiny")


def test_a_file_is_replaced_only_when_asked(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(InputError, match="exists; choose another name, or --overwrite"):
        save_tokens(path, MAPS[:1], ["a", "b"], "tiny", tiny_tokenizer())
    assert path.read_bytes() == before
    save_tokens(path, MAPS[:1], ["a", "b"], "tiny", tiny_tokenizer(), overwrite=True)
    assert len(load_tokens(path, tiny_tokenizer()).maps) == 1


def test_a_digest_is_that_of_the_weights_in_either_number_type() -> None:
    tokenizer = tiny_tokenizer()
    mine = digest(tokenizer)
    assert digest(tokenizer.to(torch.bfloat16)) == mine
    assert digest(tiny_tokenizer()) == mine
    other = tiny_tokenizer()
    randomise(other, seed=1)
    assert digest(other) != mine


def test_another_tokenizers_tokens_are_refused(path: Path) -> None:
    other = tiny_tokenizer()
    randomise(other, seed=1)
    with pytest.raises(InputError, match="holds the tokens of another tokenizer, of the model 'tiny'"):
        load_tokens(path, other)


@pytest.mark.parametrize(
    ("about", "maps", "sentence"),
    [
        ({"format": "other"}, None, "holds other things than tokens"),
        ({"format": None}, None, "holds other things than tokens"),
        ({"tokenizer": None}, None, "another tokenizer"),
        ({"names": '["one"]'}, None, r"names its pictures \['one'\]; expected one name for each of 2"),
        ({"names": "[1, 2]"}, None, "names its pictures"),
        ({"names": "{"}, None, "cannot be read"),
        ({"names": "[" * 100_000}, None, "cannot be read"),
        ({}, {"scale_1": MAPS[0].int()}, "holds other things than tokens"),
        ({}, {"scale_0": MAPS[0].float()}, "of the type torch.float32"),
        ({}, {"scale_0": MAPS[1].int()}, "have the shape"),
        ({}, {"scale_0": MAPS[0].int() + CODES}, f"expected 0 to {CODES - 1}"),
        ({}, {}, "holds other things than tokens|tokens are"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(path: Path, about: Any, maps: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as caught:
        load_tokens(rewritten(path, about, maps), tiny_tokenizer())
    assert len(str(caught.value)) < 500


def test_damaged_and_missing_files_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        load_tokens(path, tiny_tokenizer())
    for other in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"there is no file|is a folder"):
            load_tokens(other, tiny_tokenizer())


def test_tokens_of_several_draws_survive(tmp_path: Path) -> None:
    tokenizer = bit_tokenizer()
    maps = tokenizer.encode(tokenizer.latent(torch.rand(2, 3, 16, 16))).tokens
    save_tokens(tmp_path / "bits.safetensors", maps, ["cat", "dog"], "tiny", tokenizer)
    found = load_tokens(tmp_path / "bits.safetensors", tokenizer)
    assert all(torch.equal(a, b) for a, b in zip(found.maps, maps, strict=True))
    with pytest.raises(InputError, match=r"have the shape \(1, 2, 1, 1\); expected \(B, 1, 1, 8\)"):
        token_maps([one[..., 0] for one in maps], tokenizer)


def test_bits_are_packed_and_those_that_are_not_are_read(tmp_path: Path) -> None:
    """A token of eleven bits takes two bytes, not eleven numbers; files that hold numbers stay readable."""
    tokenizer = tiny_bitwise(bits=11)
    maps = [torch.randint(2, (2, h, w, 11)) for h, w in tokenizer.schedule]
    path = tmp_path / "t.safetensors"
    save_tokens(path, maps, ["cat", "dog"], "tiny", tokenizer)
    with safe_open(path, "pt") as file:
        assert tuple(file.get_tensor("scale_1").shape) == (2, 2, 2, 2)
    for stored in (path, rewritten(path, {"bits": None}, {f"scale_{k}": one.int() for k, one in enumerate(maps)})):
        found = load_tokens(stored, tokenizer)
        assert all(torch.equal(a, b) for a, b in zip(maps, found.maps, strict=True))
    save_tokens(path, maps, ["cat", "dog"], "tiny", tokenizer, overwrite=True)
    rewritten(path, {}, {f"scale_{k}": one.to(torch.uint8).flatten(1) for k, one in enumerate(maps)})
    with pytest.raises(InputError, match="the tokens of scale 0 have the shape"):
        load_tokens(path, tokenizer)
