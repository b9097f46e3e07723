"""``nextscale calibrate`` writes a file that ``generate`` and ``plan`` take, and ``--like`` asks for again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from nextscale.conditions.classes import ClassVocabulary
from nextscale.evaluation.machine import Machine
from nextscale.memory.calibration import read_calibration
from nextscale.memory.hack_calibration import HeadStatistics
from nextscale.memory.scalekv_calibration import Statistics
from nextscale.models.var import VAR
from nextscale.pipeline import Pipeline
from tests.cli.conftest import Command
from tests.makers import randomise, tiny_m_var, tiny_pipeline, tiny_tokenizer, tiny_var

SIZES = ((1, 1), (2, 2), (3, 3), (4, 4), (6, 6))
BUDGET = {"Block 0": 1, "Block 1": 0, "Block 2": 0, "High": 1, "Max": 24, "Min": 18, "Limit": 30}
"""Of 30 tokens before the last scale; on average 20."""


@pytest.fixture(scope="module")
def finer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with more tokens before its last scale than a window has."""
    model = VAR(replace(tiny_var().config, sizes=SIZES))
    randomise(model, 0, 0.8)
    vocabulary = ClassVocabulary(("animal", "face", "flag", "food", "tool"))
    folder = tmp_path_factory.mktemp("models") / "finer"
    Pipeline(tiny_tokenizer(SIZES), model, vocabulary, name="finer").save_pretrained(folder)
    return folder


@pytest.fixture(autouse=True)
def _fast_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextscale.evaluation.machine.machine", lambda *_: Machine(1e9, 1e9, 1e-6, False))


def test_a_model_is_calibrated_draws_with_less_and_is_repeated(nextscale: Command, finer_model: Path) -> None:
    done = nextscale("calibrate", finer_model, "-o", "finer.json", "-n", 2)
    assert done.code == 0, done.err
    assert done.out.startswith("finer.json: the attention of 3 blocks on 5 scales, in 2 pictures")
    found = read_calibration("finer.json")
    assert isinstance(found, Statistics)
    assert "exists" in nextscale("calibrate", finer_model, "-o", "finer.json").err
    words = ["generate", "--model", finer_model, "-c", "flag", "--seed", 3, "--dtype", "float32", "--json"]
    pictures = {}
    for budget in ("1.0", "20"):
        done = nextscale(*words, "--methods", f"scalekv:{budget}", "--calibration", "finer.json", "-o", budget)
        assert done.code == 0, done.err
        told = json.loads(done.out)
        assert told["recipe"]["parts"] == {"calibration": found.digest}
        pictures[budget] = Image.open(told["images"][0]["file"]).tobytes()
    plain = json.loads(nextscale(*words, "-o", "plain").out)
    assert Image.open(plain["images"][0]["file"]).tobytes() == pictures["1.0"] != pictures["20"]
    like = ["generate", "--like", told["images"][0]["file"], "--model", finer_model, "-o", "again"]
    missing = nextscale(*like)
    assert (missing.code, "--calibration FILE" in missing.err) == (2, True)
    again = nextscale(*like, "--calibration", "finer.json", "--json")
    assert again.code == 0, again.err
    assert Image.open(json.loads(again.out)["images"][0]["file"]).tobytes() == pictures["20"]
    few = nextscale(*words, "--methods", "scalekv:0.1", "--calibration", "finer.json")
    assert (few.code, "budget is 3 tokens; expected at least 16, the window" in few.err) == (2, True)


def test_heads_are_measured_draw_with_less_and_are_of_their_method(nextscale: Command, finer_model: Path) -> None:
    done = nextscale("calibrate", finer_model, "--method", "hack", "-o", "heads.json", "-n", 2)
    assert done.code == 0, done.err
    assert done.out.startswith("heads.json: the attention of 3 blocks on 5 scales, in 2 pictures")
    found = read_calibration("heads.json")
    assert isinstance(found, HeadStatistics)
    words = ["generate", "--model", finer_model, "-c", "flag", "--seed", 3, "--dtype", "float32", "--json"]
    pictures = {}
    for budget in ("1.0", "0.4"):
        done = nextscale(*words, "--methods", f"hack:{budget}", "--calibration", "heads.json", "-o", budget)
        assert done.code == 0, done.err
        told = json.loads(done.out)
        assert told["recipe"]["parts"] == {"calibration": found.digest}
        pictures[budget] = Image.open(told["images"][0]["file"]).tobytes()
    plain = json.loads(nextscale(*words, "-o", "plain").out)
    assert Image.open(plain["images"][0]["file"]).tobytes() == pictures["1.0"] != pictures["0.4"]
    like = ["--like", told["images"][0]["file"], "--model", finer_model, "--calibration", "heads.json", "--json"]
    again = nextscale("generate", *like, "-o", "again")
    assert again.code == 0, again.err
    assert Image.open(json.loads(again.out)["images"][0]["file"]).tobytes() == pictures["0.4"]
    words = ["plan", finer_model, "--guidance-scale", 1, "--dtype", "float32", "--json", "--calibration", "heads.json"]
    told = json.loads(nextscale(*words, "--methods", "hack:0.4").out)  # of 66 tokens 26: contextual 9, structural 43
    assert [row["attended"] for row in told["rows"][1:6]] == [1, 5, 11.5, 19.5, 26]
    assert [row["kept"] for row in told["rows"][1:6]] == [1, 5, 11.5, 19.5, 19.5]
    assert [row["memory"] for row in told["rows"][1:6]] == [int(row["kept"] * 768) for row in told["rows"][1:6]]
    for methods, sentence in (
        ("scalekv:20", "the calibration is for hack; expected one for scalekv"),
        ("hack:0.05", "budget is 3 tokens a head, 5 for each of the 6 structural heads; expected at least 6"),
        ("hack:0.4,h2o:20", "h2o would replace hack, the memory that another method gave 'model'"),
        ("hack", "--methods has 'hack'; expected hack:X, a share such as 0.5"),
    ):
        refused = nextscale(*words, "--methods", methods)
        assert (refused.code, refused.out) == (2, "")
        assert sentence in refused.err


