"""``nextscale train`` end to end: train, stop, resume, use the result; and what it refuses, in one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command
from tests.training.tiny import TINY_TOKENIZER, TINY_VAR, write_images


def settings(overrides: list[str]) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def test_tokenizer_then_generator_then_pictures(nextscale: Command, tmp_path: Path) -> None:
    data = write_images(tmp_path / "images")
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", data, "-o", "tok", "--device", "cpu"]
    first = nextscale(*words, "--max-steps", 3, *settings(TINY_TOKENIZER))
    assert (first.code, "3 of 8 steps done" in first.out) == (0, True)
    again = nextscale(*words, *settings(TINY_TOKENIZER))
    assert (again.code, "8 of 8 steps done" in again.out) == (0, True)
    assert "resuming after step 3" in again.err

    words = [
        "train",
        "var",
        "--recipe",
        "var-emoji",
        "--data",
        data,
        "--tokenizer",
        "tok",
        "-o",
        "var",
        "--device",
        "cpu",
    ]
    trained = nextscale(*words, "--max-steps", 2, *settings(TINY_VAR))
    assert (trained.code, "accuracy" in trained.out) == (0, True)
    price, cost = trained.err.index("GFLOP per image"), trained.err.index("times the predicted")
    assert price < cost
    more = ["train", "var", "--recipe", "var-emoji", "--data", data, "-o", "more", "--device", "cpu", "--init", "var"]
    grown = nextscale(*more, "--max-steps", 1, *settings(TINY_VAR))  # with the tokenizer of the run
    assert grown.code == 0, grown.err
    drawn = nextscale("generate", "--model", "var/export", "--class", "warm", "--seed", 1, "-o", "out")
    assert drawn.code == 0, drawn.err
    assert list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["painter", "--recipe", "tokenizer-emoji"], "nothing to train called 'painter'"),
        (["tokenizer", "--recipe", "tokenizer-emojy"], "did you mean 'tokenizer-emoji'?"),
        (["tokenizer", "--recipe", "tokenizer-emoji", "--set", "optim.lrr=1"], "did you mean 'optim.lr'?"),
        (["tokenizer", "--recipe", "tokenizer-emoji"], "nowhere"),
        (["var", "--recipe", "var-emoji"], "--tokenizer"),
        (["tokenizer", "--recipe", "tokenizer-emoji", "--device", "abacus"], "no device 'abacus'"),
    ],
)
def test_what_is_refused(nextscale: Command, words: list[str], message: str, tmp_path: Path) -> None:
    done = nextscale("train", *words, "--data", "nowhere", "-o", "run")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not (tmp_path / "run").exists()


def test_the_data_are_told_before_anything_is_trained(nextscale: Command, tmp_path: Path) -> None:
    data = write_images(tmp_path / "images")
    (data / "train" / "warm" / "1.heic").write_text("x")
    (data / "metadata.jsonl").write_text('{"file_name": "train/cold/00.png", "text": "a cold one"}')
    Image.new("RGB", (9, 9)).save(data / "val" / "warm" / "tiny.png")
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", data, "-o", "tok", "--device", "cpu"]
    refused = nextscale(*words, "--max-steps", 1, *settings(TINY_TOKENIZER))
    assert (refused.code, "--skip-small" in refused.err) == (2, True)
    done = nextscale(*words, "--max-steps", 1, "--skip-small", *settings(TINY_TOKENIZER))
    assert done.code == 0, done.err
    line = (
        f"{data}: 13 images to train on and 5 held out, 2 classes (cold, warm); split: the folders train and val; "
        "passed over: 1 file (1 .heic), for instance train/warm/1.heic"
    )
    assert done.err.index(line) < done.err.index("GFLOP per image")
    assert "metadata.jsonl is not used: it has no column label (its columns: file_name, text)" in done.err
    assert "1 of 6 images are smaller than 16 pixels and left out" in done.err


MINE = (
    "recipe.yaml",
    "log.jsonl",
    "price.json",
    "digests.json",
    "export/model.safetensors",
    "checkpoints/tmp-1/a",
    ".notes.1.tmp",
)


@pytest.mark.parametrize("name", MINE)
def test_a_folder_that_holds_what_a_run_would_replace_is_left_alone(
    nextscale: Command, tmp_path: Path, name: str
) -> None:
    data, mine = write_images(tmp_path / "images"), tmp_path / "home" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("kind: of mine")
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", data, "--device", "cpu"]
    done = nextscale(*words, "-o", "home", "--max-steps", 1, *settings(TINY_TOKENIZER))
    assert (done.code, done.out) == (2, "")
    assert "is no run's folder" in done.err
    assert [path for path in (tmp_path / "home").rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "kind: of mine"


@pytest.mark.parametrize("place", ["images", "images/run", "link/run"])
def test_a_run_is_not_put_among_the_pictures_it_learns(nextscale: Command, tmp_path: Path, place: str) -> None:
    data = write_images(tmp_path / "images")
    (tmp_path / "link").symlink_to(data)
    before = sorted(tmp_path.rglob("*"))
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", data, "--device", "cpu"]
    done = nextscale(*words, "-o", place, "--max-steps", 1, *settings(TINY_TOKENIZER))
    assert (done.code, done.out) == (2, "")
    assert f"the run folder {place} lies in the data folder" in done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_other_files_beside_a_run_stay(nextscale: Command, tmp_path: Path) -> None:
    data, home = write_images(tmp_path / "images"), tmp_path / "home"
    for name in ("thesis.tex", "samples/mine.png", "checkpoints/notes.txt"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("mine")
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", data, "--device", "cpu", "-o", home]
    for steps in (1, 2):
        done = nextscale(*words, "--max-steps", steps, *settings(TINY_TOKENIZER))
        assert done.code == 0, done.err
    for name in ("thesis.tex", "samples/mine.png", "checkpoints/notes.txt"):
        assert (home / name).read_text() == "mine"


def test_a_busy_machine_is_told_before_training_with_the_setting_that_helps(
    nextscale: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextscale.device._share_of_time", lambda threads: 0.3)
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    data = write_images(tmp_path / "images")
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", data, "-o", "tok", "--device", "cpu"]
    done = nextscale(*words, "--max-steps", 1, *settings(TINY_TOKENIZER))
    assert done.code == 0
    assert done.err.index("the machine is busy") < done.err.index("GFLOP per image")
    assert "OMP_NUM_THREADS=1" in done.err


FILES_OF_RECIPES = {
    "deep": b"[" * 200_000,
    "deep tables": b"{a: " * 200_000,
    "no UTF-8": b"kind: \xff",
    "digits": b"kind: tokenizer\nrun: {batch: " + b"1" * 5000 + b"}",
    "twice": b"kind: tokenizer\nkind: var\n",
    "a text": b"tokenizer",
    "laughs": b"a0: &a0 [x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 20)),
}


@pytest.mark.parametrize("name", FILES_OF_RECIPES)
def test_recipe_files_that_are_none(
    nextscale: Command,
    tmp_path: Path,
    name: str,
) -> None:
    (tmp_path / "r.yaml").write_bytes(FILES_OF_RECIPES[name])
    told = nextscale("train", "tokenizer", "--recipe", "r.yaml", "--data", "nowhere", "-o", "run", "--device", "cpu")
    assert told.code == 2
    assert "r.yaml" in told.err
    assert len(told.err) < 1000


def test_a_cache_for_what_caches_nothing_is_refused(nextscale: Command, tmp_path: Path) -> None:
    data = write_images(tmp_path / "images")
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", data, "-o", "run", "--cache", "tokens"]
    told = nextscale(*words, *settings(TINY_TOKENIZER))
    assert told.code == 2
    assert re.search(r"--cache tokens was given, but training a tokenizer\s+encodes no tokens", told.err)
    assert not (tmp_path / "run").exists()
