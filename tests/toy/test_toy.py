"""A system is new files and one line: a toy with a tokenizer, conditioner, model, converter, verification, recipe and
lesson of its own does everything that the library offers, and nothing in ``src`` knows of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import nextscale as library
from nextscale import systems
from nextscale.checkpoints.card import hub_card
from nextscale.checkpoints.convert.files import convert_files, export_file
from nextscale.checkpoints.store import save_checkpoint
from nextscale.conditions.base import Features, Source
from nextscale.errors import CheckpointError, InputError, PlanError
from nextscale.pipeline import Pipeline
from nextscale.plan import Plan
from nextscale.price import table
from nextscale.rehearse import rehearse
from nextscale.state import Keep
from nextscale.systems import System
from nextscale.training.start import start
from nextscale.training.trainer import Trainer
from nextscale.verification.run import verify_files
from nextscale.verification.selftest import selftest
from tests.cli.conftest import Command
from tests.makers import randomise
from tests.toy import converter
from tests.toy.conditioner import Words
from tests.toy.model import Toy, ToyConfig
from tests.toy.tokenizer import ToyTokenizer, ToyTokenizerConfig

LINE = System(
    name="toy",
    title="Toy",
    paper="2600.00002",
    types={
        "toy_bits": ("tests.toy.tokenizer", "ToyTokenizer", "ToyTokenizerConfig"),
        "toy": ("tests.toy.model", "Toy", "ToyConfig"),
    },
    converter="tests.toy.converter",
    verification="tests.toy.verification",
    recipes={"toy": "tests.toy.recipe.ToyRecipe"},
    conditioners={"toy_words": "tests.toy.conditioner.Words"},
)
"""The one line."""
WORDS = ("red", "blue", "very")
RECIPE = """
kind: toy
data: {resolution: 32, copies: 2, flip: 0.5}
optim: {lr: 1.0e-3}
schedule: {steps: 2}
run: {batch: 8, log_every: 1}
loss: {label_drop: 0.5}
"""


@pytest.fixture(autouse=True)
def _the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, LINE))


def new_tokenizer() -> ToyTokenizer:
    tokenizer = ToyTokenizer(ToyTokenizerConfig())
    randomise(tokenizer)
    return tokenizer.eval().requires_grad_(False)


def new_model() -> Toy:
    model = Toy(ToyConfig(words=len(WORDS)))
    randomise(model, 1, 0.6)
    return model.eval().requires_grad_(False)


@pytest.fixture
def pipe() -> Pipeline:
    defaults = {"guidance_scale": 2.0, "temperature": 0.8}
    return Pipeline(new_tokenizer(), new_model(), Words(WORDS), name="toy", defaults=defaults)


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_generates_whatever_the_batch_and_sees_its_words(pipe: Pipeline) -> None:
    together = pipe(prompt=["red", "very very blue"], num_images=2, seed=3)
    assert [tuple(tokens.shape) for tokens in together.tokens] == [(4, s, s, 4) for s in (1, 2, 4)]
    assert together.images[0].size == (32, 32)
    alone = pipe(prompt="very very blue", seed=5)
    assert same(alone.tokens, [tokens[2:3] for tokens in together.tokens])
    assert not same(pipe(prompt="red", seed=5).tokens, alone.tokens)
    assert not same(pipe(prompt="very very blue", seed=5, guidance_scale=1).tokens, alone.tokens)
    with pytest.raises(InputError, match="there is no word 'green'; expected some of red, blue, very"):
        pipe(prompt="green")
    with pytest.raises(InputError, match="this model reads words alone; expected prompt="):
        pipe(class_labels=[1], prompt="red")


def test_it_plans_prices_and_is_rehearsed(pipe: Pipeline) -> None:
    plan = pipe.plan()
    assert (plan.branches, plan.memories["model"].policy) == ((("words",), ()), "none")
    priced = pipe.price(plan, 2)
    assert priced.memory == 0
    assert "none" in table(plan, priced)
    parts = {"tokenizer": pipe.tokenizer, "model": pipe.model}
    assert rehearse(plan, parts, 2, torch.device("cpu")).peak > 0
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_its_published_size_is_planned_by_name(nextscale: Command) -> None:
    done = nextscale("plan", "toy-s")
    assert done.code == 0, done.err
    assert "temperature" in done.out or "T 0.9" in done.out


def test_it_streams_encodes_decodes_and_goes_on_with_some(pipe: Pipeline, tmp_path: Path) -> None:
    *_, last = pipe.stream(prompt=["red", "blue"], seed=1)
    whole = pipe(prompt=["red", "blue"], seed=1)
    assert torch.equal(last.tokens, whole.tokens[-1])
    tokens = pipe.encode(whole.images)
    assert [tuple(one.shape) for one in tokens] == [(2, s, s, 4) for s in (1, 2, 4)]
    assert len(pipe.decode(tokens)) == 2
    assert len(pipe.reconstruct(whole.images[0])) == 3
    kept = pipe(prompt=["red", "blue"], seed=1, callback_on_scale_end=lambda event: Keep([1]) if event.k == 0 else None)
    assert same(kept.tokens, [tokens[1:] for tokens in whole.tokens])
    with pytest.raises(PlanError, match="draws square scales and cannot draw the scales 1 2x3"):
        pipe.model.check(library.ScaleSchedule(((1, 1), (2, 3))))


def test_it_is_saved_loaded_and_repeats_a_picture(pipe: Pipeline, tmp_path: Path, nextscale: Command) -> None:
    pipe.save_pretrained(tmp_path / "toy")
    again = library.load(tmp_path / "toy", device="cpu", dtype="float32")
    assert isinstance(again.conditioner, Words)
    assert again.conditioner.words == WORDS
    drawn = again(prompt="very red", seed=7)
    assert same(drawn.tokens, pipe(prompt="very red", seed=7).tokens)
    (picture,) = drawn.save(tmp_path / "very.png")
    assert same(again.repeat(picture).tokens, drawn.tokens)
    done = nextscale("generate", "--like", picture, "--model", tmp_path / "toy", "--dtype", "float32")
    assert done.code == 0, done.err
    written = next(Path("out").glob("very-red-7*.png"))
    assert np.array_equal(np.asarray(Image.open(written)), np.asarray(Image.open(picture)))
    assert "Toy ([arXiv 2600.00002]" in hub_card(tmp_path / "toy", "me/toy", {})
    info = nextscale("info", tmp_path / "toy")
    assert info.code == 0, info.err


def test_it_tests_itself_though_it_cannot_name_what_it_knows(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "toy")
    found = selftest(tmp_path / "toy", device="cpu", dtype="float32")
    assert found.recipe["plan"]["branches"] == ((),)


def official(tmp_path: Path) -> dict[str, Path]:
    """Official files of the toy."""
    found = {"toy": new_model(), "bits": new_tokenizer()}
    for prefix, module in found.items():
        state = {f"module.{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
        torch.save(state, tmp_path / f"{prefix}.pth")
    return {prefix: tmp_path / f"{prefix}.pth" for prefix in found}


def test_its_files_are_converted_both_ways(tmp_path: Path) -> None:
    files = official(tmp_path)
    report = convert_files(list(files.values()), tmp_path / "out")
    assert "Toy transformer" in str(report)
    assert "Toy tokenizer" in str(report)
    export_file(tmp_path / "out", "model", tmp_path / "back.safetensors")
    state = torch.load(files["toy"], weights_only=True)
    back = load_file(tmp_path / "back.safetensors")
    assert {f"module.{name}" for name in back} == state.keys()
    assert all(torch.equal(tensor, state[f"module.{name}"]) for name, tensor in back.items())
    other = ToyTokenizer(ToyTokenizerConfig(bits=5))
    torch.save({f"bits.{name}": tensor for name, tensor in other.state_dict().items()}, files["bits"])
    with pytest.raises(CheckpointError, match="has 5 draws per token but the transformer expects 4"):
        convert_files(list(files.values()), tmp_path / "misfit")


def test_it_is_verified(tmp_path: Path) -> None:
    model, inputs = new_model(), {"x_1": torch.randn(2, 4, 2, 2), "x_2": torch.randn(2, 4, 4, 4)}
    inputs["counts"] = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    features = Features(2, {"words": Source("words", {"counts": inputs["counts"]})})
    logits = model([inputs["x_1"], inputs["x_2"]], model.condition(features))
    stored = {f"in/{name}": tensor for name, tensor in inputs.items()}
    stored |= {
        f"state/{name}": tensor for name, tensor in converter.to_official(model.state_dict(), model.config).items()
    }
    facts = {"format": "1", "system": "toy", "kind": "logits", "case": "one", "config": "{}", "tolerance_float": "1e-4"}
    for change, agrees in ((0.0, True), (0.1, False)):
        save_file(stored | {"out/logits": logits + change}, tmp_path / "x.safetensors", metadata=facts)
        (report,) = verify_files([tmp_path / "x.safetensors"])
        assert report.ok == agrees, report


def pictures(folder: Path) -> Path:
    numbers = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for i in range(count):
            path = folder / split / ("very-red" if i % 2 else "blue") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((40, 40), 0).save(path)
    return folder


def test_it_trains_and_what_it_learnt_draws(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "tokenizer", {"tokenizer": new_tokenizer()})
    (tmp_path / "toy.yaml").write_text(RECIPE, encoding="utf-8")
    images = pictures(tmp_path / "set")

    def begin() -> Trainer:
        recipe, tokenizer = tmp_path / "toy.yaml", str(tmp_path / "tokenizer")
        return start("toy", recipe, images, tmp_path / "run", tokenizer, None, "cpu")

    trainer = begin()
    before = {name: p.detach().clone() for name, p in trainer.objective.module.named_parameters()}
    metrics = trainer.run()
    assert trainer.step == 2
    assert all(np.isfinite(value) for value in metrics.values())
    assert "certainty" in (tmp_path / "run" / "log.jsonl").read_text(encoding="utf-8")
    moved = [name for name, p in trainer.objective.module.named_parameters() if not torch.equal(p, before[name])]
    assert set(moved) == before.keys()
    pipe = library.load(tmp_path / "run" / "export", device="cpu", dtype="float32")
    assert isinstance(pipe.conditioner, Words)
    assert set(pipe.conditioner.words) == set(WORDS)
    assert pipe(prompt="very very blue", seed=1).images[0].size == (32, 32)
    resumed = begin()
    resumed.run()
    assert resumed.step == 2
