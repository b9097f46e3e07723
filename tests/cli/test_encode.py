"""``nextscale encode`` and ``decode``: tokens of pictures go into a file and come out as the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nextscale.pipeline import load
from tests.cli.conftest import Command

EXACT = ("--device", "cpu", "--dtype", "float32")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "in" / name for name in ("one.png", "two.png")]
    paths[0].parent.mkdir()
    for path, colour in zip(paths, ("red", "blue"), strict=True):
        image = Image.new("RGB", (40, 30), colour)
        image.paste("white", (5, 5, 20, 25))
        image.save(path)
    return paths


def test_pictures_come_back_as_their_reconstructions(
    nextscale: Command, tiny_model: Path, pictures: list[Path]
) -> None:
    done = nextscale("encode", *pictures, "--model", tiny_model, *EXACT)
    assert done.code == 0
    assert done.out == "tokens.safetensors: 2 pictures, 30 tokens each, on the scales 1x1 2x2 3x3 4x4\n"
    done = nextscale("decode", "tokens.safetensors", "--model", tiny_model, *EXACT)
    assert done.out.split() == ["out/one.png", "out/two.png"]
    pipe = load(tiny_model, device="cpu", dtype="float32")
    for path in pictures:
        with Image.open(path) as image, Image.open(Path("out") / path.name) as again:
            assert again.tobytes() == pipe.reconstruct(image)[-1].tobytes()


def test_nothing_is_replaced_unasked(nextscale: Command, tiny_model: Path, pictures: list[Path]) -> None:
    mine = Path("mine.safetensors")
    mine.write_text("mine")
    refused = nextscale("encode", pictures[0], "-o", mine, "--model", tiny_model)
    assert refused.code == 2
    assert "mine.safetensors exists; choose another name, or --overwrite" in refused.err
    assert mine.read_text() == "mine"
    done = nextscale("encode", pictures[0], "-o", mine, "--model", tiny_model, "--overwrite", "--json")
    assert json.loads(done.out)["tokens"] == "mine.safetensors"
    for name in ("one.png", "one-2.png"):
        done = nextscale("decode", mine, "-o", "here", "--model", tiny_model, "--json")
        assert json.loads(done.out)["pictures"] == [f"here/{name}"]


def test_what_cannot_be_encoded_or_decoded(
    nextscale: Command, tiny_model: Path, styled_model: Path, pictures: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    for words, sentence in (
        (["encode", "none.png"], "there is no file none.png"),
        (["encode", "text.png"], "text.png cannot be read as a picture"),
        (["encode", "text.png"], "a file of prompts is told by its ending, .txt"),
        (["encode", pictures[0], "-o", tmp_path], "is a folder; expected the name of a file"),
        (["decode", "none.safetensors"], "there is no file none.safetensors"),
        (["decode", "text.png"], "text.png cannot be read"),
        (["decode", tmp_path], "is a folder; expected one that nextscale encode wrote"),
        (["decode", "/dev/null"], "/dev/null is a device; expected one that nextscale encode wrote"),
        (["decode", "text.png", "-o", "text.png"], "text.png exists; choose another name"),
    ):
        done = nextscale(*words, "--model", tiny_model)
        assert done.code == 2
        assert sentence in done.err
    assert not Path("tokens.safetensors").exists()
