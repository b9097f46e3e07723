"""The command line loads what earlier versions wrote, and draws the same; see tests/test_stored.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.cli.conftest import Command
from tests.test_stored import FOLDERS, PICTURES, STORED, listed, load, looks_like, picture

EXACT = ("--device", "cpu", "--dtype", "float32")


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_repeated_by_the_command_line(nextscale: Command, name: str) -> None:
    """And what it writes now says the same of itself."""
    stored = PICTURES[name]
    words = ["--like", picture(name), "--model", STORED / stored["model"], "--device", "cpu", "--json"]
    done = nextscale("generate", *words)
    assert (done.code, "differ" in done.err) == (0, False), done.err
    told, pipe = json.loads(done.out), load(stored["model"])
    wanted = pipe.repeat(picture(name)).images
    for image, shown in zip(wanted, told["images"], strict=True):
        with Image.open(shown["file"]) as drawn:
            assert looks_like(image, drawn)
    written = told["grid"] if len(wanted) > 1 else told["images"][0]["file"]
    assert listed(pipe.repeat(written).tokens) == stored["tokens"]


def test_what_could_not_be_repeated_still_says_so(nextscale: Command) -> None:
    done = nextscale("generate", "--like", picture("not-repeatable"), "--model", STORED / "styles")
    assert done.code == 2
    assert "cannot be repeated" in done.err


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_checkpoint_is_what_it_was(nextscale: Command, folder: str) -> None:
    """Name, revision, defaults, classes and styles, as the files of the time say."""
    config = json.loads((STORED / folder / "config.json").read_text())
    noted = json.loads((STORED / folder / "digests.json").read_text())
    classes = STORED / folder / "classes.json"
    names = json.loads(classes.read_text())["names"] if classes.is_file() else [str(i) for i in range(9)]
    done = nextscale("info", STORED / folder, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert (told["name"], told["revision"], told["defaults"]) == (
        config["name"],
        noted["revision"],
        config["defaults"],
    )
    assert (told["classes"], bool(told["styles"])) == (names, folder == "styles")
    pipe = load(folder)
    assert (pipe.name, pipe.revision) == (told["name"], told["revision"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_checkpoint_is_priced(
    nextscale: Command, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its configuration alone."""
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))
    done = nextscale("plan", STORED / folder)
    assert done.code == 0, done.err
    assert "30 tokens on 4 scales" in done.out


@pytest.mark.parametrize("component", ["tokenizer", "model"])
def test_a_converted_checkpoint_goes_back_to_its_official_file(nextscale: Command, component: str) -> None:
    done = nextscale("convert", STORED / "converted", "--export", component, "-o", "back.safetensors")
    assert done.code == 0, done.err
    found = hashlib.sha256()
    for name, t in sorted(load_file("back.safetensors").items()):
        found.update(f"{name} {tuple(t.shape)}".encode() + t.double().contiguous().numpy().tobytes())
    assert found.hexdigest() == json.loads((STORED / "official.json").read_text())[component]


def test_encoded_pictures_are_decoded(nextscale: Command) -> None:
    done = nextscale("decode", STORED / "encoded.safetensors", "--model", STORED / "styles", *EXACT)
    assert done.code == 0, done.err
    for path in (STORED / "decoded").iterdir():
        with Image.open(path) as wanted, Image.open(Path("out") / path.name) as found:
            assert looks_like(wanted, found)


def test_pictures_are_encoded_as_they_were(nextscale: Command) -> None:
    done = nextscale("encode", picture("plain"), picture("guided"), "--model", STORED / "styles", *EXACT)
    assert done.code == 0, done.err
    wanted, found = load_file(STORED / "encoded.safetensors"), load_file("tokens.safetensors")
    assert {name: t.tolist() for name, t in found.items()} == {name: t.tolist() for name, t in wanted.items()}
