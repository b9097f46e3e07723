"""However a command ends, it ends as a shell expects: exit codes, one sentence, no traceback unless asked for."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from nextscale import __version__
from nextscale.cli.main import VERBS, _sentence, main
from nextscale.conditions.classes import ClassVocabulary
from nextscale.errors import InputError
from tests.cli.conftest import Command
from tests.makers import tiny_pipeline


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


def test_an_option_has_one_value_unless_it_takes_several(nextscale: Command) -> None:
    """Else one of the two would be lost without a word."""
    for words in (["generate", "x", "--steps", "1", "--steps=2"], ["plan", "x", "--steps", "1", "--steps", "2"]):
        done = nextscale(*words)
        assert (done.code, done.err) == (2, "nextscale: --steps was given 2 times; expected one value\n")
    assert "--out was given 2 times" in nextscale("generate", "x", "-o", "a", "--out", "b").err
    several = nextscale("generate", "-c", "x", "-c", "y", "--smooth", "--smooth", "--", "--seed", "--seed")
    assert "were both given" in several.err


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


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "words", [["--model", ""], ["--model="], ["-o", " "], [""]], ids=["--model", "=", "-o", "word"]
)
def test_nothing_may_be_empty_in_any_verb(nextscale: Command, verb: str, words: list[str]) -> None:
    done = nextscale(verb, *words)
    assert (done.code, done.out) == (2, "")
    name = words[0].rstrip("=") or "an argument"
    assert done.err == f"nextscale: {name} is {words[-1] if words[-1].isspace() else ''!r}; expected a value\n"


def test_a_long_sentence_is_cut_in_its_middle_and_stays_one_line() -> None:
    cut = _sentence(InputError(f"there is no {'x' * 3_000_000}; expected\n a \x1b[31mmodel\x07"))
    assert cut is not None
    assert cut.startswith("there is no xxx")
    assert cut.endswith("xxx; expected a \\x1b[31mmodel\\x07")
    assert len(cut) < 1200
    for error in (FileNotFoundError(2, "No such file", "x" * 5000), typer.BadParameter("x" * 5000)):
        assert len(_sentence(error) or "") < 1200


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "not enough memory"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (OverflowError("int too large to convert to float"), "a number is too large"),
        (UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range"), "encoding"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "no text in UTF-8"),
    ],
)
def test_what_data_can_cause_ends_in_a_sentence(error: Exception, words: str) -> None:
    assert words in (_sentence(error) or "")


def run(words: list[str], folder: Path, more: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own, through a shell that adds ``more``, with other variables."""
    line = f"{shlex.join([sys.executable, '-m', 'nextscale', *words])} {more}"
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=os.environ | environment, capture_output=True, timeout=120, check=False
    )


@pytest.mark.parametrize("encoding", ["ascii:strict", "cp1252"])
def test_other_encodings_spell_out_what_they_lack(tmp_path: Path, encoding: str) -> None:
    pipe = tiny_pipeline()
    pipe.vocabulary = ClassVocabulary(("café", "猫", "piñata", "—", "e"))
    pipe.save_pretrained(tmp_path / "mine")
    model = ["--model", str(tmp_path / "mine")]
    for words in (
        ["generate", "--help"],
        ["generate", "--list-classes", *model],
        ["generate", "piñata 猫", "café", "--seed", "1", *model],
    ):
        done = run(words, tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    assert (tmp_path / "out" / "café-2.png").is_file()
    done = run(["generate", "--list-classes", "--json", *model], tmp_path, PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout.decode(encoding.partition(":")[0]))["classes"] == list(pipe.vocabulary.names)
    done = run(["generate", "-c", "0", "--seed", "ζ"], tmp_path, PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert (b"\\u03b6" if encoding == "cp1252" else "ζ".encode()) in done.stderr  # Typer writes UTF-8 for ASCII


def test_an_output_that_closes_or_is_full_is_no_fault_of_ours(tiny_model: Path, tmp_path: Path) -> None:
    for word in ("--help", "--version"):
        for more, code in (("| true", 0), (">&-", 0), ("2>&-", 0), ("> /dev/full", 2)):
            done = run([word], tmp_path, more)
            assert done.returncode == code
            assert b"Traceback" not in done.stderr
            assert b"Exception ignored" not in done.stderr
    drawn = run(["generate", "-c", "0", "--seed", "1", "--model", str(tiny_model)], tmp_path, ">&-")
    assert drawn.returncode == 0
    assert (tmp_path / "out" / "cat-face-1.png").is_file()


def test_an_interrupted_command_leaves_nothing_behind(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["generate", "-c", "0", "-n", "10000", "--model", str(tiny_model), "-o", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "nextscale", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
    )
    assert process.stderr is not None
    assert "tiny on cpu" in process.stderr.readline()  # loaded: from here on it draws
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not out.exists()
