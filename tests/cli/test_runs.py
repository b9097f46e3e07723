"""``nextscale runs`` on logs as training writes them: table, picture, CSV, and one sentence where there is no run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command
from tests.evaluation.test_runs import some_lines, write_log


def test_several_runs_in_one_picture_one_table_and_one_file(nextscale: Command, tmp_path: Path) -> None:
    write_log(tmp_path / "first", some_lines())
    write_log(tmp_path / "second", some_lines(6), '{"step": 7, "ki')  # still running
    done = nextscale("runs", "first", "second", "-o", "out/curves.png", "--csv", "out/numbers.csv")
    assert done.code == 0, done.err
    assert [line.split()[0] for line in done.out.splitlines()] == ["run", "first", "second"]
    assert done.err.splitlines() == ["numbers: out/numbers.csv", "curves: out/curves.png"]
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert picture.width > 500
    assert len((tmp_path / "out" / "numbers.csv").read_text().splitlines()) == 1 + 8 + 12


def test_the_picture_has_a_default_name(nextscale: Command, tmp_path: Path) -> None:
    write_log(tmp_path / "first", some_lines())
    assert nextscale("runs", "first").err == "curves: runs.png\n"
    assert (tmp_path / "runs.png").is_file()


def test_what_is_no_run_leaves_nothing_behind(nextscale: Command, tmp_path: Path) -> None:
    write_log(tmp_path / "good", some_lines())
    write_log(tmp_path / "empty", [])
    (tmp_path / "folder").mkdir()
    for name, sentence in (("empty", "holds no whole line yet"), ("folder", "no log.jsonl"), ("none", "not exist")):
        done = nextscale("runs", "good", name, "--csv", "numbers.csv")
        assert (done.code, done.out) == (2, "")
        assert sentence in done.err
        assert done.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "folder", "good"]


def test_a_missing_matplotlib_is_named(nextscale: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path / "good", some_lines())
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    done = nextscale("runs", "good")
    assert (done.code, done.out) == (2, "")
    assert "pip install -e '.[train]' in a clone of the repository, or pip install 'matplotlib" in done.err
