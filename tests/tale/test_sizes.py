"""A model that is free in its scales draws, prices, edits and repeats pictures of any size, on any of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nextscale as library
from nextscale import systems
from nextscale.errors import InputError, PlanError
from nextscale.evaluation.machine import Machine
from nextscale.pipeline import Pipeline
from nextscale.recipe import Recipe
from tests.cli.conftest import Command
from tests.makers import tiny_pipeline
from tests.tale.test_ratios import new_pipe, picture
from tests.tale.test_tale import LINE, same


@pytest.fixture(autouse=True)
def _the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, LINE))


@pytest.fixture(params=["direct", "residual"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return new_pipe(request.param)


def test_what_is_asked_for_is_drawn_streamed_priced_and_repeated(pipe: Pipeline, tmp_path: Path) -> None:
    side = pipe.tokenizer.stride
    wide = (5 * side, 7 * side)
    for asked, scales in (
        ({"size": wide}, "1 3x4 5x7"),
        ({"size": wide, "steps": 4}, "1 1x2 4x5 5x7"),
        ({"height": wide[0], "width": float(wide[1])}, "1 3x4 5x7"),
        ({"steps": 2}, "1 4"),
        ({"ratio": "3:2", "steps": 6}, "1 1x2 2x3 3x4 3x5 4x6"),
        ({"scales": [1, (2, 3), (5, 4)][:2]}, "1 2x3"),
        ({"scales": "1,1,2,3x5"}, "1 1 2 3x5"),
        ({"size": (6 * side, 9 * side)}, "1 2x3 4x6 6x9"),
    ):
        drawn = pipe(prompt="ab", seed=1, **asked)
        assert str(drawn.plan.schedule) == scales
        assert drawn.plan == pipe.plan(**asked)
        h, w = drawn.plan.schedule.grid
        assert drawn.images[0].size == (w * side, h * side)
        assert [tokens.shape[1:3] for tokens in drawn.tokens] == list(drawn.plan.schedule)
        *_, last = pipe.stream(prompt="ab", seed=1, **asked)
        assert last.images()[0].tobytes() == drawn.images[0].tobytes()
        assert pipe.price(images=2, **asked) == pipe.price(drawn.plan, 2)
        (saved,) = drawn.save(tmp_path / "drawn.png", overwrite=True)
        assert same(pipe.repeat(saved).tokens, drawn.tokens)
        again = pipe.decode(drawn.tokens, schedule=drawn.plan.schedule)
        assert again[0].tobytes() == drawn.images[0].tobytes()


def test_the_shape_of_an_edit_is_the_size_that_is_asked_for(pipe: Pipeline, tmp_path: Path) -> None:
    side = pipe.tokenizer.stride
    image = picture(7 * side, 5 * side)
    box = (0, 0, 3 * side, 5 * side)
    own = pipe.edit(image, prompt="ab", box=box, blank=False, seed=1, size=(5 * side, 7 * side), steps=3)
    assert str(own.plan.schedule) == "1 3x4 5x7"
    kept = pipe.encode(image, own.plan.schedule)[-1]
    assert np.array_equal(own.tokens[-1][:, :, 3:], kept[:, :, 3:]), "it is seen whole"
    (saved,) = own.save(tmp_path / "edited.png")
    assert pipe.repeat(saved, image)[0].tobytes() == own[0].tobytes()
    for asked, grid in (
        ({"scales": "1,2x1,4x3"}, (4, 3)),
        ({"steps": 2}, (6, 4)),
        ({"steps": 2, "ratio": "1:1"}, (4, 4)),
    ):
        edited = pipe.edit(image, prompt="ab", box=box, seed=1, **asked)
        assert (edited.plan.schedule.grid, edited[0].size) == (grid, image.size)


def test_what_contradicts_itself_is_refused() -> None:
    pipe = new_pipe("direct")
    side = pipe.tokenizer.stride
    refused: list[tuple[dict[str, Any], str]] = [
        ({"size": (5 * side, 7 * side + 1)}, rf"the nearest that this model draws is {5 * side}x{7 * side} pixels"),
        ({"height": side, "width": side, "scales": "1"}, "height, width and scales were given; expected height and"),
        (
            {"steps": 5},
            f"steps is 5; expected at most 4, the most scales that this model draws {4 * side}x{4 * side} pix",
        ),
    ]
    for asked, sentence in refused:
        for call in (pipe, pipe.stream, pipe.edit):
            what: dict[str, Any] = {"image": picture(8, 8), "box": (0, 0, 4, 4)} if call == pipe.edit else {}
            with pytest.raises(InputError, match=sentence):
                call(prompt="ab", **what, **asked)
        for count in (pipe.plan, pipe.price):
            with pytest.raises(InputError, match=sentence):
                count(**asked)
    for asked in ({"size": (side, side)}, {"scales": "1"}, {"steps": 2}):
        name = next(iter(asked))
        with pytest.raises(PlanError, match=f"a plan was given together with {name}"):
            pipe(prompt="a", plan=pipe.plan(), **asked)
        with pytest.raises(PlanError, match=f"a plan was given together with {name}"):
            pipe.price(pipe.plan(), **asked)


def test_a_model_of_one_schedule_draws_it_by_any_of_its_names() -> None:
    pipe = tiny_pipeline()
    own = pipe("face", seed=1)
    for asked in ({"size": (16, 16)}, {"steps": 4}, {"scales": "1,2,3,4"}, {"height": 16, "width": 16}):
        drawn = pipe("face", seed=1, **asked)
        assert (drawn.recipe, same(drawn.tokens, own.tokens)) == (own.recipe, True)
    with pytest.raises(
        InputError, match=r"size is \(32, 16\); this VAR was trained on the scales 1 2 3 4 and draws no"
    ):
        pipe("face", height=32, width=16)


def test_the_command_line_draws_prices_edits_and_repeats_them(
    tmp_path: Path, nextscale: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextscale.evaluation.machine.machine", lambda *_: Machine(1e9, 1e9, 1e-6, False))
    new_pipe("residual").save_pretrained(tmp_path / "tale")
    model = ("--model", tmp_path / "tale", "--dtype", "float32")
    again = library.load(tmp_path / "tale", device="cpu", dtype="float32")
    done = nextscale("generate", "ab", "--seed", 1, "--size", "20x28", "--steps", 3, *model, "-o", "wide.png")
    assert done.code == 0, done.err
    drawn = again(prompt="ab", size=(20, 28), steps=3, seed=1)
    assert Image.open("wide.png").tobytes() == drawn.images[0].tobytes()
    assert nextscale("generate", "--like", "wide.png", *model, "-o", "again.png").code == 0
    assert Image.open("again.png").tobytes() == drawn.images[0].tobytes()
    for option, value in (("--size", "20x28"), ("--steps", 3), ("--scales", "1,2")):
        for verb in (["generate"], ["edit", "wide.png"]):
            done = nextscale(*verb, "--like", "wide.png", option, value, *model)
            assert (done.code, f"--like repeats a recipe as it is; leave {option} out" in done.err) == (2, True)
    told = json.loads(nextscale("plan", tmp_path / "tale", "--scales", "1,2x3,5x7", "--json").out)
    assert [row["size"] for row in told["plan"]["rows"]] == [[1, 1], [2, 3], [5, 7]]
    assert "to 20x28 pixels" in nextscale("plan", tmp_path / "tale", "--size", "20x28").out
    words = ("edit", "wide.png", "ab", "--box", "0,0,12,20", "--size", "20x28", "--steps", 3, "--seed", 2)
    done = nextscale(*words, *model, "-o", "edited.png")
    assert done.code == 0, done.err
    assert str(Recipe.read("edited.png").plan.schedule) == "1 3x4 5x7"
    done = nextscale("generate", "ab", "--size", "20x30", *model)
    assert (done.code, done.out) == (2, "")
    assert "size is '20x30'; the nearest that this model draws is 20x32 pixels" in done.err
