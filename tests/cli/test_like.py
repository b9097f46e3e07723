"""``--like`` repeats what a picture says of itself, and ends in one sentence whatever a foreign picture says."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

import nextscale as library
from nextscale.pictures import open_picture, read_recipe, save_png
from tests.cli.conftest import Command
from tests.cli.test_generate import pixels, refused


def picture_with(text: str, name: str = "odd.png") -> str:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("nextscale", text)
    Image.new("RGB", (4, 4)).save(name, pnginfo=info)
    return name


def test_a_picture_that_python_saved_is_repeated(nextscale: Command, styled_model: Path) -> None:
    pipe = library.load(styled_model, dtype="float32")
    result = pipe(class_labels=["face", "flag"], style="twemoji", seed=[5, 9])
    result.images[1].save("second.png")
    done = nextscale("generate", "--like", "second.png", "--model", styled_model)
    assert done.code == 0, done.err
    assert os.listdir("out") == ["flag-twemoji-9.png"]
    assert pixels("out/flag-twemoji-9.png") == result.images[1].tobytes()


def test_python_repeats_what_the_command_line_drew(nextscale: Command, styled_model: Path) -> None:
    words = ["-c", "face", "-c", "unconditional", "--seed", 3, "--temperature", 1.2, "--guidance-scale", 2]
    assert nextscale("generate", *words, "--model", styled_model, "--dtype", "float32").code == 0
    pipe = library.load(styled_model, dtype="float32")
    assert pipe.repeat("out/unconditional-4.png").images[0].tobytes() == pixels("out/unconditional-4.png")
    both = pipe.repeat("out/grid.png")
    assert [image.tobytes() for image in both.images] == [
        pixels("out/face-noto-3.png"),
        pixels("out/unconditional-4.png"),
    ]


def test_another_number_type_is_warned_of(nextscale: Command, tiny_model: Path) -> None:
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--dtype", "float32")
    like = ["generate", "--like", "out/cat-face-1.png", "--model", tiny_model, "-o", "new"]
    assert "drawn in float32, and this is bfloat16" in nextscale(*like, "--dtype", "bfloat16").err
    assert "drawn in" not in nextscale(*like).err
    with pytest.warns(UserWarning, match="drawn in float32, and this is bfloat16"):
        library.load(tiny_model, dtype="bfloat16").repeat("out/cat-face-1.png")


@pytest.mark.parametrize(
    "name", ["../../etc", "..", ".", "org/repo", "/etc", "tiny", "~", "a\\b", "file:///x", "x" * 100000, "", "\x1b[2J"]
)
def test_a_model_that_a_picture_names_is_not_looked_for(
    nextscale: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "-o", "first")
    Path("tiny").symlink_to(tiny_model)
    save_png(open_picture("first/cat-face-1.png"), "odd.png", read_recipe("first/cat-face-1.png") | {"model": name})

    def looked(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was looked for")

    monkeypatch.setattr(library, "load", looked)
    monkeypatch.setattr("nextscale.pipeline.load", looked)
    done = nextscale("generate", "--like", "odd.png")
    refused(done, "name its folder with --model")
    assert "\x1b" not in done.err
    assert not Path("out").exists()


def test_a_published_model_is_not_fetched_for_a_picture(nextscale: Command, tiny_model: Path) -> None:
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model)
    save_png(open_picture("out/cat-face-1.png"), "odd.png", read_recipe("out/cat-face-1.png") | {"model": "var-d16"})
    refused(nextscale("generate", "--like", "odd.png"), "the weights of var-d16 are not here yet")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"model": ' + "9" * 5000 + "}",
        '{"model": "tiny", "seed": ' + "9" * 5000 + "}",
        "9" * 5000,
        "null",
        '"text"',
        "{}",
        "{",
        "\x00",
        json.dumps({"model": "x" * 3_000_000}),
        json.dumps({"class_label": "x" * 3_000_000, "seed": 1, "model": "a", "dtype": "float32", "plan": {}}),
    ],
    ids=lambda text: text[:12],
)
def test_a_recipe_that_is_no_recipe_ends_in_one_short_sentence(nextscale: Command, tiny_model: Path, text: str) -> None:
    done = nextscale("generate", "--like", picture_with(text), "--model", tiny_model)
    refused(done, "recipe")
    assert len(done.err) < 1500
    assert not Path("out").exists()


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of plain data lies."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    1e308,
    2**63,
    10**400,
    "",
    "x",
    "tokenizer",
    [],
    [0],
    ["x"],
    [None],
]
ODD += [[[]], [1, 1], [0.5, 0.5], {}, {"a": 1}, {"rows": []}, "a" * 10000, "\x1b[31m"]


def test_no_recipe_that_was_changed_ends_in_a_traceback(nextscale: Command, styled_model: Path) -> None:
    """Hundreds of recipes, each with a value exchanged or gone; the fixture fails on anything but a sentence."""
    words = ["-c", "face", "-c", "flag", "--seed", 1, "--guidance-scale", 2, "--top-k", 5, "--model", styled_model]
    assert nextscale("generate", *words, "-o", "first").code == 0
    good, chance, drawn = read_recipe("first/grid.png"), random.Random(0), 0
    for i in range(200):
        recipe = deepcopy(good)
        *path, last = chance.choice([place for place in places(recipe) if place])
        holder = recipe
        for key in path:
            holder = holder[key]
        if chance.random() < 0.2:
            del holder[last]
        else:
            holder[last] = deepcopy(chance.choice(ODD))
        done = nextscale("generate", "--like", picture_with(json.dumps(recipe)), "--model", styled_model, "-o", f"o{i}")
        assert done.code in (0, 2), (recipe, done)
        assert len(done.err) < 2500
        assert Path(f"o{i}").exists() == (done.code == 0)
        drawn += done.code == 0
    assert 0 < drawn < 100
