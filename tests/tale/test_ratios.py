"""A model of several aspect ratios: every way to draw, and to encode, takes each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nextscale as library
from nextscale import systems
from nextscale.errors import InputError, PlanError
from nextscale.evaluation.machine import Machine
from nextscale.pipeline import Pipeline
from nextscale.rehearse import rehearse
from nextscale.tokenizers.base import Tokenizer
from tests.cli.conftest import Command
from tests.makers import randomise, tiny_pipeline, tiny_tokenizer
from tests.tale.conditioner import Letters
from tests.tale.model import Tale, TaleConfig
from tests.tale.test_tale import LINE, new_tokenizer, same

SQUARE = ((1, 1), (2, 2), (4, 4), (6, 6))
WIDE = ((1, 1), (2, 3), (4, 6), (6, 9))
TALL = tuple((w, h) for h, w in WIDE)


@pytest.fixture(autouse=True)
def _the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, LINE))


def new_pipe(kind: str) -> Pipeline:
    """By a tokenizer whose canvas is the last map, or one that adds maps up; the default is square, of three scales."""
    tokenizer: Tokenizer = new_tokenizer() if kind == "direct" else tiny_tokenizer(SQUARE[:3])
    codes, width = tokenizer.choices, tokenizer.code_dim
    model = Tale(TaleConfig(letters=4, codes=codes, code_dim=width, schedules=(TALL, SQUARE, WIDE), lengths=(3, 4)))
    randomise(model, 1, 0.3)
    model.eval().requires_grad_(False)
    return Pipeline(tokenizer, model, Letters("abcd"), name="tale", defaults={"guidance_scale": 3.0})


@pytest.fixture(params=["direct", "residual"])
def pipe(request: pytest.FixtureRequest) -> Pipeline:
    return new_pipe(request.param)


def million(pipe: Pipeline, tokens: int) -> str:
    return f"{tokens * pipe.tokenizer.stride**2 / 1e6}M"


def picture(width: int, height: int) -> Image.Image:
    numbers = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((width, height))


def test_a_ratio_and_a_size_are_drawn(pipe: Pipeline, tmp_path: Path) -> None:
    side = pipe.tokenizer.stride
    for asked, grid in (
        ({}, (4, 4)),
        ({"ratio": "3:2"}, (4, 6)),
        ({"ratio": 2 / 3, "pixels": million(pipe, 54)}, (9, 6)),
        ({"pixels": 36 * side**2}, (6, 6)),
        ({"height": 6 * side, "width": 9 * side}, (6, 9)),
        ({"size": (6 * side, 4 * side)}, (6, 4)),
    ):
        drawn = pipe(prompt="ab", seed=1, **asked)
        assert drawn.plan == pipe.plan(**asked)
        assert drawn.plan.schedule.grid == drawn.tokens[-1].shape[1:] == grid
        assert drawn.images[0].size == (grid[1] * side, grid[0] * side)
        (saved,) = drawn.save(tmp_path / f"{grid}.png")
        again = pipe.repeat(saved)
        assert same(again.tokens, drawn.tokens)
        assert again.images[0].tobytes() == drawn.images[0].tobytes()
        *_, last = pipe.stream(prompt="ab", seed=1, **asked)
        assert last.images()[0].tobytes() == drawn.images[0].tobytes()
        assert pipe.decode(drawn.tokens)[0].tobytes() == drawn.images[0].tobytes()


def test_pictures_on_their_side_are_the_same_in_any_company_and_on_a_page(pipe: Pipeline) -> None:
    drawn = pipe(prompt=["ab", "cd"], num_images=2, seed=5, ratio="3:2")
    alone = pipe(prompt="cd", seed=7, ratio="3:2")
    assert same(alone.tokens, [one[2:3] for one in drawn.tokens])
    assert alone.images[0].tobytes() == drawn.images[2].tobytes()
    assert drawn.grid().width > drawn.grid().height


def test_what_it_costs_follows_the_shape(pipe: Pipeline) -> None:
    parts = {"tokenizer": pipe.tokenizer, "model": pipe.model}
    square, wide, tall = (pipe.plan(ratio=ratio, pixels=million(pipe, 40)) for ratio in ("1:1", "3:2", "2:3"))
    costs = [(pipe.price(plan, 2).flops, pipe.price(plan, 2).memory) for plan in (square, wide, tall)]
    assert costs[0] < costs[1] == costs[2]
    peaks = [rehearse(plan, parts, 2, torch.device("cpu")).peak for plan in (square, wide, tall)]
    assert peaks[0] < peaks[1]


def test_a_picture_is_encoded_in_the_shape_nearest_to_its_own(pipe: Pipeline) -> None:
    side = pipe.tokenizer.stride
    for size, grid in (((300, 190), (4, 6)), ((50, 90), (6, 4)), ((50, 55), (4, 4))):
        tokens, steps = pipe.encode(picture(*size)), pipe.reconstruct(picture(*size))
        assert tokens[-1].shape[1:] == grid
        assert steps[-1].size == (grid[1] * side, grid[0] * side)
        assert pipe.decode(tokens)[0].tobytes() == steps[-1].tobytes()
    longer = pipe.plan(ratio="3:2", pixels=million(pipe, 54)).schedule
    tokens = pipe.encode([picture(50, 90), picture(90, 50)], longer)
    assert tokens[-1].shape == (2, 6, 9)
    assert pipe.decode(tokens)[1].size == (9 * side, 6 * side)
    assert same(pipe.encode(picture(90, 50), longer), [one[1:] for one in tokens])
    with pytest.raises(InputError, match=rf"pictures become {4 * side}x{4 * side} and {4 * side}x{6 * side} pixels"):
        pipe.encode([picture(50, 50), picture(90, 60)])
    turned = picture(60, 90)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.info["exif"] = exif.tobytes()
    assert pipe.encode(turned)[-1].shape[1:] == (4, 6)


def test_the_first_scales_are_a_coarse_picture_of_the_usual_size() -> None:
    pipe = new_pipe("residual")
    tokens = pipe.encode(picture(90, 60), pipe.plan(ratio="3:2", pixels=54 * 16).schedule)
    schedule = pipe.plan(ratio="3:2", pixels=54 * 16).schedule
    assert pipe.decode(tokens[:2])[0].size == (24, 16)
    assert pipe.decode(tokens[:3])[0].size == (24, 16)
    assert pipe.decode(tokens[:2], schedule=schedule)[0].size == (36, 24)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"ratio": "abc"}, "ratio is 'abc'; expected what this model draws, width to height: 2:3, 1:1, 3:2"),
        ({"ratio": "9:1"}, "ratio is '9:1'"),
        ({"pixels": "1M"}, r"pixels is '1M'; expected what this model draws at 1:1: 0\.001M, 0\.0023M"),
        ({"height": 64}, r"height is 64; this model draws 32x32 pixels \(height x width\) unless height and width are"),
        ({"height": 32, "width": 50}, r"size is \(32, 50\); the nearest that this model draws is 32x48 pixels"),
        ({"size": 32}, "size is 32; expected height and width"),
        ({"size": (32, 0)}, r"size is \(32, 0\); expected height and width"),
        ({"size": (32, 32), "height": 32, "width": 32}, "height, width and size were given; expected height and"),
        ({"size": (32, 32), "ratio": "1:1"}, "size and ratio were both given; a size says both, so leave ratio out"),
        ({"num_inference_steps": 3}, "one step per scale, 3 here"),
    ],
)
def test_what_it_does_not_draw_is_refused_in_a_sentence(asked: dict[str, Any], sentence: str) -> None:
    pipe = new_pipe("direct")
    for call in (pipe, pipe.stream):
        with pytest.raises(InputError, match=sentence):
            call(prompt="ab", **asked)
    with pytest.raises(InputError, match=sentence):
        pipe.plan(**asked)


def test_a_near_ratio_is_taken_and_said_and_a_plan_has_its_own() -> None:
    pipe = new_pipe("direct")
    with pytest.warns(UserWarning, match="ratio is 1.4; the nearest .* is 3:2, so pictures have 32x48 pixels"):
        assert pipe(prompt="a", ratio=1.4).images[0].size == (48, 32)
    with pytest.raises(PlanError, match="a plan was given together with ratio"):
        pipe(prompt="a", ratio="3:2", plan=pipe.plan())


def test_a_model_of_one_size_says_what_it_draws() -> None:
    pipe = tiny_pipeline()
    assert same(pipe("face", seed=1, ratio="1:1", pixels=256).tokens, pipe("face", seed=1).tokens)
    for asked in ({"ratio": "3:2"}, {"ratio": 1.05}):
        with pytest.raises(InputError, match=r"expected what this model draws, width to height: 1:1$"):
            pipe("face", **asked)
    with pytest.raises(InputError, match=r"pixels is '1M'; expected what this model draws at 1:1: 0\.00026M$"):
        pipe("face", pixels="1M")


def test_the_command_line_draws_them(tmp_path: Path, nextscale: Command) -> None:
    pipe = new_pipe("residual")
    pipe.save_pretrained(tmp_path / "tale")
    again = library.load(tmp_path / "tale", device="cpu", dtype="float32")
    model = ("--model", tmp_path / "tale", "--dtype", "float32")
    words = ("generate", "ab", "-n", "3", "--seed", "1", "--ratio", "3:2", "--pixels", "0.00086M", "--strip", *model)
    done = nextscale(*words, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    drawn = again(prompt="ab", num_images=3, seed=1, ratio="3:2", pixels=864)
    for one, image in zip(told["images"], drawn.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(one["file"])), np.asarray(image))
    with Image.open(told["grid"]) as page:
        assert page.size == (2 * 36 * 4 + 3 * 8, 2 * (24 * 4 + 20) + 3 * 8)
    with Image.open(told["strip"]) as page:
        assert page.size == (4 * 36 * 4 + 5 * 8, 3 * (24 * 4 + 20) + 4 * 8)
    done = nextscale("generate", "--like", told["images"][1]["file"], *model, "-o", "like", "--json")
    assert done.code == 0, done.err
    (like,) = json.loads(done.out)["images"]
    assert np.array_equal(np.asarray(Image.open(like["file"])), np.asarray(drawn.images[1]))
    done = nextscale("generate", "ab", "--ratio", "7:5", *model)
    assert "ratio is '7:5'; the nearest that this model draws is 3:2, so pictures have 16x24 pixels" in done.err
    done = nextscale("generate", "ab", "--ratio", "0:3", *model)
    assert done.code == 2
    assert "ratio is '0:3'; expected what this model draws, width to height: 2:3, 1:1, 3:2" in done.err
    done = nextscale("generate", "--like", told["images"][1]["file"], "--ratio", "3:2", *model)
    assert "leave --ratio out" in done.err


def test_info_and_plan_know_the_shapes(tmp_path: Path, nextscale: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nextscale.evaluation.machine.machine", lambda *_: Machine(1e9, 1e9, 1e-6, False))
    pipe = new_pipe("residual")
    pipe.save_pretrained(tmp_path / "tale")
    done = nextscale("info", tmp_path / "tale")
    assert "draws     3:2: 16x24, 24x36 pixels (height x width)\n" in done.out
    told = json.loads(nextscale("info", tmp_path / "tale", "--json").out)
    assert told["sizes"] == {"2:3": [[24, 16], [36, 24]], "1:1": [[16, 16], [24, 24]], "3:2": [[16, 24], [24, 36]]}
    asked = ("plan", tmp_path / "tale", "--ratio", "3:2", "--pixels", "0.00086M")
    told = json.loads(nextscale(*asked, "--against", tmp_path / "tale", "--dtype", "float32", "--json").out)
    plan = pipe.plan(ratio="3:2", pixels=864)
    assert told["plan"] == json.loads(json.dumps(plan.to_dict()))
    assert told["flops"] == pipe.price(plan).flops
    assert told["against"]["others"][0]["total"] == told["against"]["first"]["total"]
    assert "85 tokens on 4 scales to 24x36 pixels" in nextscale(*asked).out
    done = nextscale("plan", tmp_path / "tale", "--pixels", "1M")
    assert done.code == 2
    assert "pixels is '1M'; expected what this model draws at 1:1" in done.err


def test_a_picture_goes_through_a_file_of_tokens(tmp_path: Path, nextscale: Command) -> None:
    pipe = new_pipe("residual")
    pipe.save_pretrained(tmp_path / "tale")
    picture(90, 60).save(tmp_path / "wide.png")
    model = ("--model", tmp_path / "tale", "--dtype", "float32")
    done = nextscale("encode", "wide.png", *model)
    assert "31 tokens each, on the scales 1x1 2x3 4x6" in done.out
    done = nextscale("decode", "tokens.safetensors", *model, "-o", "again.png")
    assert done.code == 0, done.err
    again = library.load(tmp_path / "tale", device="cpu", dtype="float32")
    wanted = again.decode(again.encode(picture(90, 60)))[0]
    assert np.array_equal(np.asarray(Image.open("again.png")), np.asarray(wanted))
    done = nextscale("reconstruct", "wide.png", *model, "--json")
    assert json.loads(done.out)["scales"] == ["1x1", "2x3", "4x6"]
