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
    done = nextscale("verify", vectors, "--all")
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


def rewritten(source: Path, target: Path, changed: dict[str, torch.Tensor | None], **metadata: str) -> Path:
    """A copy of a vector file with other tensors (None leaves one out) and metadata."""
    with safe_open(source, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()} | changed  # noqa: SIM118
        strings = dict(file.metadata()) | metadata
    target.parent.mkdir(exist_ok=True)
    save_file({name: t for name, t in tensors.items() if t is not None}, target, strings)
    return target


def test_the_answer_is_a_line_per_file_that_agrees_and_every_row_when_asked(nextscale: Command, vectors: Path) -> None:
    short, long = nextscale("verify", vectors).out, nextscale("verify", vectors, "--all").out
    assert len(short.splitlines()) == 2
    assert "agrees: " in short.splitlines()[0]
    assert len(long.splitlines()) > 10
    assert short.splitlines()[-1] == long.splitlines()[-1] == "1 of 1 files agree"


def test_the_end_names_the_files_and_rows_that_do_not_agree(nextscale: Command) -> None:
    source = FOLDERS[0] / "var" / "sampling.safetensors"
    with safe_open(source, "pt") as file:
        probs = file.get_tensor("out/k5/probs")
    rewritten(source, Path("d/good.safetensors"), {})
    rewritten(source, Path("d/bad.safetensors"), {"out/k5/probs": probs + 0.01, "out/k1/idx": torch.zeros(3)})
    Path("d/cut.safetensors").write_bytes(source.read_bytes()[:4000])
    done = nextscale("verify", "d")
    assert done.code == 1
    end = done.out.splitlines()[-3:]
    assert end[0] == "1 of 3 files agree"
    assert "bad.safetensors" in end[1]
    assert "k5/probs" in end[1]
    assert "k1/idx" in end[1]
    assert "p90/probs" not in done.out  # a row that agrees
    assert "cut.safetensors" in end[2]
    assert "not a whole safetensors file" in end[2]


def test_many_rows_that_do_not_agree_are_cut_unless_asked(nextscale: Command) -> None:
    source = FOLDERS[0] / "var" / "sampling.safetensors"
    with safe_open(source, "pt") as file:
        outputs = [name for name in file.keys() if name.startswith("out/") and name.endswith("/probs")]  # noqa: SIM118
        wrong: dict[str, torch.Tensor | None] = {name: file.get_tensor(name) + 1 for name in outputs}
    assert len(wrong) > 10
    rewritten(source, Path("bad.safetensors"), wrong)
    short = nextscale("verify", "bad.safetensors").out
    assert 0 < short.count("OUT OF TOLERANCE") < len(wrong)
    assert "more (--all shows them)" in short
    assert nextscale("verify", "bad.safetensors", "--all").out.count("OUT OF TOLERANCE") == len(wrong)


def test_files_for_others_in_a_folder_are_counted_and_named(nextscale: Command) -> None:
    source = FOLDERS[0] / "var" / "sampling.safetensors"
    rewritten(source, Path("d/ours.safetensors"), {})
    rewritten(source, Path("d/theirs.safetensors"), {}, system="infinity")
    rewritten(source, Path("d/later.safetensors"), {}, format="2")
    save_file({"x": torch.zeros(1)}, "d/weights.safetensors")
    done = nextscale("verify", "d")
    assert done.code == 0
    assert "passed over 3 files" in done.out
    for words in ("infinity: theirs.safetensors", "later.safetensors", "weights.safetensors", "1 of 1 files agree"):
        assert words in done.out
    told = json.loads(nextscale("verify", "d", "--json").out)
    assert {Path(report["path"]).name: (report["known"], report["ok"]) for report in told} == {
        "ours.safetensors": (True, True),
        "theirs.safetensors": (False, False),
        "later.safetensors": (False, False),
        "weights.safetensors": (False, False),
    }
    # By its name it is asked for, and with nothing else there is no proof.
    assert nextscale("verify", "d/ours.safetensors", "d/theirs.safetensors").code == 1
    Path("d/ours.safetensors").unlink()
    done = nextscale("verify", "d")
    assert done.code == 1
    assert "0 of 0 files agree: there was none to verify" in done.out


def test_what_a_file_should_store_and_does_not_is_named(nextscale: Command) -> None:
    rewritten(FOLDERS[0] / "var" / "sampling.safetensors", Path("x.safetensors"), {"out/k5/probs": None})
    done = nextscale("verify", "x.safetensors")
    assert "k5/probs  NOT STORED" in done.out
    assert "agrees: " in done.out
