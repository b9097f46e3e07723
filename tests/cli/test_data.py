"""``nextscale data``: what the builder refuses reaches the user as one sentence, and a check tells what it has seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command
from tests.evaluation.conftest import draw_emoji


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


def test_a_check_tells_classes_split_and_what_is_passed_over(nextscale: Command, tmp_path: Path) -> None:
    for side in ("train", "dev"):
        photos(tmp_path / "photos" / side)
    (tmp_path / "photos" / "dev" / "dog" / "3.png").unlink()
    for i in range(12):
        (tmp_path / "photos" / "train" / "cat" / f"{i}.heic").write_text("x")
    (tmp_path / "photos" / "labels.csv").write_text("x")
    done = nextscale("data", "check", "photos", "--resolution", "16")
    lines = [line.split() for line in done.out.splitlines()]
    assert "photos: split: the folders train and dev" in done.out
    assert "passed over: 13 files (12 .heic, 1 .csv), for instance train/cat/0.heic" in done.out
    assert [line for line in lines if line[0] in ("cat", "dog")] == [["cat", "12", "12"], ["dog", "12", "11"]]
    assert "there may be labels in labels.csv, which is not read" in done.err
    found = json.loads(nextscale("data", "check", "photos", "--resolution", "16", "--json").out)
    assert found["images"] == {"cat": {"train": 12, "heldout": 12}, "dog": {"train": 12, "heldout": 11}}
    assert found["passed_over"] == {".heic": 12, ".csv": 1}
    assert (found["split"], len(found["notes"])) == ("the folders train and dev", 1)


def test_a_check_lists_what_emoji_a_text_model_does_not_see(nextscale: Command, tmp_path: Path) -> None:
    draw_emoji(tmp_path / "set", train=20, heldout=10)
    done = nextscale("data", "check", "set", "--resolution", "16", "--captions")
    assert "set: split: cells and families" in done.out
    assert "skin-tone variants are drawn a third as often" in done.err
    found = json.loads(nextscale("data", "check", "set", "--resolution", "16", "--captions", "--json").out)
    assert sum(one["images"] for ones in found["held_out"].values() for one in ones) == found["heldout"]
    assert set(found["held_out"]) == {"cells", "families"}
    assert "held_out" not in json.loads(nextscale("data", "check", "set", "--resolution", "16", "--json").out)


def test_a_check_of_many_classes_is_short(nextscale: Command, tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / "photos" / f"{i:03}").mkdir(parents=True)
        Image.new("RGB", (20, 20), (i, 0, 0)).save(tmp_path / "photos" / f"{i:03}" / "1.png")
    done = nextscale("data", "check", "photos", "--resolution", "16")
    assert "and 140 classes more, which --json lists" in done.out
    assert len(json.loads(nextscale("data", "check", "photos", "--resolution", "16", "--json").out)["images"]) == 200


def test_small_images_are_left_out_and_counted_where_that_is_wanted(nextscale: Command, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    Image.new("RGB", (20, 9)).save(tmp_path / "photos" / "cat" / "tiny.png")
    refused = nextscale("data", "check", "photos", "--resolution", "16")
    assert refused.code == 2
    assert "--skip-small" in refused.err
    done = nextscale("data", "check", "photos", "--resolution", "16", "--skip-small")
    assert done.code == 0
    assert "held out, 1 smaller than 16 pixels left out, 2 classes" in done.out
    assert "tiny.png (20 x 9)" in done.err


def test_a_check_works_where_the_system_does_not_tell_its_memory(
    nextscale: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos(tmp_path / "photos")
    monkeypatch.delattr("os.sysconf")
    assert nextscale("data", "check", "photos", "--resolution", "16").code == 0


@pytest.mark.parametrize("path", ["s/{000..999999999}.tar", "s/" + "x" * 100_000])
def test_what_is_refused_is_refused_in_a_short_line(nextscale: Command, path: str) -> None:
    done = nextscale("data", "check", path)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert len(done.err) < 1000


def test_a_check_reads_captions_where_that_is_asked_for(nextscale: Command, tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    words = ("data", "check", "photos", "--resolution", "16", "--captions")
    refused = nextscale(*words)
    assert (refused.code, refused.out) == (2, "")
    assert "photos has no captions, and a text model reads them; expected a metadata.jsonl" in refused.err
    for path in (tmp_path / "photos").rglob("*.png"):
        path.with_suffix(".txt").write_text(f"a {path.parent.name}")
    done = nextscale(*words)
    assert done.code == 0
    assert "captions: one for each image, 0 with a long one; for instance 'a cat'" in done.out
    found = json.loads(nextscale(*words, "--json").out)
    assert found["captions"]["long"] == 0
    assert len(found["captions"]["hash"]) == 64
    assert "captions" not in json.loads(nextscale(*words[:-1], "--json").out)
    (tmp_path / "photos" / "cat" / "3.txt").unlink()
    assert "images of photos have no caption, or an empty one, for instance photos/cat/3.png" in nextscale(*words).err
