"""Cached tokens are those the tokenizer gives, of just this tokenizer, data and augmentation, and undamaged."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from nextscale.data.images import ImageData, InMemory
from nextscale.errors import TrainingError
from nextscale.measures.tokenizer import encode_all
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.residual import ResidualConfig, ResidualTokenizer
from nextscale.training.order import SampleNoise
from nextscale.training.tokens import Augmentation, Tokens, cached_tokens, encode

COUNT, SIDE = 70, 16  # more than one batch
STRONG = Augmentation(flip=0.5, unmirrored=("letters",), shift=3, recolour=0.5)


def tiny_data(seed: int = 0) -> ImageData:
    pixels = torch.randint(0, 256, (COUNT, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(COUNT) % 2
    names = [str(i) for i in range(COUNT)]
    store = InMemory(pixels.to(torch.uint8), SIDE)
    return ImageData(store, labels, ["animals", "letters"], "train", names, f"hash {seed}", labels * 0, [])


def tiny_tokenizer(codes: int = 24) -> ResidualTokenizer:
    torch.manual_seed(1)
    autoencoder = AutoencoderConfig(ch=8, mult=(1, 1, 2), z=4, res_blocks=1, groups=4)
    config = ResidualConfig(codes=codes, code_dim=4, sizes=((1, 1), (2, 2), (4, 4)), autoencoder=autoencoder)
    return ResidualTokenizer(config).eval()


def cached(folder: Path, copies: int = 1, augmentation: Augmentation = STRONG, revision: str = "r1") -> Tokens:
    tokens, damaged = cached_tokens(folder, tiny_tokenizer(), revision, tiny_data(), copies, augmentation)
    assert damaged == []
    return tokens


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def of_copy(tokens: Tokens, copy: int) -> torch.Tensor:
    return tokens.read(torch.full((COUNT,), copy), torch.arange(COUNT))


def test_tokens_are_what_the_tokenizer_says(tmp_path: Path) -> None:
    maps = encode_all(tiny_tokenizer(), tiny_data().images)
    tokens = cached(tmp_path)
    assert torch.equal(tokens.all(), torch.cat([tokens_k.flatten(1) for tokens_k in maps], 1))
    rows = torch.tensor([69, 0, 3, 0])
    assert torch.equal(tokens.read(rows * 0, rows), tokens.all()[rows])


def test_the_files_are_safetensors_of_the_smallest_integers(tmp_path: Path) -> None:
    small, _ = cached_tokens(tmp_path / "small", tiny_tokenizer(), "r1", tiny_data())
    large, _ = cached_tokens(tmp_path / "large", tiny_tokenizer(2**15 + 1), "r1", tiny_data())
    for folder, tokens, dtype in (("small", small, torch.int16), ("large", large, torch.int32)):
        (file,) = (tmp_path / folder).iterdir()
        with safe_open(file, "pt") as opened:
            assert torch.equal(opened.get_tensor("tokens").long(), tokens.all())
            assert opened.get_tensor("tokens").dtype == dtype
            assert opened.metadata()["tokenizer"] == "r1"


def test_nothing_is_encoded_twice(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    cached_tokens(tmp_path, tiny_tokenizer(), "r1", tiny_data(), 2, STRONG, lambda *at: seen.append(at))
    assert seen == [(64, 140), (70, 140), (134, 140), (140, 140)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    cached_tokens(tmp_path, tiny_tokenizer(), "r1", tiny_data(), 3, STRONG, lambda *at: seen.append(at))
    assert seen[4:] == [(64, 70), (70, 70)]  # the third copy alone
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_tokens_are_never_found(tmp_path: Path) -> None:
    cached(tmp_path, 2)
    for other in ({"flip": 1.0}, {"unmirrored": ()}, {"shift": 2}, {"recolour": 0.4}):
        cached(tmp_path, 2, replace(STRONG, **other))
    assert len(list(tmp_path.iterdir())) == 1 + 5  # copy 0 depends on none of these
    cached(tmp_path, revision="r2")
    cached_tokens(tmp_path, tiny_tokenizer(), "r1", tiny_data(1))
    assert len(list(tmp_path.iterdir())) == 8


def test_a_damaged_file_is_built_again_and_named(tmp_path: Path) -> None:
    good = cached(tmp_path).all()
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 1
    for bad in (whole[:-2], bytes(flipped), whole[:20], b"", whole.replace(b'"r1"', b'"r7"')):
        file.write_bytes(bad)
        tokens, damaged = cached_tokens(tmp_path, tiny_tokenizer(), "r1", tiny_data())
        assert damaged == [f"the token cache {file} is damaged and was built again"]
        assert torch.equal(tokens.all(), good)
        assert contents(tmp_path) == {file.name: whole}


def test_an_interrupted_encoding_leaves_finished_copies(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done > COUNT:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_tokens(tmp_path, tiny_tokenizer(), "r1", tiny_data(), 2, STRONG, stop)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".part", ".safetensors"]
    tokens = cached(tmp_path, 2)
    whole = cached(tmp_path / "whole", 2)
    assert all(torch.equal(of_copy(tokens, copy), of_copy(whole, copy)) for copy in range(2))


def test_two_runs_that_fill_one_cache_leave_whole_copies(tmp_path: Path) -> None:
    """The second one begins and ends while the first is half done; what a killed run left is cleared away."""
    others: list[torch.Tensor] = []

    def meanwhile(done: int, total: int) -> None:
        if not others:
            others.append(cached(tmp_path, 1).all())

    tmp_path.mkdir(exist_ok=True)
    first, _ = cached_tokens(tmp_path, tiny_tokenizer(), "r1", tiny_data(), 1, STRONG, meanwhile)
    whole = cached(tmp_path / "whole", 1).all()
    assert torch.equal(first.all(), whole)
    assert torch.equal(others[0], whole)
    (file,) = [path for path in tmp_path.iterdir() if path.is_file()]
    file.with_name(f"{file.stem}-0000002a.part").write_bytes(b"left")
    file.unlink()
    cached(tmp_path, 1)
    assert [path for path in tmp_path.iterdir() if path.is_file()] == [file]


def test_copies_differ_as_the_augmentation_says(tmp_path: Path) -> None:
    data, tokenizer = tiny_data(), tiny_tokenizer()
    tokens = cached(tmp_path / "flip", 4, Augmentation(flip=0.5, unmirrored=("letters",)))
    plain = tokens.all()
    mirrored = torch.cat([m.flatten(1) for m in encode_all(tokenizer, data.images.flip(-1))], 1)
    for copy, expected in enumerate([plain, mirrored, plain, mirrored]):
        expected = torch.where((data.labels == 1)[:, None], plain, expected)
        assert torch.equal(of_copy(tokens, copy), expected)
    assert not torch.equal(plain, mirrored)
    moved = cached(tmp_path / "shift", 3, Augmentation(shift=3))
    assert len({of_copy(moved, copy).numpy().tobytes() for copy in range(3)}) == 3


@pytest.mark.parametrize(("flip", "expected"), [(0.0, 0), (0.25, 2), (0.5, 4), (0.8, 6), (1.0, 8)])
def test_a_share_of_the_copies_is_mirrored(flip: float, expected: int) -> None:
    assert sum(Augmentation(flip=flip).mirrored(copy) for copy in range(8)) == expected


def test_pictures_larger_than_the_resolution_are_cropped_at_random() -> None:
    big = torch.randint(0, 256, (COUNT, 3, 18, 20), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    data = replace(tiny_data(), pictures=InMemory(list(big), SIDE))
    rows, turned = torch.arange(COUNT), torch.zeros(COUNT, dtype=torch.bool)
    noise = SampleNoise(0, 0, COUNT, slice(None))
    images = Augmentation().images(data, rows, turned, noise, torch.device("cpu"))
    corners = {
        (y, x)
        for picture, image in zip(big, images, strict=True)
        for y in range(3)
        for x in range(5)
        if torch.equal(picture[:, y : y + SIDE, x : x + SIDE], ((image + 1) * 127.5).round().byte())
    }
    assert ({y for y, _ in corners}, {x for _, x in corners}) == ({0, 1, 2}, {0, 1, 2, 3, 4})


def test_precision_of_training_does_not_matter() -> None:
    images = torch.rand(4, 3, SIDE, SIDE) * 2 - 1
    plain = encode(tiny_tokenizer(), images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(encode(tiny_tokenizer(), images), plain)


PROCESS = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from tests.training.test_tokens import STRONG, cached
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[1] + "/meet", rank=int(sys.argv[2]), world_size=2)
cached(Path(sys.argv[1]) / "two", 2)
dist.destroy_process_group()
"""


def test_two_processes_write_what_one_writes(tmp_path: Path) -> None:
    words = [[sys.executable, "-c", PROCESS, str(tmp_path), str(rank)] for rank in range(2)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(word, env=environment, stderr=subprocess.PIPE) for word in words]
    errors = [process.communicate(timeout=240)[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    cached(tmp_path / "one", 2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match=r"the token cache .*file/tokens \(\d+ MiB\) cannot be written: Not a dir"):
        cached(tmp_path / "file" / "tokens")


def test_reading_is_timed(tmp_path: Path) -> None:
    tokens = cached(tmp_path)
    assert tokens.waited == 0
    tokens.read(torch.zeros(5, dtype=torch.int64), torch.arange(5))
    assert 0 < tokens.waited < 1
    assert isinstance(tokens._copies[0], np.memmap)
