"""``nextscale plan`` prices a model without its weights, and says the same as the model that is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import nextscale as library
from tests.cli.conftest import Command


def test_the_table_has_a_line_per_scale_and_the_two_ends(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("plan", tiny_model, "--guidance-scale", 2)
    assert done.code == 0, done.err
    assert [size for size in ("1x1", "2x2", "3x3", "4x4", "condition", "decode", "total") if size not in done.out] == []
    assert "30 tokens on 4 scales" in done.out


def test_the_price_is_that_of_the_loaded_model(nextscale: Command, tiny_model: Path) -> None:
    words = ["--num-images", 3, "--guidance-scale", 2, "--top-k", 5, "--smooth", "--dtype", "float32", "--json"]
    told = json.loads(nextscale("plan", tiny_model, *words).out)
    pipe = library.load(tiny_model, device="cpu", dtype="float32")
    plan = pipe.plan(guidance_scale=2, top_k=5, smooth=True)
    priced = pipe.price(plan, 3)
    assert told["plan"] == json.loads(json.dumps(plan.to_dict()))
    assert (told["flops"], told["memory"]) == (priced.flops, priced.memory)
    assert sum(row["share"] for row in told["rows"]) == pytest.approx(1)


def test_the_time_is_the_flops_at_the_speed_of_this_machine(nextscale: Command, tiny_model: Path) -> None:
    told = json.loads(nextscale("plan", tiny_model, "--json").out)
    assert told["seconds"] == pytest.approx(told["flops"] / told["flops_per_second"])
    assert told["flops_per_second"] > 1e8
    assert "time: at least" in nextscale("plan", tiny_model).out


def test_weights_are_not_needed(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    bare, whole = (nextscale("plan", model).out.splitlines() for model in ("bare", tiny_model))
    assert bare[1:-1] == whole[1:-1]  # all but the name and the time


# Parameters of the published models in millions, as their weight files count them.
@pytest.mark.parametrize(("name", "millions", "tokens"), [("var-d16", 310.28, 680), ("var-d36", 2353.9, 2240)])
def test_a_published_model_is_priced_by_name(nextscale: Command, name: str, millions: float, tokens: int) -> None:
    told = json.loads(nextscale("plan", name, "--json").out)
    assert told["parameters"]["model"] / 1e6 == pytest.approx(millions, abs=0.05)
    assert told["parameters"]["tokenizer"] / 1e6 == pytest.approx(108.95, abs=0.01)
    sizes = [row["size"] for row in told["plan"]["rows"]]
    assert sum(h * w for h, w in sizes) == tokens
    assert told["plan"]["rows"][-1]["guidance"] == [2.5, -1.5]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nonsense"], "no model 'nonsense'"),
        (["m-var-d16-2048"], "no published size 'm-var-d16-2048'; m-var-d16 has 256, 512 or 1024 pixels"),
        (["var-d17"], "no size 'var-d17' to plan; there are var-d12, var-d16"),
        (["var-d16", "--temperature", "0"], "temperature is 0"),
        (["var-d16", "--top-k", "5000"], "top_k is 5000, but the tokenizer has 4096 codes"),
        (["var-d16", "--dtype", "int4"], "no dtype 'int4'"),
    ],
)
def test_what_cannot_be_planned_is_refused(nextscale: Command, words: list[str], expected: str) -> None:
    done = nextscale("plan", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


def test_a_folder_without_a_model_is_refused(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "part")
    config = json.loads((tmp_path / "part" / "config.json").read_text())
    del config["components"]["model"]
    (tmp_path / "part" / "config.json").write_text(json.dumps(config))
    for verb in (["plan", "part"], ["generate", "-c", "0", "--model", "part"]):
        done = nextscale(*verb)
        assert done.code == 2
        assert "model" in done.err
