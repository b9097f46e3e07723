"""What is written beside the pictures: animations, larger pictures, and whole labels; and what is opened."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

import nextscale as library
from nextscale.pictures import enlarged, open_picture, read_recipe, save_png
from tests.cli.conftest import Command
from tests.cli.test_generate import pixels, refused


def frames(path: Path | str) -> list[tuple[Image.Image, int]]:
    """The pictures of an animation, each with the milliseconds it is shown."""
    with Image.open(path) as file:
        shown = []
        for i in range(getattr(file, "n_frames", 1)):
            file.seek(i)
            shown.append((file.convert("RGB"), file.info["duration"]))
        assert file.info["loop"] == 0
        return shown


def test_one_picture_grows_in_an_animation(nextscale: Command, tiny_model: Path) -> None:
    """Its last frame is the picture, and what is seen before are the columns of the strip."""
    words = ["generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--strip"]
    done = nextscale(*words, "--animate", "new/cat.webp")
    assert done.code == 0, done.err
    assert done.out.startswith("out/cat-face-1.png, seed 1; out/strip.png; new/cat.webp (")
    shown = frames("new/cat.webp")
    assert [milliseconds for _, milliseconds in shown] == [400, 400, 400, 2000]
    assert shown[-1][0].tobytes() == enlarged(open_picture("out/cat-face-1.png"), 4).tobytes()
    strip = open_picture("out/strip.png")
    columns = [strip.crop((8 + 72 * k, 8, 72 + 72 * k, 72)) for k in range(4)]
    assert [frame.tobytes() for frame, _ in shown] == [column.tobytes() for column in columns]
    told = json.loads(nextscale(*words, "--animate", "cat.GIF", "--json").out)
    assert told["animation"] == "cat.GIF"
    assert [frame.size for frame, _ in frames("cat.GIF")] == [(64, 64)] * 4


def test_several_pictures_grow_on_their_page(nextscale: Command, styled_model: Path) -> None:
    words = ["-c", "face", "-c", "flag", "--style", "all", "--seed", 1, "--model", styled_model]
    assert nextscale("generate", *words, "--animate", "all.webp").code == 0
    assert frames("all.webp")[-1][0].tobytes() == pixels("out/grid.png")
    assert nextscale("generate", *words, "--animate", "bare.webp", "--no-grid", "-o", "bare").code == 0
    assert frames("bare.webp")[-1][0].tobytes() == pixels("out/grid.png")
    assert not Path("bare/grid.png").exists()


def test_an_animation_replaces_nothing_unasked(nextscale: Command, tiny_model: Path) -> None:
    words = ["generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--animate"]
    Path("mine.gif").write_text("mine")
    Path("folder.gif").mkdir()
    for name, expected in (
        ("mine.gif", "mine.gif exists; choose another name, or --overwrite"),
        ("folder.gif", "is a folder; expected the name of a file"),
        ("cat.mp4", "cat.mp4 is no name of an animation; expected one that ends in .webp or .gif"),
        ("cat", "cat is no name of an animation"),
        ("mine.gif/cat.gif", "mine.gif is a file; expected a folder"),
        (f"{'x' * 300}.gif", "too long"),
        ("", "--animate is ''"),
    ):
        done = nextscale(*words, name)
        refused(done, expected)
        assert " on cpu" not in done.err  # no model was loaded
    assert sorted(os.listdir()) == ["folder.gif", "mine.gif"]
    assert Path("mine.gif").read_text() == "mine"
    assert nextscale(*words, "mine.gif", "--overwrite").code == 0
    assert len(frames("mine.gif")) == 4
    refused(nextscale(*words, "many.gif", "-n", 101), "--animate with 101 pictures makes too large a page")


def test_one_file_may_have_an_animation_beside_it(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("generate", "-c", 0, "--model", tiny_model, "-o", "cat.png", "--animate", "cat.webp")
    assert done.code == 0, done.err
    assert sorted(os.listdir()) == ["cat.png", "cat.webp"]


def test_pictures_are_enlarged_as_their_recipe_says(nextscale: Command, tiny_model: Path) -> None:
    """Pages show them as large; ``--like`` and Python repeat them, alone and from the grid, at another size too."""
    words = ["generate", "-c", 0, "-c", 1, "--seed", 1, "--model", tiny_model, "--dtype", "float32"]
    for out, more in (("small", []), ("large", ["--enlarge", 5])):
        assert nextscale(*words, *more, "-o", out).code == 0
    small, large = open_picture("small/cat-face-1.png"), open_picture("large/cat-face-1.png")
    assert large.tobytes() == small.resize((80, 80), Image.Resampling.LANCZOS).tobytes()
    assert read_recipe("large/cat-face-1.png") == read_recipe("small/cat-face-1.png") | {"enlarge": 5}
    assert open_picture("large/grid.png").crop((8, 8, 88, 88)).tobytes() == large.tobytes()
    for name in ("cat-face-1.png", "grid.png"):
        done = nextscale("generate", "--like", f"large/{name}", "--model", tiny_model, "-o", "again")
        assert done.code == 0, done.err
        assert Path(f"again/{name}").read_bytes() == Path(f"large/{name}").read_bytes()
        repeated = library.load(tiny_model, dtype="float32").repeat(f"large/{name}")
        assert repeated.images[0].tobytes() == large.tobytes()
    like = ["generate", "--like", "large/cat-face-1.png", "--model", tiny_model, "--enlarge"]
    for factor, size in ((1, 16), (3, 48)):
        assert nextscale(*like, factor, "-o", f"by-{factor}").code == 0
        assert open_picture(f"by-{factor}/cat-face-1.png").size == (size, size)
    assert Path("by-1/cat-face-1.png").read_bytes() == Path("small/cat-face-1.png").read_bytes()


def test_an_enlarged_picture_is_edited_and_reconstructed_like_any_other(nextscale: Command, tiny_model: Path) -> None:
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--enlarge", 3, "-o", "cat.png")
    edit = ["edit", "cat.png", "--box", "0,0,24,24", "-c", "flag", "--model", tiny_model, "--seed", 2]
    assert nextscale(*edit, "-o", "edited.png").code == 0
    assert open_picture("edited.png").size == (48, 48)
    assert "enlarge" not in read_recipe("edited.png")
    assert nextscale("reconstruct", "cat.png", "--model", tiny_model).code == 0
    edited = library.load(tiny_model).edit("cat.png", "flag", box=(0, 0, 24, 24), seed=2)
    (saved,) = edited.enlarged(2).save("larger.png")
    done = nextscale("edit", "cat.png", "--like", saved, "--model", tiny_model, "-o", "again.png")
    assert done.code == 0, done.err
    assert Path("again.png").read_bytes() == saved.read_bytes()


@pytest.mark.parametrize("factor", [0, -1, "x", 1.5])
def test_what_is_no_factor_is_refused(nextscale: Command, tiny_model: Path, factor: object) -> None:
    refused(nextscale("generate", "-c", 0, "--model", tiny_model, f"--enlarge={factor}"), "--enlarge")


def test_pictures_that_no_program_would_open_are_refused(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("generate", "-c", 0, "--model", tiny_model, "--enlarge", 560)
    refused(done, "pictures of 16x16 pixels cannot be enlarged by 560; expected a whole number from 1 to 559")
    nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "-o", "cat.png")
    recipe = read_recipe("cat.png")
    for odd, expected in (
        (10**9, "cannot be enlarged by 1000000000"),
        (0, "the enlargement 0"),
        ("2", "enlargement '2'"),
    ):
        save_png(open_picture("cat.png"), "odd.png", recipe | {"enlarge": odd}, overwrite=True)
        refused(nextscale("generate", "--like", "odd.png", "--model", tiny_model), expected)
    assert sorted(os.listdir()) == ["cat.png", "odd.png"]


@pytest.mark.parametrize(
    ("more", "opened"),
    [
        ([], "out/cat-face-1.png"),
        (["-n", 2], "out/grid.png"),
        (["-n", 2, "--no-grid"], "out"),
        (["-n", 2, "--animate", "cats.webp"], "cats.webp"),
        (["-o", "cat.png"], "cat.png"),
    ],
)
def test_what_shows_all_is_opened(
    nextscale: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, more: list[object], opened: str
) -> None:
    seen: list[str] = []

    def launch(path: str) -> int:
        seen.append(path)
        return 0

    monkeypatch.setattr("typer.launch", launch)
    monkeypatch.setenv("DISPLAY", ":0")
    done = nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, *more, "--open")
    assert done.code == 0, done.err
    assert seen == [str(Path(opened).absolute())]
    assert "not opened" not in done.err


@pytest.mark.parametrize(("display", "why"), [("", "there is no display here"), (":0", "this system has no viewer")])
def test_where_nothing_can_be_opened_it_is_said_and_the_picture_is_there(
    nextscale: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, display: str, why: str
) -> None:
    monkeypatch.setattr("typer.launch", lambda path: 1)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    done = nextscale("generate", "-c", 0, "--seed", 1, "--model", tiny_model, "--open")
    assert done.code == 0
    assert done.out.startswith("out/cat-face-1.png, seed 1")
    assert f"out/cat-face-1.png is not opened, since {why}" in done.err
    assert Path("out/cat-face-1.png").is_file()
