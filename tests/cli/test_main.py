"""However a command ends, it ends as a shell expects: exit codes, one sentence, no traceback unless asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nextscale import __version__
from nextscale.cli.main import _sentence, main
from nextscale.errors import InputError
from tests.cli.conftest import Command


def test_version(nextscale: Command) -> None:
    assert nextscale("--version").out == f"nextscale {__version__}\n"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["generate", "--nonsense"], ["plan", "--nonsense"], ["data", "nonsense"]]
)
def test_an_unknown_verb_or_option_is_refused(nextscale: Command, words: list[str]) -> None:
    done = nextscale(*words)
    assert (done.code, done.out) == (2, "")
    (sentence,) = done.err.splitlines()
    assert sentence.startswith("nextscale: ")
    assert "nonsense" in sentence


@pytest.mark.parametrize("words", [[], ["data"]])
def test_without_a_verb_the_help_is_shown_and_nothing_else(nextscale: Command, words: list[str]) -> None:
    done = nextscale(*words)
    assert done.code == 2
    assert "Usage" in done.out
    assert done.err == ""


def test_a_fault_of_ours_gets_no_sentence_and_so_keeps_its_traceback() -> None:
    assert _sentence(KeyError("x")) is None
    assert _sentence(InputError("a  b")) == "a b"
    assert _sentence(FileNotFoundError(2, "No such file", "x")) == "x: No such file"


def test_the_traceback_is_shown_on_demand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXTSCALE_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["nextscale", "reconstruct", str(tmp_path / "none.png")])
    with pytest.raises(InputError, match="there is no file"):
        main()


def test_a_broken_pipe_is_no_error_of_ours(tiny_model: Path) -> None:
    code = f"{sys.executable} -m nextscale info {tiny_model} | head -n 1"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("name")
    assert "Traceback" not in done.stderr


def test_an_interrupted_command_leaves_nothing_behind(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["generate", "-c", "0", "-n", "10000", "--model", str(tiny_model), "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "nextscale", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    assert "tiny on cpu" in process.stderr.readline()  # loaded: from here on it draws
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not out.exists()
