"""What words on the command line mean: prompts, classes by a word, slips, and how many pictures they may ask for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.test_generate import pixels, refused


def drawn(nextscale: Command, *words: object) -> list[str]:
    """The classes of the pictures that a command draws."""
    done = nextscale("generate", *words, "--seed", 1, "--json")
    assert done.code == 0, done.err
    return [image["class"] for image in json.loads(done.out)["images"]]


def test_several_words_are_one_prompt_and_that_is_said(nextscale: Command, tiny_model: Path) -> None:
    assert drawn(nextscale, "red", "apple", "--model", tiny_model) == ["food-fruit"]
    done = nextscale("generate", "grinning", "cat", "--model", tiny_model)
    assert "these words are one prompt, 'grinning cat'; a picture for each: -c grinning -c cat" in done.err


@pytest.mark.parametrize("words", [["red apple", "grinning cat"], ["red apple", "cat"]])
def test_every_argument_is_a_prompt_once_one_holds_a_space(
    nextscale: Command, tiny_model: Path, words: list[str]
) -> None:
    assert drawn(nextscale, *words, "--model", tiny_model) == ["food-fruit", "cat-face"]
    done = nextscale("generate", *words, "--model", tiny_model, "-n", 2, "--seed", 1, "-o", "new")
    assert [f"{text!r} is drawn as" in done.err for text in words] == [True, True]
    assert "one prompt" not in done.err
    assert "4 pictures in new" in done.out
    assert len(os.listdir("new")) == 5


def test_a_class_is_found_by_a_word_and_that_is_said(nextscale: Command, tiny_model: Path) -> None:
    assert drawn(nextscale, "-c", "apple", "-c", "smile", "-c", "tool", "-c", "1", "--model", tiny_model) == [
        "food-fruit",
        "cat-face",
        "tool",
        "animal-bird",
    ]
    done = nextscale("generate", "-c", "apple", "-c", "tool", "--model", tiny_model)
    assert "'apple' is drawn as food-fruit" in done.err
    assert "'tool'" not in done.err
    by_word = nextscale("generate", "apple", "--model", tiny_model)
    assert "'apple' is drawn as food-fruit" in by_word.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [(["-c", "appel"], "'apple'"), (["-c", "aplpe"], "'apple'"), (["appel"], "'apple'"), (["-c", "tol"], "'tool'")],
)
def test_a_slip_is_refused_with_what_was_meant(
    nextscale: Command, tiny_model: Path, words: list[str], meant: str
) -> None:
    refused(nextscale("generate", *words, "--model", tiny_model), f"did you mean {meant}?")
    assert os.listdir() == []


def test_the_bundled_model_suggests_dog_for_dgo(nextscale: Command) -> None:
    for words in (["-c", "dgo"], ["dgo", "--model", "emoji-m-var"]):
        refused(nextscale("generate", *words), "'dgo'", "did you mean 'dog'?")


def test_words_of_one_class_give_one_picture_and_that_is_said(nextscale: Command) -> None:
    for word in ("star", "sun", "rainbow"):
        done = nextscale("generate", word, "--model", "emoji-m-var", "--seed", 1, "-o", word)
        assert "is drawn as sky-weather" in done.err
        assert "the class is drawn, not the word" in done.err
    assert len({pixels(next(Path(word).iterdir())) for word in ("star", "sun", "rainbow")}) == 1
    assert "not the word" not in nextscale("generate", "-c", "sky-weather", "--seed", 1).err


def test_a_picture_of_no_class(nextscale: Command, styled_model: Path) -> None:
    done = nextscale("generate", "-c", "unconditional", "-c", "face", "--style", "twemoji", "--model", styled_model)
    assert done.code == 0, done.err
    done = nextscale("generate", "-c", "unconditional", "--style", "noto", "--model", styled_model)
    refused(done, "a picture of no class has no style")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-c", "0", "-n", "9" * 23], "expected at most 10,000 in one command"),
        (["-c", "0", "-n", "10001"], "10,001 pictures"),
        (["-c", "0", "-c", "1", "-n", "6000"], "12,000 pictures"),
        (["-c", "0", "--seed", ",".join(["1"] * 10001)], "10,001 pictures"),
        (["-c", "0"] * 10001, "10,001 pictures"),
        (["-c", "0", "-n", "9" * 5000], "--num-images"),
        (["-c", "0", "--seed", "9" * 5000], "--seed"),
        (["-c", "9" * 5000], "at most 500"),
        (["w"] * 100000, "at most 10,000"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_numbers_have_bounds_that_are_named(nextscale: Command, words: list[str], expected: str) -> None:
    done = nextscale("generate", *words)
    refused(done, expected)
    assert len(done.err) < 1200
    assert " on cpu" not in done.err


def test_a_class_is_found_by_few_words(nextscale: Command, tiny_model: Path) -> None:
    refused(nextscale("generate", "w" * 501, "--model", tiny_model), "has 501 letters; expected at most 500")


def test_every_style_counts_towards_the_bound(nextscale: Command, styled_model: Path) -> None:
    done = nextscale("generate", "-c", "face", "--style", "all", "-n", 4000, "--model", styled_model)
    refused(done, "12,000 pictures")


def test_many_pictures_are_the_same_as_in_two_commands(nextscale: Command, tiny_model: Path) -> None:
    words = ["generate", "-c", 0, "--model", tiny_model, "--dtype", "float32"]
    assert nextscale(*words, "-n", 70, "--seed", 1, "-o", "all").code == 0
    assert nextscale(*words, "-n", 3, "--seed", 68, "-o", "few").code == 0
    for seed in (68, 69, 70):
        assert pixels(f"all/cat-face-{seed}.png") == pixels(f"few/cat-face-{seed}.png")
    assert nextscale("generate", "--like", "all/grid.png", "--model", tiny_model, "-o", "again").code == 0
    assert pixels("again/grid.png") == pixels("all/grid.png")
    assert len(os.listdir("again")) == 71
