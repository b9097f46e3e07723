"""``nextscale data``: what the builder refuses reaches the user as one sentence, and a check tells what it has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--styles", "nonsense"], "no emoji style 'nonsense'"),
        (["--styles", ","], "no emoji style was given"),
        (["--resolution", "4"], "resolution is 4"),
    ],
)
def test_what_cannot_be_built_is_refused(nextscale: Command, words: list[str], expected: str) -> None:
    done = nextscale("data", "emoji", "-o", "emoji", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert not Path("emoji").exists()


def test_a_folder_that_holds_something_else_is_left_alone(nextscale: Command) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    done = nextscale("data", "emoji", "-o", "mine")
    assert done.code == 2
    assert "mine" in done.err
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]


def photos(folder: Path) -> Path:
    for kind in ("cat", "dog"):
        (folder / kind).mkdir(parents=True)
        for i in range(12):
            Image.new("RGB", (20, 20), (i, 0, 0)).save(folder / kind / f"{i}.png")
    return folder


def test_a_check_counts_what_there_is(nextscale: Command, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "photos" / "cat" / "3.png").write_bytes(b"no picture")
    done = nextscale("data", "check", "photos", "--resolution", "16")
    assert done.code == 0
    assert done.out.startswith("photos: ")
    assert done.out.endswith("2 classes, 1 damaged files left out\n")
    assert "cannot be read and are left out" in done.err
    assert f"damaged: {Path('photos', 'cat', '3.png')}" in done.err
    found = json.loads(nextscale("data", "check", "photos", "--resolution", "16", "--json").out)
    assert found["train"] + found["heldout"] == 23
    assert found["classes"] == ["cat", "dog"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere"], "does not exist"),
        (["photos", "--resolution", "64"], "are smaller than 64 pixels"),
        (["empty"], "holds no image"),
        (["s/{0..1}.tar"], "2 of the 2 shards"),
    ],
)
def test_a_check_refuses_what_training_would(
    nextscale: Command, tmp_path: Path, words: list[str], expected: str
) -> None:
    photos(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    done = nextscale("data", "check", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert len(done.err.splitlines()) == 1
