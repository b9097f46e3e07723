"""What a verb writes: nothing of a user's is replaced unasked, and nothing is drawn before that is known."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from nextscale.conditions.classes import ClassVocabulary
from nextscale.pictures import open_picture, read_recipe
from tests.cli.conftest import Answer, Command
from tests.evaluation.test_runs import some_lines, write_log
from tests.makers import tiny_pipeline

Snapshot = dict[str, bytes | None]


def snapshot(folder: Path) -> Snapshot:
    """Every file below a folder and its bytes; None for what is no regular file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return {str(path): path.read_bytes() if path.is_file() else None for path in files}


def refused(done: Answer, *expected: str) -> None:
    assert (done.code, done.out) == (2, ""), done
    (sentence,) = [line for line in done.err.splitlines() if line.startswith("nextscale: ")]
    for words in expected:
        assert words in sentence


def kept(before: Snapshot, folder: Path) -> bool:
    now = snapshot(folder)
    return all(now.get(path) == data for path, data in before.items())


def test_pictures_take_free_names_and_replace_none(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    words = ["generate", "-c", 0, "-n", 2, "--model", tiny_model, "--strip", "--json", "--seed"]
    for seed in (1, 2):
        assert nextscale(*words, seed, "-o", "out").code == 0
    before = snapshot(tmp_path)
    told = json.loads(nextscale(*words, 1, "-o", "out").out)
    assert [Path(image["file"]).name for image in told["images"]] == ["cat-face-1-2.png", "cat-face-2-3.png"]
    assert (told["grid"], told["strip"]) == ("out/grid-3.png", "out/strip-3.png")
    assert kept(before, tmp_path)
    assert all(Path(image["file"]).is_file() for image in told["images"])


def test_overwriting_is_not_offered_to_who_asked_for_it(nextscale: Command, tiny_model: Path) -> None:
    words = ["generate", "-c", 0, "--seed", "1,1", "--model", tiny_model, "--overwrite"]
    for _ in range(2):  # of two pictures of one name the second is never written over the first
        done = nextscale(*words)
        assert "counted on: cat-face-1-" in done.err
        assert "--overwrite" not in done.err


def test_pictures_are_replaced_where_that_is_asked_for(nextscale: Command, tiny_model: Path) -> None:
    words = ["generate", "-c", 0, "-n", 2, "--seed", 1, "--model", tiny_model]
    nextscale(*words)
    Image.new("RGB", (4, 4)).save("out/cat-face-1.png")
    done = nextscale(*words, "--overwrite")
    assert "counted on" not in done.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["cat-face-1.png", "cat-face-2.png", "grid.png"]
    assert open_picture("out/cat-face-1.png").size == (16, 16)


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_classes_whose_file_names_are_alike_keep_a_file_each(nextscale: Command, overwrite: list[str]) -> None:
    pipe = tiny_pipeline()
    pipe.vocabulary = ClassVocabulary(("a b", "a-b", "a/b", "?", "café"))
    pipe.save_pretrained("mine")
    names = [word for name in pipe.vocabulary.names for word in ("-c", name)]
    done = nextscale("generate", *names, "--seed", "1,1,1,1,1", "--model", "mine", "--no-grid", *overwrite)
    assert done.code == 0, done.err
    files = sorted(path.name for path in Path("out").iterdir())
    assert files == ["a-b-1-2.png", "a-b-1-3.png", "a-b-1.png", "café-1.png", "class-1.png"]
    assert "5 pictures in out" in done.out
    assert {read_recipe(f"out/{name}")["entry"]["class"] for name in files} == set(pipe.vocabulary.names)


def test_a_very_long_class_name_fits_a_file_name(nextscale: Command) -> None:
    pipe = tiny_pipeline()
    pipe.vocabulary = ClassVocabulary(("猫" * 300, *"abcd"))
    pipe.save_pretrained("mine")
    done = nextscale("generate", "-c", 0, "--seed", 1, "--model", "mine")
    assert done.code == 0, done.err
    assert read_recipe(next(Path("out").iterdir()))["entry"]["class"] == "猫" * 300


def test_one_picture_may_be_given_a_name(nextscale: Command, tiny_model: Path) -> None:
    words = ["generate", "-c", 0, "--model", tiny_model, "--seed", 1]
    done = nextscale(*words, "-o", "new/cat.png")
    assert (done.code, os.listdir("new")) == (0, ["cat.png"])
    assert done.out.startswith("new/cat.png, seed 1")
    before = Path("new/cat.png").read_bytes()
    refused(nextscale(*words, "-o", "new/cat.png"), "new/cat.png exists", "--overwrite")
    assert Path("new/cat.png").read_bytes() == before
    assert nextscale("generate", "-c", 1, "--model", tiny_model, "-o", "new/cat.png", "--overwrite").code == 0
    assert read_recipe("new/cat.png")["entry"]["class"] == "animal-bird"


@pytest.mark.parametrize("more", [["-n", "2"], ["--strip"], ["--grid"], ["-c", "1"]])
def test_a_file_takes_no_second_picture(nextscale: Command, tiny_model: Path, more: list[str]) -> None:
    done = nextscale("generate", "-c", 0, *more, "--model", tiny_model, "-o", "cat.png")
    refused(done, "cat.png is one file", "expected a folder")
    assert os.listdir() == []


def test_a_folder_may_be_called_like_a_picture(nextscale: Command, tiny_model: Path) -> None:
    Path("cats.png").mkdir()
    assert nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "-o", "cats.png").code == 0
    assert os.listdir("cats.png") == ["cat-face-1.png"]


