"""Which model draws where none is named: words are drawn as a text where a bundled model reads texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nextscale.cli.asked import Asked
from nextscale.cli.chosen import default_model
from nextscale.pictures import read_recipe
from tests.cli.conftest import Command

SAID = "emoji-text draws the words as a text; --class, or --model emoji-m-var, draws classes\n"


@pytest.fixture
def classes_alone(tmp_path: Path, styled_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of bundled models in which one, of classes and styles, is the default."""
    folder = tmp_path / "bundled"
    folder.mkdir()
    (folder / "emoji-m-var").symlink_to(styled_model)
    monkeypatch.setattr("nextscale.checkpoints.load.BUNDLED", folder)
    return folder


@pytest.fixture
def with_text(classes_alone: Path, text_model: Path) -> Path:
    """The same, with a model of texts beside it."""
    (classes_alone / "emoji-text").symlink_to(text_model)
    return classes_alone


def asked(*words: str, classes: tuple[str, ...] = (), styles: tuple[str, ...] = ()) -> Asked:
    return Asked([*words], [*classes], [*styles], None, None, None, {})


def drawn_by(file: str) -> str:
    return str(read_recipe(Path("out") / file)["model"])


def test_without_a_bundled_text_model_classes_are_drawn(classes_alone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for one in (asked("face"), asked("a face", "flag"), asked(classes=("face",)), asked("face", styles=("noto",))):
        assert default_model(one) == "emoji-m-var"
    assert capfd.readouterr().err == ""


def test_words_are_drawn_as_a_text(with_text: Path, nextscale: Command) -> None:
    done = nextscale("generate", "a red heart", "blue sky", "--negative-prompt", "grey", "--seed", 1)
    assert done.code == 0, done.err
    assert done.err.startswith(f"{SAID}emoji-text on cpu")
    assert "class of" not in done.err
    assert drawn_by("a-red-heart-1.png") == "emoji-text"
    assert read_recipe("out/blue-sky-2.png")["entry"] == {"prompt": "blue sky", "negative_prompt": "grey"}
    again = nextscale("generate", "--like", "out/grid.png", "-o", "again")
    assert again.code == 0, again.err
    assert SAID not in again.err
    assert Path("again/blue-sky-2.png").read_bytes() == Path("out/blue-sky-2.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"), [(["Face"], "'Face'"), (["a cat", "flag"], "'flag'"), (["unconditional"], "'unconditional'")]
)
def test_a_prompt_that_is_a_class_name_too_is_a_text_and_that_is_said(
    with_text: Path, nextscale: Command, words: list[str], said: str
) -> None:
    done = nextscale("generate", *words, "--seed", 1)
    assert done.code == 0, done.err
    name = said.strip("'")
    assert done.err.startswith(f"{SAID}{said} is a class of emoji-m-var, too, which --class {name} draws\n")
    assert drawn_by(f"{words[0].replace(' ', '-')}-1.png") == "emoji-text"


@pytest.mark.parametrize("words", [["-c", "face"], ["face", "--model", "emoji-m-var"]])
def test_classes_are_drawn_as_before(with_text: Path, nextscale: Command, words: list[str]) -> None:
    done = nextscale("generate", *words, "--seed", 1)
    assert done.code == 0, done.err
    assert done.err.startswith("emoji-m-var on cpu")
    assert drawn_by("face-noto-1.png") == "emoji-m-var"


def test_words_with_a_style_are_drawn_as_a_text_that_says_it(
    classes_alone: Path, text_model: Path, nextscale: Command
) -> None:
    shutil.copytree(text_model, classes_alone / "emoji-text")
    file = classes_alone / "emoji-text" / "config.json"
    config = json.loads(file.read_text())
    config["conditioner"]["config"]["styles"] = {"openmoji": "blue sky", "noto": "snow"}
    file.write_text(json.dumps(config))
    done = nextscale("generate", "a fox", "--style", "all", "--seed", 1)
    assert done.code == 0, done.err
    for name, words in (("a-fox-blue-sky-1.png", "a fox, blue sky"), ("a-fox-snow-2.png", "a fox, snow")):
        assert read_recipe(Path("out") / name)["entry"]["prompt"] == words
        assert drawn_by(name) == "emoji-text"
    done = nextscale("generate", "a fox", "--style", "none")
    assert "style is 'none'; expected one of openmoji, noto\n" in done.err
    assert nextscale("info", "emoji-text").out.count("styles    openmoji, noto\n") == 1


def test_a_picture_is_edited_by_the_model_that_would_draw_the_words(with_text: Path, nextscale: Command) -> None:
    nextscale("generate", "-c", "face", "--seed", 1)
    done = nextscale("edit", "out/face-noto-1.png", "a red hat", "--box", "0,0,16,8", "-o", "edited.png")
    assert done.code == 0, done.err
    assert read_recipe("edited.png")["model"] == "emoji-text"
    done = nextscale("edit", "out/face-noto-1.png", "--box", "0,0,16,8", "-o", "any.png")
    assert read_recipe("any.png")["model"] == "emoji-m-var"
