"""``nextscale plan`` prices a model without its weights, and says the same as the model that is loaded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import nextscale as library
from nextscale.cli.plan import networks
from nextscale.evaluation.machine import Machine
from nextscale.models.var import VAR, VARConfig
from tests.cli.conftest import Command
from tests.makers import CLASSES, CODE_DIM, CODES, SIZES, tiny_pipeline

ROOT = Path(__file__).parents[2]
HALVES = ("drawing", "decoding")


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


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))


def test_weights_cache_and_activations_stand_side_by_side(nextscale: Command, tiny_model: Path) -> None:
    words = ["plan", tiny_model, "--guidance-scale", 2, "--dtype", "float32"]
    told = json.loads(nextscale(*words, "--json").out)
    assert told["weights"] == 4 * sum(told["parameters"].values())
    for half in HALVES:
        parts = told[half]
        assert parts["total"] == parts["weights"] + parts["cache"] + parts["activations"]
    assert told["drawing"]["cache"] == told["memory"]
    assert told["drawing"]["activations"] == told["activations"] > 0
    assert told["peak_memory"] == max(told["drawing"]["total"], told["decoding"]["total"])
    head, drawing, decoding = nextscale(*words).out.splitlines()[-4:-1]
    assert head.split() == ["memory", "MiB", "weights", "cache", "activations", "total"]
    assert [line.split()[0] for line in (drawing, decoding)] == ["drawing", "decoding"]
    assert float(drawing.split()[1]) == pytest.approx(told["weights"] / 2**20, abs=0.01)


def test_more_pictures_need_more_memory_but_the_same_weights(nextscale: Command, tiny_model: Path) -> None:
    one, eight = (json.loads(nextscale("plan", tiny_model, "-n", n, "--json").out) for n in (1, 8))
    assert one["weights"] == eight["weights"]
    assert eight["memory"] == 8 * one["memory"]
    assert eight["activations"] == pytest.approx(8 * one["activations"], rel=0.05)


def test_a_million_pictures_have_a_price(nextscale: Command) -> None:
    told = json.loads(nextscale("plan", "m-var-d30-1024", "-n", 10**6, "--dtype", "bfloat16", "--json").out)
    assert 10**6 * 50 * 2**20 < told["memory"] < told["peak_memory"]


def test_the_time_is_an_estimate_of_more_than_the_products(nextscale: Command, tiny_model: Path) -> None:
    told = json.loads(nextscale("plan", tiny_model, "--json").out)
    assert told["seconds"] > told["flops"] / told["flops_per_second"]
    assert told["flops_per_second"] > 1e8
    assert "time: about " in nextscale("plan", tiny_model).out


def test_many_seconds_are_written_without_a_power_of_ten(nextscale: Command, tiny_model: Path) -> None:
    time = nextscale("plan", tiny_model, "-n", 1_000_000).out.splitlines()[-1]
    seconds = re.search(r"time: about (\S+) s on .* products (\S+) s", time)
    assert seconds is not None, time
    assert all("e" not in number for number in seconds.groups()), time
    assert float(seconds[1]) > 100


def test_the_peak_is_measured_once_and_again_only_on_request(nextscale: Command, tiny_model: Path) -> None:
    def peak(*words: str) -> float:
        return json.loads(nextscale("plan", tiny_model, "--json", *words).out)["flops_per_second"]

    first = peak()
    (file,) = Path("cache/speed").iterdir()
    idle = json.loads(file.read_text()) | {"busy": False}  # as if nothing else had run meanwhile
    file.write_text(json.dumps(idle))
    assert [peak(), peak()] == [first, first]
    file.write_text(json.dumps(idle | {"flops_per_second": 1e7}))
    assert peak() == 1e7
    assert peak("--measure") > 1e8
    assert peak() > 1e8


def test_a_busy_machine_is_remarked_on_beside_the_answer(
    nextscale: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for sentence, said in (("the machine is busy: so it says", True), (None, False)):
        monkeypatch.setattr("nextscale.device.busy", lambda sentence=sentence: sentence)
        done = nextscale("plan", tiny_model, "--json")
        assert json.loads(done.out)["busy"] is said
        assert ("the machine is busy" in done.err) is said


def test_no_time_is_printed_for_a_device_that_was_never_held_to_one(
    nextscale: Command, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nextscale.device.choose_device", lambda name: (torch.device("meta"), "for this test"))
    monkeypatch.setattr("nextscale.evaluation.machine.machine", lambda *_: Machine(1e9, 1e9, 1e-6, False))
    monkeypatch.setattr("nextscale.device.choose_dtype", lambda name, device: (torch.float32, "for this test"))
    told = json.loads(nextscale("plan", tiny_model, "--json").out)
    assert told["seconds"] is None
    assert "time" not in nextscale("plan", tiny_model).out


def test_two_models_are_held_side_by_side(nextscale: Command, tiny_model: Path, tmp_path: Path) -> None:
    config = VARConfig(depth=8, width=64, heads=8, classes=CLASSES, codes=CODES, code_dim=CODE_DIM, sizes=SIZES)
    tiny_pipeline(VAR(config)).save_pretrained(tmp_path / "other")
    words = ["plan", tiny_model, "--against", "other", "--dtype", "float32"]
    done = nextscale(*words, "-n", 3)
    assert done.code == 0, done.err
    told = json.loads(nextscale(*words, "--json").out)
    first, (second, equal) = told["against"]["first"], told["against"]["others"]
    assert list(first["total"]) == ["1", "2", "4", "8", "16", "32"]
    assert (first["weights"], first["total"]["1"]) == (told["weights"], told["peak_memory"])
    assert abs(equal["parameters"] / first["parameters"] - 1) < abs(second["parameters"] / first["parameters"] - 1)
    for row in ("parameters, million", "weights", "in all, 1 picture", "in all, 3 pictures", "in all, 32 pictures"):
        assert row in done.out
    assert done.out.count("less memory than") == 2


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


# Bytes of keys and values of a guided picture of 1M pixels in bfloat16, if all 13 scales were stored: 5.5 and 12.1 GB.
@pytest.mark.parametrize(
    ("name", "layers", "width", "millions", "stored"),
    [("infinity-2b", 32, 2048, 2204.6, 5.5e9), ("infinity-8b", 40, 3584, 8375.8, 12.1e9)],
)
def test_a_text_model_is_priced_by_name(
    nextscale: Command, name: str, layers: int, width: int, millions: float, stored: float
) -> None:
    told = json.loads(nextscale("plan", name, "--dtype", "bfloat16", "--json").out)
    assert told["parameters"]["model"] / 1e6 == pytest.approx(millions, abs=0.05)
    sizes = [row["size"] for row in told["plan"]["rows"]]
    assert (sum(h * w for h, w in sizes), sizes[-1]) == (10521, [64, 64])
    token = 2 * 2 * 2 * layers * width  # branches, keys and values, bytes
    assert told["memory"] == token * (10521 - 64 * 64)  # ours: the last scale is read by nobody
    assert token * 10521 == pytest.approx(stored, rel=0.01)
    assert told["plan"]["rows"][0]["guidance"] == [3.0, -2.0]
    assert told["plan"]["rows"][0]["temperature"] == (0.5 if name == "infinity-2b" else 1.0)


def test_a_text_model_is_priced_by_ratio_and_pixels(nextscale: Command) -> None:
    """As any other of its schedules; and the larger models are priced without a number of their weights."""
    words = ["--ratio", "3:2", "--pixels", "1M", "--dtype", "bfloat16"]
    told = json.loads(nextscale("plan", "infinity-2b", *words, "--json").out)
    sizes = [row["size"] for row in told["plan"]["rows"]]
    assert sizes[-1] == [52, 78]
    assert told["memory"] == 8 * 32 * 2048 * sum(h * w for h, w in sizes[:-1])
    small = json.loads(nextscale("plan", "infinity-8b-512", "--dtype", "bfloat16", "--json").out)
    assert small["plan"]["rows"][-1]["size"] == [32, 32]
    assert all(t.is_meta for part in networks("infinity-20b")[0].values() for t in part.parameters())


def test_the_price_of_a_text_is_that_of_the_longest_one() -> None:
    parts, _ = networks("infinity-125m")
    model = parts["model"]
    assert model.config.text_length == 512
    kv = 12 * 2 * 512 * 768 * 2 * 768  # keys and values of all blocks
    assert model.condition_flops(1) > kv
    assert model.condition_flops(2) == 2 * model.condition_flops(1)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["infinity-3b"], "no size 'infinity-3b' to plan; there are infinity-125m, "),
        (["infinity-2b", "--ratio", "9:1"], "ratio is '9:1'; expected what this model draws"),
        (["infinity-2b", "--pixels", "7M"], "pixels is '7M'; expected what this model draws at 1:1: 0.066M, "),
        (["nonsense"], "no model 'nonsense'"),
        (["m-var-d16-2048"], "no published size 'm-var-d16-2048'; m-var-d16 has 256, 512 or 1024 pixels"),
        (["var-d17"], "no size 'var-d17' to plan; there are var-d12, var-d16"),
        (["var-d16", "--temperature", "0"], "temperature is 0"),
        (["var-d16", "--top-k", "5000"], "top_k is 5000, but the tokenizer has 4096 codes"),
        (["var-d16", "--dtype", "int4"], "no dtype 'int4'"),
        (["var-d16", "-n", "99999999999999999999999"], "less than or equal to 1000000"),
        (["var-d16", "--against", "nonsense"], "no model 'nonsense'"),
    ],
)
def test_what_cannot_be_planned_is_refused(nextscale: Command, words: list[str], expected: str) -> None:
    done = nextscale("plan", *words)
    assert (done.code, done.out) == (2, "")
    assert expected in done.err


@pytest.mark.parametrize("part", ["model", "tokenizer"])
def test_a_folder_without_a_part_is_refused(nextscale: Command, tiny_model: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "part")
    config = json.loads((tmp_path / "part" / "config.json").read_text())
    del config["components"][part]
    (tmp_path / "part" / "config.json").write_text(json.dumps(config))
    for verb in (["plan", "part"], ["generate", "-c", "0", "--model", "part"]):
        done = nextscale(*verb)
        assert done.code == 2
        assert part in done.err
        assert len(done.err.splitlines()) == 1


def test_the_page_on_m_var_shows_what_the_command_prints(nextscale: Command) -> None:
    page = (ROOT / "docs" / "m-var.md").read_text(encoding="utf-8")
    command = "nextscale plan m-var-d30-1024 --against var-d30-1024 --dtype bfloat16"
    printed = nextscale(*command.split()[1:]).out.rstrip()
    assert "\n".join(f"    {line}".rstrip() for line in (command, "", *printed.splitlines())) in page