LONG = "x" * 300


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("cat.jpg", "expected a name that ends in .png"),
        ("", "-o is ''; expected a value"),
        (" ", "-o is ' '; expected a value"),
        (LONG, "too long"),
        (f"new/{LONG}", "too long"),
        (f"{LONG}.png", "too long"),
        (f"new/{LONG}.png", "too long"),
        ("/".join(["y" * 200] * 30), "too long"),
        ("/dev/null", "is a device"),
        ("/dev/null/below", "is a device"),
        ("pipe", "is a pipe"),
        ("pipe.png", "is a pipe"),
        ("nowhere.png", "is a link to nowhere"),
        ("text", "is a file; expected a folder"),
        ("text/below", "is a file; expected a folder"),
    ],
)
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_what_cannot_be_written_is_refused_before_anything_is_loaded(
    nextscale: Command, out: str, expected: str, overwrite: list[str], tmp_path: Path
) -> None:
    for name in ("pipe", "pipe.png"):
        os.mkfifo(name)
    Path("nowhere.png").symlink_to("absent")
    Path("text").write_text("mine")
    before = snapshot(tmp_path)
    done = nextscale("generate", "cat", "-o", out, *overwrite)
    refused(done, expected)
    assert " on cpu" not in done.err  # no model was loaded
    assert snapshot(tmp_path) == before


def test_a_link_and_a_pipe_among_pictures_stay(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    Path("out").mkdir()
    Path("thesis.png").write_text("mine")
    Path("out/cat-face-1.png").symlink_to(tmp_path / "thesis.png")
    os.mkfifo("out/cat-face-2.png")
    done = nextscale("generate", "-c", 0, "-n", 2, "--seed", 1, "--model", tiny_model, "--overwrite", "--no-grid")
    assert done.code == 0, done.err
    assert Path("thesis.png").read_text() == "mine"
    assert Path("out/cat-face-1.png").is_symlink()
    assert {"cat-face-1-2.png", "cat-face-2-2.png"} < set(os.listdir("out"))


def test_reconstruct_replaces_nothing(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save("red.png")
    words = ["reconstruct", "red.png", "--model", tiny_model]
    for name in ("red-scales.png", "red-scales-2.png"):
        before = snapshot(tmp_path)
        assert f"out/{name}" in nextscale(*words).out.splitlines()
        assert kept(before, tmp_path)
    before = snapshot(tmp_path)
    refused(nextscale(*words, "-o", "red.png"), "red.png exists")
    assert snapshot(tmp_path) == before
    assert nextscale(*words, "-o", "strip.png").code == 0
    assert read_recipe("strip.png")["picture"] == "red.png"


def test_selftest_replaces_nothing(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    Path("out").mkdir()
    Path("out/selftest-tiny.png").write_text("mine")
    before = snapshot(tmp_path)
    done = nextscale("selftest", tiny_model)
    assert done.code == 0, done.err
    assert kept(before, tmp_path)
    assert "the picture: out/selftest-tiny-2.png" in done.err


def test_runs_replaces_nothing_that_was_named(nextscale: Command, tmp_path: Path) -> None:
    write_log(tmp_path / "run", some_lines())
    for name in ("mine.png", "mine.csv", "mine.txt"):
        Path(name).write_text("mine")
    Path("null").symlink_to("/dev/null")
    before = snapshot(tmp_path)
    for words, expected in (
        (["-o", "mine.png"], "mine.png exists"),
        (["--csv", "mine.csv", "-o", "new.png"], "mine.csv exists"),
        (["-o", "mine.txt"], "mine.txt exists"),
        (["--csv", "."], ". is a folder; expected the name of a file"),
        (["-o", "."], ". is a folder"),
        (["--csv", "null"], "null is a device"),
        (["-o", "null", "--overwrite"], "null is a device"),
        (["--csv", "run"], "run is a folder"),
        (["--csv", "mine.csv/below"], "mine.csv is a file; expected a folder"),
        (["--csv", f"{LONG}.csv"], "too long"),
        (["--csv", "same", "-o", "same"], "both name same"),
        (["-o", "curves.pdf"], "expected a name that ends in .png"),
        (["--csv", ""], "--csv is ''"),
    ):
        refused(nextscale("runs", "run", *words), expected)
    assert snapshot(tmp_path) == before
    done = nextscale("runs", "run", "-o", "mine.png", "--csv", "mine.csv", "--overwrite")
    assert done.code == 0, done.err
    assert Path("mine.csv").read_text().startswith("run,kind,step")
    assert open_picture("mine.png").width > 500


def test_the_curves_without_a_name_take_a_free_one(nextscale: Command, tmp_path: Path) -> None:
    write_log(tmp_path / "run", some_lines())
    for name in ("runs.png", "runs-2.png"):
        before = snapshot(tmp_path)
        assert nextscale("runs", "run").err == f"curves: {name}\n"
        assert kept(before, tmp_path)
