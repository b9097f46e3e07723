"""``nextscale data emoji``: what the builder refuses reaches the user as one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Command


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--styles", "nonsense"], "no emoji style 'nonsense'"),
        (["--styles", ","], "no emoji style was given"),
        (["--resolution", "4"], "resolution is 4"),
    ],
)
def test_what_cannot_be_built_is_refused(nextscale: Command, words: list[str], expected: str) -> None:
    done = nextscale("data", "emoji", "-o", "emoji", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err
    assert not Path("emoji").exists()


def test_a_folder_that_holds_something_else_is_left_alone(nextscale: Command) -> None:
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")
    done = nextscale("data", "emoji", "-o", "mine")
    assert done.code == 2
    assert "mine" in done.err
    assert [path.name for path in Path("mine").iterdir()] == ["letter.txt"]