def test_plan_prices_the_memory_that_is_kept(nextscale: Command, finer_model: Path) -> None:
    Path("budget.json").write_text(json.dumps({"Scale 5": BUDGET}))
    words = ["plan", finer_model, "--guidance-scale", 1, "--dtype", "float32", "--json"]
    plain = json.loads(nextscale(*words).out)
    done = nextscale(*words, "--methods", "scalekv", "--calibration", "budget.json")
    assert done.code == 0, done.err
    assert "budget.json does not say which weights it was made for" in done.err
    told = json.loads(done.out)
    assert [row["memory"] for row in plain["rows"][1:6]] == [3 * n * 2 * 32 * 4 for n in (1, 5, 14, 30, 30)]
    assert [row["memory"] for row in told["rows"][1:6]] == [3 * n * 2 * 32 * 4 for n in (1, 5, 14, 20, 20)]
    assert [row["attended"] for row in told["rows"][1:6]] == [1, 5, 14, 30, 56]
    assert [row["kept"] for row in told["rows"][1:6]] == [1, 5, 14, 20, 20]
    assert told["plan"]["memories"]["model"]["policy"] == "scalekv"
    assert told["parameters"] == plain["parameters"]
    other = nextscale(*words, "--methods", "scalekv:21", "--calibration", "budget.json")
    assert (other.code, "budget is 21 and window 16, but the budget file has 20" in other.err) == (2, True)
    against = nextscale(*words, "--against", finer_model, "--methods", "scalekv", "--calibration", "budget.json")
    assert (against.code, "leave --methods out" in against.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--methods", "scalekv:0.1"], "needs --calibration FILE, which nextscale calibrate writes"),
        (["--methods", "magic"], "--methods has 'magic'; expected some of scalekv"),
        (["--methods", "scalekv:0.1,"], "--methods has ''; expected some of scalekv"),
        (["--methods", "scalekv:x"], "--methods has 'scalekv:x'; expected scalekv:X"),
        (["--calibration", "some.json"], "--calibration is for --methods scalekv or hack, which was not given"),
        (["--methods", "scalekv:0.1", "--calibration", "none.json"], "none.json is missing; expected a file"),
        (["--methods", "scalekv:0.1", "--like", "some.png"], "leave --methods out"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    nextscale: Command, tiny_model: Path, words: list[str], sentence: str
) -> None:
    more = [] if "--like" in words else ["-c", "flag"]
    done = nextscale("generate", "--model", tiny_model, *more, *words)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


def test_what_cannot_be_calibrated_is_refused(
    nextscale: Command, tiny_model: Path, text_model: Path, tmp_path: Path
) -> None:
    tiny_pipeline(tiny_m_var()).save_pretrained(tmp_path / "recurrent")
    for words, sentence in (
        ([tiny_model, "--method", "magic"], "--method is 'magic'; expected scalekv or hack"),
        (["recurrent", "--method", "hack"], "'hack' keeps keys and values of earlier scales, but this model reads"),
        (["recurrent"], "'scalekv' keeps keys and values of earlier scales, but this model reads a recurrent state"),
        ([text_model], "expected --prompts FILE, to draw some"),
    ):
        done = nextscale("calibrate", *words, "-o", "x.json")
        assert (done.code, done.out, Path("x.json").exists()) == (2, "", False)
        assert sentence in done.err
    Path("prompts.txt").write_text("a red heart\na cat\n")
    done = nextscale("calibrate", text_model, "--prompts", "prompts.txt", "-o", "x.json", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["pictures"] == 2
