"""Prompts are arguments or the lines of a file, and everything that is none is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.test_generate import refused


def test_every_line_of_a_file_is_a_prompt(nextscale: Command, text_model: Path) -> None:
    """Signs and repeated lines, too; every picture of every prompt has its own seed; a negative prompt is for all."""
    Path("prompts.txt").write_bytes("\ufeffa red fox\r\n\r\n  # the sky \na red fox\ndog".encode())
    words = ["--prompts", "prompts.txt", "--model", text_model, "--negative-prompt", "grey", "-n", 2, "--seed", 1]
    done = nextscale("generate", *words, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    drawn = ["a red fox", "a red fox", "# the sky", "# the sky", "a red fox", "a red fox", "dog", "dog"]
    assert [(image["prompt"], image["seed"]) for image in told["images"]] == list(zip(drawn, range(1, 9), strict=True))
    assert {entry["negative_prompt"] for entry in told["recipe"]["entries"]} == {"grey"}
    assert "prompts.txt has empty lines, which were skipped: 1" in done.err
    assert "one prompt" not in done.err


def test_lines_find_classes_as_words_do(nextscale: Command, tiny_model: Path) -> None:
    Path("prompts.txt").write_text("grinning cat\nred apple\n")
    done = nextscale("generate", "--prompts", "prompts.txt", "--model", tiny_model, "--json")
    assert [image["class"] for image in json.loads(done.out)["images"]] == ["cat-face", "food-fruit"]
    Path("prompts.txt").write_text("grinning cat\nqwertz\n")
    refused(nextscale("generate", "--prompts", "prompts.txt", "--model", tiny_model), "'qwertz'")


@pytest.mark.parametrize(
    ("content", "more", "expected"),
    [
        (b"", [], "prompts.txt holds no prompt; expected one a line"),
        (b" \n\n", [], "prompts.txt holds no prompt"),
        (b"\xff\xfe", [], "prompts.txt is not text in UTF-8"),
        (b"a\0b", [], "byte 0 stands in it"),
        (b"x" * 10_001, [], "has 10,001 letters; expected at most 10,000"),
        (b"x\n" * 10_001, [], "10,001 pictures were asked for; expected at most 10,000"),
        (b"cat", ["a dog"], "words ('a dog') and --prompts were both given; expected one of them"),
        (b"cat", ["-c", "dog"], "--prompts and --class were both given"),
        (b"cat", ["--like", "prompts.txt"], "--like repeats a recipe as it is; leave --prompts out"),
    ],
)
def test_what_is_no_file_of_prompts_is_refused(
    nextscale: Command, content: bytes, more: list[str], expected: str
) -> None:
    Path("prompts.txt").write_bytes(content)
    done = nextscale("generate", "--prompts", "prompts.txt", *more)
    refused(done, expected)
    assert " on cpu" not in done.err
    assert not Path("out").exists()


def test_a_file_that_is_not_there_is_named(nextscale: Command) -> None:
    refused(nextscale("generate", "--prompts", "none.txt"), "none.txt is missing; expected a file")
    refused(nextscale("generate", "--prompts", "."), ". is a folder; expected a file")


def test_a_second_negative_prompt_is_refused_not_dropped(nextscale: Command) -> None:
    done = nextscale("generate", "a", "--negative-prompt", "x", "--negative-prompt", "y")
    refused(done, "--negative-prompt was given 2 times; expected one for all prompts")


def test_a_style_stands_once(nextscale: Command) -> None:
    """Else it would be drawn twice, with other seeds."""
    done = nextscale("generate", "a frog", "--style", "noto", "--style", "twemoji", "--style", "noto")
    refused(done, "--style noto was given twice; expected each style once")
