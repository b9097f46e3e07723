"""``--methods variant:n/d`` of ``generate`` and ``plan``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from nextscale.cli.methods import handed_over, with_methods
from nextscale.errors import InputError
from nextscale.evaluation.machine import Machine
from nextscale.methods.remember import CALIBRATION
from nextscale.plan import default_plan
from tests.cli.conftest import Command
from tests.laws.test_scalekv import statistics
from tests.makers import tiny_var


@pytest.fixture(autouse=True)
def _fast_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextscale.evaluation.machine.machine", lambda *_: Machine(1e9, 1e9, 1e-6, False))


def test_fine_scales_run_fewer_blocks_and_a_picture_is_repeated_so(nextscale: Command, tiny_model: Path) -> None:
    planned = nextscale("plan", tiny_model, "--methods", "variant:2/2", "--json")
    assert planned.code == 0, planned.err
    assert "scale 2 runs the blocks 0 2 of 3, but the model was taught all of them; expect worse" in planned.err
    rows = [row["memory"] for row in json.loads(planned.out)["rows"][1:-1]]
    full = json.loads(nextscale("plan", tiny_model, "--json").out)["rows"][1:-1]
    assert rows[0] == full[0]["memory"]
    assert rows[-1] * 3 == full[-1]["memory"] * 2
    assert "2 blocks" in nextscale("plan", tiny_model, "--methods", "variant:2/2").out
    words = ["generate", "--model", tiny_model, "-c", "flag", "--seed", 3, "--dtype", "float32", "--json", "-o"]
    drawn = nextscale(*words, "less", "--methods", "variant:2/2")
    assert "expect worse pictures" in drawn.err
    told = json.loads(drawn.out)
    assert [row["blocks"] for row in told["recipe"]["plan"]["rows"]] == [None, None, [0, 2], [0, 2]]
    again = nextscale("generate", "--like", told["images"][0]["file"], "--model", tiny_model, "-o", "again", "--json")
    files = [told["images"][0]["file"], json.loads(again.out)["images"][0]["file"]]
    files.append(json.loads(nextscale(*words, "plain").out)["images"][0]["file"])
    pictures = [Image.open(file).tobytes() for file in files]
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ("variant:2", "--methods has 'variant:2'; expected variant:N/D, such as 4/3 for four full scales and then"),
        ("variant:2/two", "--methods has 'variant:2/two'; expected variant:N/D"),
        ("variant:2/0", "the depth is 0; expected a number of blocks from 2"),
        ("variant:9/2", "9 full scales were asked for; expected 0 to 4"),
        ("variant", "the model was not taught to draw with fewer blocks; say how many scales run all of them"),
        ("variant:3/2,variant:2/2", "the plan says already which blocks run; expected all depths at once"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    nextscale: Command, tiny_model: Path, said: str, sentence: str
) -> None:
    done = nextscale("plan", tiny_model, "--methods", said)
    assert (done.code, sentence in done.err) == (2, True), done.err


@pytest.mark.filterwarnings("ignore:scale . runs the blocks")
def test_it_stands_in_a_list_with_a_memory_in_any_order() -> None:
    model = tiny_var()
    plan, parts = default_plan(model), {"model": model, CALIBRATION: statistics(model)}
    found = [with_methods(plan, said, parts) for said in ("variant:1/3/2,scalekv:20", "scalekv:20, variant:1/3/2")]
    assert found[0] == found[1]
    assert [row.blocks for row in found[0].rows] == [None, None, (0, 2), (0, 2)]
    assert found[0].memories["model"].policy == "scalekv"
    with pytest.raises(InputError, match="--methods scalekv needs --calibration FILE"):
        handed_over("variant:1/2,scalekv:20", None)
    with pytest.raises(InputError, match="--calibration is for --methods scalekv or hack, which was not given"):
        handed_over("variant:1/2", Path("some.json"))
