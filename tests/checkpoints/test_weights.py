"""Weights are written one tensor at a time, in the format everybody reads, and take the memory of one tensor."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nextscale.checkpoints.convert import infinity, var
from nextscale.checkpoints.weights import NAMES, write_weights
from nextscale.errors import CheckpointError, InputError
from nextscale.models.infinity import InfinityConfig
from nextscale.models.var import VARConfig
from tests.checkpoints.convert.test_shards import sharded
from tests.makers import tiny_var


def test_the_file_is_what_others_read(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(-3, 9).to(dtype).reshape(3, 4) for dtype in NAMES}
    tensors |= {
        "turned": torch.randn(5, 7).T,
        "single": torch.tensor(2.5),
        "none": torch.zeros(0, 3),
        "ä": torch.ones(1),
    }
    write_weights(tmp_path / "a.safetensors", tensors)
    back = load_file(tmp_path / "a.safetensors")
    assert back.keys() == tensors.keys()
    for name, t in tensors.items():
        assert (back[name].dtype, back[name].shape) == (t.dtype, t.shape)
        assert torch.equal(back[name], t)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_casting_on_the_way_is_casting(tmp_path: Path) -> None:
    state = tiny_var().state_dict() | {"ids": torch.arange(3)}
    write_weights(tmp_path / "a.safetensors", state, torch.bfloat16)
    back = load_file(tmp_path / "a.safetensors")
    assert back.pop("ids").dtype == torch.int64
    assert all(torch.equal(t, state[name].bfloat16()) for name, t in back.items())


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (float("nan"), None, "b has 1 values of 4 that are not finite numbers"),
        (float("inf"), torch.bfloat16, "b has 1 values of 4 that are not finite numbers"),
        (1e5, torch.float16, "b has values up to 100000, too large for torch.float16"),
    ],
)
def test_what_is_no_finite_number_is_not_written(
    tmp_path: Path, value: float, dtype: torch.dtype | None, expected: str
) -> None:
    """And a file that was there before stays; 1e5 itself is a number that bfloat16 has."""
    write_weights(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    with pytest.raises(CheckpointError, match=expected):
        write_weights(tmp_path / "a.safetensors", {"a": torch.ones(2), "b": torch.tensor([1, value, 2, 3])}, dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
    assert load_file(tmp_path / "a.safetensors")["a"].shape == (1,)
    write_weights(tmp_path / "a.safetensors", {"b": torch.tensor([1e5])}, torch.bfloat16)


def test_a_file_can_be_replaced_by_what_lies_in_it(tmp_path: Path) -> None:
    write_weights(tmp_path / "a.safetensors", {"a": torch.arange(1e6), "b": torch.ones(1)})
    lazily = load_file(tmp_path / "a.safetensors")
    write_weights(tmp_path / "a.safetensors", lazily | {"b": torch.zeros(1)})
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], torch.arange(1e6))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "nowhere").write_text("a file")
    with pytest.raises(InputError, match="nowhere is a file; expected a folder"):
        write_weights(tmp_path / "nowhere" / "a.safetensors", {"a": torch.ones(1)})


WATCHED = """
import sys, threading, json
from pathlib import Path
import torch
from nextscale.checkpoints.convert import convert_files
from nextscale.checkpoints.store import load_component
from nextscale.checkpoints.load import revision
import nextscale.checkpoints.find
work, small, source, out = sys.argv[1], *map(Path, sys.argv[2:])
dtype = torch.bfloat16 if "bf16" in work else torch.float32
def act(path, folder):
    if work.startswith("convert"):
        convert_files([path], folder, dtype, system=None if path.is_dir() else "var")
        return None
    revision(path)
    return load_component(path, "model", "cpu", dtype)
act(small, out / "small")
print("ready", flush=True)
sys.stdin.readline()
held = act(source, out / "large")
print("done", flush=True)
sys.stdin.readline()
"""


def anonymous(pid: int) -> int:
    """Bytes of a process that no file stands behind."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("RssAnon", "RssShmem")))


