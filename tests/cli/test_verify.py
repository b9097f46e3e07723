"""``nextscale verify`` shows a row per output, and its exit code says whether all of them agree."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.cli.conftest import Command

FOLDERS = [Path(__file__).parent.parent / "golden", Path(os.environ.get("NEXTSCALE_GOLDEN", "none"))]


@pytest.fixture(scope="module")
def vectors() -> Path:
    """The smallest file of official numbers at hand."""
    found = sorted(
        (path for folder in FOLDERS for path in folder.glob("var/*.safetensors")), key=lambda p: p.stat().st_size
    )
    if not found:
        pytest.skip("there are no files of official numbers in tests/golden or $NEXTSCALE_GOLDEN")
    return found[0]


def test_a_file_that_agrees(nextscale: Command, vectors: Path) -> None:
    done = nextscale("verify", vectors)
    assert done.code == 0, done.out
    with safe_open(vectors, "pt") as file:
        outputs = [name.removeprefix("out/") for name in file.keys() if name.startswith("out/")]  # noqa: SIM118
    rows = [line.split()[0] for line in done.out.splitlines() if line.endswith(" ok")]
    assert set(rows) == set(outputs)
    assert "1 of 1 files agree" in done.out


def test_a_changed_output_is_out_of_tolerance(nextscale: Command, vectors: Path) -> None:
    with safe_open(vectors, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    changed = next(name for name, t in tensors.items() if name.startswith("out/") and t.is_floating_point())
    tensors[changed].view(-1)[-1] = 1e3
    tensors["out/never/computed"] = torch.zeros(1)
    save_file(tensors, "changed.safetensors", metadata)
    done = nextscale("verify", vectors, "changed.safetensors")
    assert done.code == 1
    assert [
        line for line in done.out.splitlines() if changed.removeprefix("out/") in line and "OUT OF TOLERANCE" in line
    ]
    assert "out/never/computed  NOT CHECKED" in done.out
    assert "1 of 2 files agree" in done.out
    told = json.loads(nextscale("verify", "changed.safetensors", "--json").out)
    assert told[0]["ok"] is False
    assert [row["ok"] for row in told[0]["rows"] if row["name"] == changed.removeprefix("out/")] == [False]


def test_what_is_no_vector_file_is_told_and_fails(nextscale: Command) -> None:
    Path("text.safetensors").write_text("hello")
    save_file({"x": torch.zeros(1)}, "foreign.safetensors")
    done = nextscale("verify", "none.safetensors", "text.safetensors", "foreign.safetensors")
    assert done.code == 1
    sentences = done.err.strip().splitlines()
    assert [line.split(" is ")[0] for line in sentences[:1]] == ["nextscale: none.safetensors"]
    assert len(sentences) == 3
    assert "foreign.safetensors is no vector file" in sentences[2]
    assert "0 of 3 files agree" in done.out


def test_a_folder_stands_for_the_vector_files_in_it(nextscale: Command) -> None:
    done = nextscale("verify", str(FOLDERS[0] / "var" / "sampling.safetensors"), ".")
    assert done.code == 1
    assert "expected a vector file" in done.err
    assert "1 of 2 files agree" in done.out
    Path("vectors").mkdir()
    Path("vectors/a.safetensors").write_bytes((FOLDERS[0] / "var" / "sampling.safetensors").read_bytes())
    assert "1 of 1 files agree" in nextscale("verify", "vectors").out
