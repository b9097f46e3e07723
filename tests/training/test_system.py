"""Runs are safe from one another on every system, and train where there is neither fcntl nor resource."""

from __future__ import annotations

import errno
import getpass
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from nextscale import device
from nextscale.errors import TrainingError
from nextscale.training import system
from tests.training import windows
from tests.training.tiny import TINY_TOKENIZER, TINY_VAR

NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME", "TORCHINDUCTOR_CACHE_DIR")
"""Where Python looks for the name of a user, and torch for its compiler's folder."""


def command(kind: str, *words: object) -> subprocess.CompletedProcess[str]:
    nameless = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, windows.__file__, kind, *map(str, words)],
        env=nameless,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Warning:" not in done.stderr
    return done


@pytest.mark.parametrize("kind", ["locks", "none"])
def test_training_stops_resumes_and_caches_tokens_as_on_windows(images: Path, tmp_path: Path, kind: str) -> None:
    tokenizer, var = tmp_path / "tokenizer", tmp_path / "var"
    words = ["train", "tokenizer", "--recipe", "tokenizer-emoji", "--data", images, "-o", tokenizer, "--device", "cpu"]
    words += [word for override in TINY_TOKENIZER for word in ("--set", override)]
    first = command(kind, *words, "--max-steps", 2)
    assert first.returncode == 0, first.stderr
    again = command(kind, *words, "--max-steps", 4)
    assert again.returncode == 0, again.stderr
    assert "resuming after step 2" in again.stderr
    assert first.stderr.count("this system has no locks") == (kind == "none")
    words = ["train", "var", "--recipe", "var-emoji", "--data", images, "--tokenizer", tokenizer, "-o", var]
    words += [word for override in TINY_VAR for word in ("--set", override)]
    trained = command(kind, *words, "--device", "cpu", "--max-steps", 2)
    assert trained.returncode == 0, trained.stderr
    assert list((var / "tokens").glob("*.safetensors"))
    assert not list((var / "tokens").glob("*.part"))


@pytest.fixture
def with_msvcrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=windows.locking))
    monkeypatch.setattr(os, "open", windows.open_)


def assert_one_run_at_a_time(folder: Path) -> None:
    with system.alone_in(folder):
        for _ in range(2):
            with pytest.raises(TrainingError, match="another run is writing to"), system.alone_in(folder):
                pass
    with system.alone_in(folder):
        pass


def test_one_run_at_a_time_writes_to_a_folder(tmp_path: Path) -> None:
    assert_one_run_at_a_time(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("with_msvcrt")
def test_one_run_at_a_time_writes_to_a_folder_on_windows(tmp_path: Path) -> None:
    assert_one_run_at_a_time(tmp_path)


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.EBADF])
def test_where_there_are_no_locks_this_is_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: int
) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(system.fcntl, "flock", flock)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with system.alone_in(tmp_path):
                pass
    assert [str(warning.message) for warning in caught] == [
        f"this system has no locks on {tmp_path}, so nothing keeps a second run from writing there too; start only one"
    ]


@pytest.mark.usefixtures("with_msvcrt")
def test_what_is_written_comes_to_the_disk_on_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "fsync", windows.fsync)
    (tmp_path / "x").write_text("x")
    for path in (tmp_path / "x", tmp_path, tmp_path / "nowhere"):
        system.to_disk(path)


def test_memory_is_known_without_the_module_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    usual = device.peak_memory(cpu)
    assert usual >= device.memory_in_use(cpu) / 1.5 > 0
    monkeypatch.setitem(sys.modules, "resource", None)
    assert usual / 4 < device.peak_memory(cpu) < usual * 4
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert device.peak_memory(cpu) == 0


@pytest.mark.parametrize("error", [KeyError("uid not found: 1234"), OSError("no username"), AttributeError("getuid")])
def test_a_user_without_a_name_trains(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def getuser() -> str:
        raise error

    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what is set below is taken back
        monkeypatch.delenv(name)
    monkeypatch.setattr(getpass, "getuser", getuser)
    system.name_compiler_folder()
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    assert str(os.getuid()) in os.environ["TORCHINDUCTOR_CACHE_DIR"]
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "chosen")
    system.name_compiler_folder()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "chosen"