def most_anonymous(work: str, small: Path, source: Path, out: Path) -> int:
    """The most anonymous memory that ``work`` takes in a process of its own, above what the idle process has.

    small: what it does the same to before, so that everything is imported; out: converted to its folder ``large``.
    """
    command = [sys.executable, "-c", WATCHED, work, str(small), str(source), str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        idle = most = anonymous(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        while not select.select([process.stdout], [], [], 0.002)[0]:  # until it says that it is done
            most = max(most, anonymous(process.pid))
        assert process.stdout.readline() == "done\n"
        process.stdin.write("\n")
    assert process.returncode == 0
    return most - idle


def official_file(path: Path, width: int, depth: int) -> Path:
    """An official VAR file of these sizes, all its numbers alike."""
    config = VARConfig(depth=depth, width=width, heads=width // 64)
    torch.save({target.name: torch.full(target.shape, 0.01) for target in var.model_targets(config).values()}, path)
    return path


def official_shards(folder: Path, width: int, depth: int, pattern: str) -> Path:
    """An official transformer of these sizes that reads text, in several files."""
    config = InfinityConfig(depth=depth, width=width, heads=width // 64, hidden=4 * width, text_heads=16)
    named = {target.name: torch.full(target.shape, 0.01) for target in infinity.model_targets(config).values()}
    return sharded(folder, named, pattern, 8)


def shares_of(tmp_path: Path, width: int, depth: int) -> dict[str, float]:
    """Convert and load, in float32 and in bfloat16; returns anonymous bytes as shares of the weights then held."""
    small, big = official_file(tmp_path / "small.pth", 64, 1), official_file(tmp_path / "big.pth", width, depth)
    f32, bf16 = tmp_path / "f32", tmp_path / "bf16"
    most = {
        "convert": most_anonymous("convert", small, big, f32),
        "convert bf16": most_anonymous("convert bf16", small, big, bf16),
        "load": most_anonymous("load", f32 / "small", f32 / "large", tmp_path),
        "load bf16": most_anonymous("load bf16", f32 / "small", f32 / "large", tmp_path),
        "load, bf16 on disk": most_anonymous("load", bf16 / "small", bf16 / "large", tmp_path),
    }
    size = {folder: (folder / "large" / "model.safetensors").stat().st_size for folder in (f32, bf16)}
    return {work: bytes / size[bf16 if work.endswith("bf16") else f32] for work, bytes in most.items()}


LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells anonymous memory apart")


@LINUX
def test_converting_takes_far_less_memory_than_the_weights(tmp_path: Path) -> None:
    small, big = official_file(tmp_path / "small.pth", 64, 1), official_file(tmp_path / "big.pth", 512, 4)
    most = most_anonymous("convert bf16", small, big, tmp_path)
    assert most < 0.5 * (tmp_path / "large" / "model.safetensors").stat().st_size


@LINUX
@pytest.mark.parametrize("pattern", ["model-{}.safetensors", "pytorch_model-{}.bin"])
def test_converting_shards_takes_far_less_memory_than_the_weights(tmp_path: Path, pattern: str) -> None:
    """Whatever the number of shards: they are not held together."""
    small, big = official_shards(tmp_path / "small", 64, 1, pattern), official_shards(tmp_path / "big", 512, 4, pattern)
    most = most_anonymous("convert bf16", small, big, tmp_path / "out")
    assert most < 0.5 * (tmp_path / "out" / "large" / "model.safetensors").stat().st_size


@LINUX
@pytest.mark.slow
def test_a_file_of_more_than_a_gigabyte_takes_at_most_its_converted_size_and_a_fifth(tmp_path: Path) -> None:
    shares = shares_of(tmp_path, 1024, 16)
    assert (tmp_path / "f32" / "large" / "model.safetensors").stat().st_size > 1e9
    assert max(shares.values()) <= 1.2, shares
    assert max(shares["convert"], shares["convert bf16"]) <= 0.2, shares
