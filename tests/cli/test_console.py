"""Bars are for people who wait: on a terminal, after a second, with an estimate where steps are alike."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nextscale.cli import console


class Terminal(io.StringIO):
    """Standard error as a terminal has it."""

    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, patience: float, stream: io.StringIO, estimate: bool = True) -> str:
    """What a bar of 200 pictures writes while 100 are drawn."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(console, "PATIENCE", patience)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with console.progress("drawing", "pictures", estimate) as step:
        time.sleep(0.1)
        step(100, 200)
        time.sleep(0.3)
    return stream.getvalue()


def test_a_bar_appears_on_a_terminal_with_a_rate_and_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    written = shown(monkeypatch, 0.0, Terminal())
    for words in ("drawing", "100/200", "pictures", "/s", "left"):
        assert words in written
    assert "left" not in shown(monkeypatch, 0.0, Terminal(), estimate=False)


def test_no_bar_for_short_waits_or_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, 60.0, Terminal()) == ""
    assert shown(monkeypatch, 0.0, io.StringIO()) == ""


def test_json_is_json_in_every_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, expected in (("ascii", b"\\u732b"), ("utf-8", "猫".encode())):
        file = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(file, encoding=encoding, write_through=True))
        console.answer_json({"class": "猫"})
        assert expected in file.getvalue()


def test_a_closed_standard_error_takes_nothing_away(tiny_model: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "nextscale", "generate", "-c", "0", "--seed", "1", "--model", str(tiny_model)]
    done = subprocess.run(shlex.join(words) + " 2>&-", shell=True, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out" / "cat-face-1.png").is_file()
