"""Logs are read as they were written, half-written ones too; tables and CSV hold what was logged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from nextscale.errors import InputError
from nextscale.evaluation.runs import Best, Run, read_run, read_runs, runs_csv, runs_table


def write_log(folder: Path, lines: Sequence[dict[str, object]], more: str = "") -> Path:
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + more)
    return folder


def some_lines(steps: int = 4) -> list[dict[str, object]]:
    """Training improves; held-out loss is lowest at step 2."""
    lines: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        lines.append({"step": step, "kind": "train", "loss": 5 - step, "lr": 0.1, "images_per_second": 10.0 * step})
        lines.append({"step": step, "kind": "validation", "loss": 4 + (step - 2) ** 2, "accuracy": step / 10})
    return lines


def test_the_best_is_held_out_and_stands_where_it_was_reached_first(tmp_path: Path) -> None:
    run = read_run(write_log(tmp_path / "a", [*some_lines(), {"step": 5, "kind": "validation", "loss": 4}]))
    assert (run.name, run.step, run.images_per_second) == ("a", 5, 25)
    assert run.best("loss") == Best(4, 2)
    assert run.best("accuracy") == Best(0.4, 4)
    assert run.best("psnr") is None
    assert run.curve("train", "loss") == [(1, 4), (2, 3), (3, 2), (4, 1)]


def test_a_cut_last_line_is_left_out(tmp_path: Path) -> None:
    whole = read_run(write_log(tmp_path / "whole", some_lines()))
    cut = read_run(write_log(tmp_path / "cut", some_lines(), '{"step": 9, "kind": "train", "lo'))
    assert cut.lines == whole.lines


def test_a_step_logged_again_counts_as_the_last_time(tmp_path: Path) -> None:
    again = {"step": 2, "kind": "validation", "loss": 1.5}
    run = read_run(write_log(tmp_path / "a", [*some_lines(), again]))
    assert run.best("loss") == Best(1.5, 2)
    assert [step for step, _ in run.curve("validation", "loss")] == [1, 2, 3, 4]


def test_a_loss_that_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    lines = [{"step": 1, "kind": "validation", "loss": float("nan")}, {"step": 2, "kind": "validation", "loss": 3.0}]
    assert read_run(write_log(tmp_path / "a", lines)).best("loss") == Best(3, 2)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist; expected a run's folder"):
        read_run(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        read_run(tmp_path / "file")
    with pytest.raises(InputError, match=r"is no run's folder: it holds no log\.jsonl"):
        read_run(tmp_path)
    for i, cut in enumerate(("", '{"step": 1, "ki')):
        with pytest.raises(InputError, match="holds no whole line yet"):
            read_run(write_log(tmp_path / f"empty-{i}", [], cut))
    for i, damage in enumerate(("\x00\x00\n", "[1, 2]\n", '{"step": "one", "kind": "train"}\n')):
        folder = write_log(tmp_path / f"damaged-{i}", some_lines(), damage + json.dumps(some_lines()[0]) + "\n")
        with pytest.raises(InputError, match=r"line 9 of .* is damaged; expected a JSON object"):
            read_run(folder)


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [write_log(tmp_path / place / "run", some_lines()) for place in ("a", "b")]
    other = write_log(tmp_path / "other", some_lines())
    assert [run.name for run in read_runs([*folders, other])] == [str(folders[0]), str(folders[1]), "other"]
    with pytest.raises(InputError, match="was named twice"):
        read_runs([other, tmp_path / "a" / ".." / "other"])


def test_the_table_has_a_line_per_run_and_only_what_was_logged() -> None:
    generator = Run("generator", tuple(some_lines()))
    tokenizer = Run("tokenizer", ({"step": 7, "kind": "validation", "psnr": 22.5},))
    head, first, second = (line.split() for line in runs_table([generator, tokenizer]).splitlines())
    assert " ".join(head) == (
        "run step images/s best held-out loss at step best held-out accuracy at step best held-out PSNR, dB at step"
    )
    assert first == ["generator", "4", "25.0", "4", "2", "0.4", "4", "-", "-"]
    assert second == ["tokenizer", "7", "-", "-", "-", "-", "-", "22.5", "7"]
    assert "PSNR" not in runs_table([generator])


def test_the_csv_holds_every_logged_number() -> None:
    runs = [Run("a, the first", tuple(some_lines())), Run("b", ({"step": 1, "kind": "train", "vq": 0.125},))]
    rows = list(csv.DictReader(io.StringIO(runs_csv(runs))))
    assert len(rows) == 9
    for row, (name, line) in zip(rows, [(run.name, line) for run in runs for line in run.lines], strict=True):
        assert row["run"] == name
        found = {key: value for key, value in row.items() if value and key != "run"}
        assert found == {key: str(value) for key, value in line.items()}
