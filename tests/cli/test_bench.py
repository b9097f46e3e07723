"""``nextscale bench`` on tiny models: what it answers, what it writes, and its one sentence when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nextscale.checkpoints.store import save_checkpoint
from tests.cli.conftest import Command
from tests.evaluation.conftest import draw_emoji, tiny_classifier
from tests.makers import tiny_pipeline_of_styles


@pytest.fixture(scope="module")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_emoji(tmp_path_factory.mktemp("sets") / "emoji", train=3, heldout=4)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vocabulary, folder = tiny_pipeline_of_styles().vocabulary, tmp_path_factory.mktemp("models") / "judge"
    save_checkpoint(folder, {"classifier": tiny_classifier(vocabulary.names, vocabulary.styles)})
    return folder


QUICK = ("-n", 4, "--batch", 2, "--rounds", 1, "--dtype", "float32")


def test_methods_stand_beside_the_plain_model_in_one_table_a_json_and_pictures(
    nextscale: Command, styled_model: Path, emoji: Path, classifier: Path, tmp_path: Path
) -> None:
    calibration = tmp_path / "c.json"
    assert nextscale("calibrate", styled_model, "-n", 1, "-o", calibration).code == 0
    rows = ("scalekv:16,variant:2/2", "window:5")
    words = ["bench", styled_model, "--data", emoji, "--classifier", classifier, "--methods", rows[0]]
    words += ["--methods", rows[1], "--calibration", calibration, "-o", "out", *QUICK]
    done = nextscale(*words)
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row["name"] for row in told["rows"]] == ["plain", *rows]
    assert [row["kind"] for row in told["rows"]] == ["plain", "method", "method"]
    for words_there in (*rows, "class named, %", "memory MiB, end", "held-out images: class", "in turns"):
        assert words_there in done.out
    for name in ("pareto", "scalekv-16-variant-2-2", "window-5"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert picture.width > 200
    again = nextscale(*words)
    assert again.code == 2
    assert "bench.json exists; choose another name, or --overwrite" in again.err


def test_json_is_the_answer_for_programs(nextscale: Command, styled_model: Path, emoji: Path, tmp_path: Path) -> None:
    done = nextscale("bench", styled_model, "--data", emoji, "-o", "out", "--json", *QUICK)
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads((tmp_path / "out" / "bench.json").read_text())
    assert "no --classifier was given" in done.err


def test_random_weights_have_costs_and_roles_by_index(nextscale: Command, styled_model: Path, tmp_path: Path) -> None:
    rows = ("scalekv:16", "window:5", "variant:2/2")
    words = [word for row in rows for word in ("--methods", row)]
    done = nextscale("bench", styled_model, "--random", *words, "-o", "out", "--batch", 2, "--rounds", 1)
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [row["name"] for row in told["rows"]] == ["plain", *rows]
    assert told["rows"][2]["cost"]["most"] < told["rows"][0]["cost"]["most"]
    assert [(row["seen"], row["loss"], row["fidelity"]) for row in told["rows"]] == [(None, None, None)] * 4
    assert "roles: by index and not measured" in done.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "scalekv:0.5"], "needs a calibration of scalekv, and 0 were given; expected one --calibration"),
        (["--methods", "magic:1"], "--methods has 'magic'; expected some of"),
        (["--methods", "window:5", "--methods", "window:5"], "window:5 was given twice; expected every row once"),
        (["--methods", "window:2.5"], "the budget is 2.5; expected a share"),
        (["--random"], "--data is for models with weights; leave it out with --random"),
        (["--pixels", "1M"], "--pixels is for --random; the data have the size that the model draws"),
        (["--calibration", "c.json"], "--calibration c.json is of no method that was given; leave it out"),
    ],
)
def test_a_row_that_cannot_be_is_refused(
    nextscale: Command, styled_model: Path, emoji: Path, words: list[str], sentence: str
) -> None:
    done = nextscale("bench", styled_model, "--data", emoji, "-o", "out", *words, *QUICK)
    assert done.code == 2
    assert sentence in done.err
