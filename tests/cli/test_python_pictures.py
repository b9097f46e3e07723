"""The command line and Python draw one another's pictures: no class, words for classes, and recipes from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nextscale.pipeline import load
from tests.cli.conftest import Command


def test_no_class_is_drawn_named_and_repeated(nextscale: Command, styled_model: Path) -> None:
    words = ["-c", "unconditional", "-c", "face", "--seed", 3, "--model", styled_model, "--dtype", "float32"]
    done = nextscale("generate", *words, "-o", "a", "--json")
    assert [Path(image["file"]).name for image in json.loads(done.out)["images"]] == [
        "unconditional-3.png",
        "face-noto-4.png",
    ]
    for name in ("unconditional-3.png", "grid.png"):
        again = nextscale("generate", "--like", f"a/{name}", "--model", styled_model, "-o", "b")
        assert again.code == 0, again.err
    for name in ("unconditional-3.png", "face-noto-4.png"):
        with Image.open(f"a/{name}") as first, Image.open(f"b/{name}") as second:
            assert first.tobytes() == second.tobytes()


def test_a_class_may_be_named_by_a_word_and_the_class_is_said(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("generate", "-c", "apple", "--seed", 1, "--model", tiny_model, "--json")
    assert json.loads(done.out)["images"][0]["class"] == "food-fruit"
    assert "food-fruit" in done.err
    done = nextscale("generate", "-c", "aplpe", "--model", tiny_model)
    assert (done.code, "did you mean 'apple'?" in done.err) == (2, True)


@pytest.mark.parametrize("way", ["image", "result", "folder", "grid"])
def test_pictures_saved_from_python_can_be_repeated(nextscale: Command, tiny_model: Path, way: str) -> None:
    pipe = load(tiny_model, device="cpu", dtype="float32")
    result, path = pipe(["cat-face", None], seed=5) if way == "grid" else pipe("flag", seed=5), Path("saved.png")
    if way == "image":
        result.images[0].save(path)
    elif way == "result":
        result.save(path)
    elif way == "folder":
        (path,) = result.save("folder")
    else:
        result.grid().save(path)
    done = nextscale("generate", "--like", path, "--model", tiny_model, "-o", "again", "--json")
    assert done.code == 0, done.err
    written = [image["file"] for image in json.loads(done.out)["images"]]
    for file, image in zip(written, result, strict=True):
        with Image.open(file) as again:
            assert again.tobytes() == image.tobytes()


def test_a_picture_that_a_callback_changed_says_that_it_cannot_be_repeated(
    nextscale: Command, tiny_model: Path
) -> None:
    pipe = load(tiny_model, device="cpu", dtype="float32")
    pipe("flag", seed=5, callback_on_scale_end=lambda event: event.k < 1).save("stopped.png")
    done = nextscale("generate", "--like", "stopped.png", "--model", tiny_model)
    assert (done.code, "a callback stopped it" in done.err) == (2, True)
