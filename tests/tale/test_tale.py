"""A second system of another kind is new files and one line, too: texts with cross-attention, a negative text, a
prefix, three branches, passes, a canvas of the last map alone, two lessons, a conditioner with a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import nextscale as library
from nextscale import systems
from nextscale.checkpoints.convert.files import convert_files
from nextscale.checkpoints.published import LICENCES, PUBLISHED, REPOS, Published
from nextscale.checkpoints.store import save_checkpoint
from nextscale.conditions.base import Features, Source
from nextscale.errors import CheckpointError
from nextscale.pipeline import Pipeline
from nextscale.plan import Plan
from nextscale.price import price
from nextscale.rehearse import rehearse
from nextscale.systems import System
from nextscale.training.objectives.generator import GeneratorObjective
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from nextscale.verification.run import verify_files
from nextscale.verification.selftest import selftest
from tests.checkpoints.hub_server import Hub, running_hub, use
from tests.cli.conftest import Command
from tests.makers import randomise, tiny_pipeline
from tests.tale import converter
from tests.tale.conditioner import Letters
from tests.tale.model import Tale, TaleConfig
from tests.tale.tokenizer import TaleTokenizer, TaleTokenizerConfig

LINE = System(
    name="tale",
    title="Tale",
    paper="2600.00003",
    types={
        "tale_codes": ("tests.tale.tokenizer", "TaleTokenizer", "TaleTokenizerConfig"),
        "tale": ("tests.tale.model", "Tale", "TaleConfig"),
    },
    converter="tests.tale.converter",
    verification="tests.tale.verification",
    recipes={"tale": "tests.tale.recipe.TaleRecipe"},
    conditioners={"letters": "tests.tale.conditioner.Letters"},
)
RECIPE = """
kind: tale
data: {resolution: 32, copies: COPIES}
optim: {lr: 1.0e-2}
schedule: {steps: 4}
run: {batch: 8, log_every: 1, save_every: 2, precision: fp32}
loss: {label_drop: 0.3, masked: MASKED}
"""


@pytest.fixture(autouse=True)
def _the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, LINE))


def new_tokenizer() -> TaleTokenizer:
    tokenizer = TaleTokenizer(TaleTokenizerConfig())
    randomise(tokenizer)
    return tokenizer.eval().requires_grad_(False)


def new_model() -> Tale:
    model = Tale(TaleConfig(letters=4))
    randomise(model, 1, 0.3)
    return model.eval().requires_grad_(False)


@pytest.fixture
def pipe() -> Pipeline:
    return Pipeline(new_tokenizer(), new_model(), Letters("abcd"), name="tale", defaults={"guidance_scale": 3.0})


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def three(plan: Plan) -> Plan:
    """The plan of three branches: the text, the negative text, and neither."""
    rows = [{**row, "guidance": (2.0, -0.5, -0.5)} for row in plan.to_dict()["rows"]]
    return Plan.from_dict({**plan.to_dict(), "rows": rows, "branches": [["text"], ["negative"], []]})


def test_a_negative_prompt_is_read(pipe: Pipeline) -> None:
    plan = pipe.plan()
    assert plan.branches == (("text",), ("negative",))
    asked: dict[str, Any] = {"prompt": ["ab", "cd"], "seed": 3}
    plain, led = pipe(**asked), pipe(**asked, negative_prompt=["", "a"])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(plain.tokens, led.tokens, strict=True))
    assert not same(plain.tokens, led.tokens)
    assert same(pipe(prompt="cd", negative_prompt="a", seed=4).tokens, [tokens[1:] for tokens in led.tokens])
    assert pipe.plan(guidance_scale=1).branches == (("text",),)
    with pytest.warns(UserWarning, match="no branch of the plan sees what was given as 'negative'"):
        pipe(prompt="ab", negative_prompt="cd", guidance_scale=1)


def test_it_plans_prices_and_is_rehearsed_with_three_branches(pipe: Pipeline) -> None:
    plan = three(pipe.plan())
    parts = {"tokenizer": pipe.tokenizer, "model": pipe.model}
    assert price(plan, parts, 2).memory > 0
    assert rehearse(plan, parts, 2, torch.device("cpu")).peak > 0
    drawn = pipe(prompt=["ab", "cd"], negative_prompt="b", seed=1, plan=plan)
    assert not same(drawn.tokens, pipe(prompt=["ab", "cd"], negative_prompt="b", seed=1).tokens)
    assert same(pipe(prompt="cd", negative_prompt="b", seed=2, plan=plan).tokens, [one[1:] for one in drawn.tokens])


def test_passes_best_of_two_and_no_condition(pipe: Pipeline, tmp_path: Path) -> None:
    rows = pipe.plan().to_dict()
    rows["rows"][2]["passes"] = (6, 10)
    plan = Plan.from_dict(rows)
    drawn = pipe(prompt="ab", seed=1, plan=plan)
    assert drawn.tokens[2].shape == (1, 4, 4)
    assert not same(drawn.tokens, pipe(prompt="ab", seed=1).tokens)
    (picture,) = drawn.save(tmp_path / "a.png")
    assert same(pipe.repeat(picture).tokens, drawn.tokens)
    nothing = Plan.from_dict({**rows, "branches": [[]], "rows": [{**r, "guidance": (1.0,)} for r in rows["rows"]]})
    assert len(pipe(num_images=2, seed=1, plan=nothing)) == 2


def test_it_is_saved_loaded_and_repeated(pipe: Pipeline, tmp_path: Path, nextscale: Command) -> None:
    pipe.save_pretrained(tmp_path / "tale")
    again = library.load(tmp_path / "tale", device="cpu", dtype="float32")
    drawn = again(prompt=["ab", "cd"], negative_prompt=[None, "a"], seed=7)
    assert same(drawn.tokens, pipe(prompt=["ab", "cd"], negative_prompt=[None, "a"], seed=7).tokens)
    pictures = drawn.save(tmp_path / "out")
    assert [path.name for path in pictures] == ["ab-7.png", "cd-8.png"]
    page = drawn.grid()
    page.save(tmp_path / "grid.png")
    assert same(again.repeat(tmp_path / "grid.png").tokens, drawn.tokens)
    for picture in (pictures[1], tmp_path / "grid.png"):
        model = ("--model", tmp_path / "tale", "--dtype", "float32")
        done = nextscale("generate", "--like", picture, *model, "-o", "like")
        assert done.code == 0, done.err
    one = np.asarray(Image.open(next(Path("like").glob("cd-8.png"))))
    assert np.array_equal(one, np.asarray(Image.open(pictures[1])))
    assert len(list(Path("like").glob("*.png"))) >= 3


def test_the_command_line_draws_words(pipe: Pipeline, tmp_path: Path, nextscale: Command) -> None:
    pipe.save_pretrained(tmp_path / "tale")
    done = nextscale("generate", "ab", "-n", "2", "--seed", "1", "--model", tmp_path / "tale", "--json", "--strip")
    assert done.code == 0, done.err
    for verb in (["info", tmp_path / "tale"], ["plan", tmp_path / "tale"], ["plan", "tale-s"]):
        done = nextscale(*verb)
        assert done.code == 0, done.err
    done = nextscale("generate", "-c", "1", "--model", tmp_path / "tale")
    assert done.code == 2
    assert "--class is '1', but this model reads Letters; say what to draw in words" in done.err
    negative = ("--negative-prompt", "cd", "--seed", "5", "--dtype", "float32", "--model", tmp_path / "tale")
    done = nextscale("generate", "ab c", "a b c", *negative, "--json")
    assert done.code == 2
    assert "there is no letter ' '" in done.err
    done = nextscale("generate", "ab", *negative, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["recipe"]["entries"] == [{"prompt": "ab", "negative_prompt": "cd"}]
    drawn = pipe(prompt="ab", negative_prompt="cd", seed=5).images[0]
    assert np.array_equal(np.asarray(Image.open(Path("out") / "ab-5.png")), np.asarray(drawn))
    done = nextscale("evaluate", tmp_path / "tale", "--data", pictures(tmp_path / "set"))
    assert done.code == 2
    assert "has no captions, and a text model reads them; expected a metadata.jsonl" in done.err
    for image in pictures(tmp_path / "set").rglob("*.png"):
        image.with_suffix(".txt").write_text("ab")
    done = nextscale("evaluate", tmp_path / "tale", "--data", tmp_path / "set", "--device", "cpu")
    assert done.code == 0, done.err
    assert "Generator: cross-entropy in nats per" in done.out


def test_settings_of_its_conditioner_are_where_they_belong(pipe: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "tale"
    pipe.save_pretrained(folder)
    (folder / "letters.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"letters.json holds \[1\]; expected a table"):
        library.load(folder)
    config = json.loads((folder / "config.json").read_text())
    config["conditioner"]["config"] = {"letters": "abcd"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"that of letters stands in letters\.json"):
        library.load(folder)


def test_no_file_of_a_conditioner_outlives_it(pipe: Pipeline, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    tiny_pipeline().save_pretrained(folder)
    (folder / "mine.txt").touch()
    for one in (pipe, tiny_pipeline(), pipe):
        one.save_pretrained(folder, overwrite=True)
        own = "classes.json" if one.conditioner.sort == "class-conditional" else "letters.json"
        weights = {"model.safetensors", "tokenizer.safetensors", "config.json", "digests.json"}
        assert {path.name for path in folder.iterdir()} == {own, "mine.txt"} | weights


def test_it_tests_itself(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "tale")
    found = selftest(tmp_path / "tale", device="cpu", dtype="float32")
    assert found.recipe["entry"] == {"prompt": "a", "negative_prompt": None}
    assert any(check.name == "its tokens, teacher-forced" for check in found.checks)


def official(tmp_path: Path) -> list[Path]:
    for prefix, module in {"tale": new_model(), "pictures": new_tokenizer()}.items():
        torch.save({f"{prefix}.{name}": t for name, t in module.state_dict().items()}, tmp_path / f"{prefix}.pth")
    return [tmp_path / "tale.pth", tmp_path / "pictures.pth"]


def test_what_was_converted_draws_at_once(tmp_path: Path, pipe: Pipeline) -> None:
    convert_files(official(tmp_path), tmp_path / "out")
    again = library.load(tmp_path / "out", device="cpu", dtype="float32")
    assert isinstance(again.conditioner, Letters)
    assert again.defaults["top_k"] == 9
    asked: dict[str, Any] = {"prompt": "ab", "seed": 1, "guidance_scale": 2, "top_k": 3}
    assert same(again(**asked).tokens, pipe(**asked).tokens)


def test_it_is_verified(tmp_path: Path) -> None:
    model, inputs = new_model(), {"x_1": torch.randn(2, 4, 2, 2), "x_2": torch.randn(2, 4, 4, 4)}
    inputs |= {"states": torch.randn(2, 8, 4), "mask": torch.ones(2, 8, dtype=torch.bool)}
    features = Features(2, {"text": Source("text", {"states": inputs["states"], "mask": inputs["mask"]})})
    logits = model([inputs["x_1"], inputs["x_2"]], model.condition(features))
    stored = {f"in/{name}": tensor for name, tensor in inputs.items()} | {"out/logits": logits}
    stored |= {f"state/{n}": t for n, t in converter.to_official(model.state_dict(), model.config).items()}
    facts = {"format": "1", "system": "tale", "kind": "tale_logits", "case": "one", "config": "{}"}
    save_file(stored, tmp_path / "x.safetensors", metadata=facts | {"tolerance_float": "1e-4"})
    (report,) = verify_files([tmp_path / "x.safetensors"])
    assert report.ok, report


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with running_hub() as server:
        use(server, tmp_path / "hf", monkeypatch)
        yield server


def test_a_published_one_is_fetched_with_its_conditioner(
    pipe: Pipeline, tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, nextscale: Command
) -> None:
    tokenizer = ("me/tale", "pictures.pth")
    row = Published("tale-s", "tale", 2, 32, "tale.pth", 4160, "none", tokenizer=tokenizer, tokenizer_parameters=79)
    monkeypatch.setitem(PUBLISHED, "tale-s", row)
    monkeypatch.setitem(REPOS, "tale", "me/tale")
    monkeypatch.setitem(LICENCES, "me/tale", "mit")
    hub.files |= {("me/tale", path.name): path.read_bytes() for path in official(tmp_path)}
    assert nextscale("convert", "tale-s", "-o", tmp_path / "made").code == 0
    assert nextscale("convert", "tale-s", "-o", tmp_path / "made", "--overwrite").code == 0
    for name in ("tale-s", tmp_path / "made"):
        again = library.load(name, device="cpu", dtype="float32")
        assert isinstance(again.conditioner, Letters)
        assert same(again(prompt="ab", seed=1, top_k=0, guidance_scale=3).tokens, pipe(prompt="ab", seed=1).tokens)
    done = nextscale("convert", *official(tmp_path), "-o", tmp_path / "named", "--class-names", "imagenet-1k")
    assert "class names were given, but the transformer reads Letters" in done.err


def test_it_comes_from_the_hub_with_the_file_of_its_conditioner(pipe: Pipeline, tmp_path: Path, hub: Hub) -> None:
    pipe.save_pretrained(tmp_path / "tale")
    hub.files |= {("me/tale", path.name): path.read_bytes() for path in (tmp_path / "tale").iterdir()}
    again = library.load("me/tale", device="cpu", dtype="float32")
    assert isinstance(again.conditioner, Letters)


def pictures(folder: Path) -> Path:
    numbers = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        for i in range(count):
            path = folder / split / ("ab" if i % 2 else "cd") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((40, 40), 0).save(path)
    return folder


def apart(one: torch.nn.Module, two: torch.nn.Module) -> float:
    """The mean difference of their weights."""
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return float(torch.cat([(a - b).abs().flatten() for a, b in pairs]).mean())


@pytest.mark.parametrize(("masked", "copies"), [("false", "1"), ("true", "0")])
def test_it_trains_by_either_lesson_and_data_and_resumes(tmp_path: Path, masked: str, copies: str) -> None:
    save_checkpoint(tmp_path / "tokenizer", {"tokenizer": new_tokenizer()})
    (tmp_path / "tale.yaml").write_text(RECIPE.replace("MASKED", masked).replace("COPIES", copies), encoding="utf-8")
    images = pictures(tmp_path / "set")

    def begin(run: str, *more: str, init: str | None = None) -> Trainer:
        recipe, tokenizer = tmp_path / "tale.yaml", str(tmp_path / "tokenizer")
        return start("tale", recipe, images, tmp_path / run, tokenizer, list(more), "cpu", init=init)

    begin("whole").run()
    begin("parts", "run.accumulate=2").run(2)
    begin("parts", "run.accumulate=2").run()
    whole, parts = (
        library.load(tmp_path / run / "export", device="cpu", dtype="float32") for run in ("whole", "parts")
    )
    assert whole(prompt="ab", seed=1).images[0].size == (32, 32)
    begin("other", "loss.label_drop=1.0").run()
    other = library.load(tmp_path / "other" / "export", device="cpu", dtype="float32")
    # Adam moves a weight of hardly any gradient by its sign, so single ones may differ; other steps move them all.
    assert apart(whole.model, parts.model) < 1e-5
    assert apart(whole.model, other.model) > 1e-3
    assert (tmp_path / "whole" / "samples").is_dir()
    begun = begin("more", init=str(tmp_path / "whole"))
    assert isinstance(begun.objective, GeneratorObjective)
    assert isinstance(begun.objective.conditioner, Letters)
    assert same([*begun.objective.module.state_dict().values()], [*whole.model.state_dict().values()])
    begun.run()
