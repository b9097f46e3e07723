"""A conditioner that is no class vocabulary goes through pipeline, recipe, files and command line as it is."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import nextscale as library
from nextscale import systems
from nextscale.checkpoints.card import hub_card
from nextscale.conditions.base import Conditioner, Entry, Features, Source
from nextscale.errors import CheckpointError, InputError
from nextscale.pipeline import Pipeline
from nextscale.recipe import Recipe
from tests.cli.conftest import Command
from tests.cli.conftest import nextscale as nextscale
from tests.makers import tiny_pipeline, tiny_tokenizer, tiny_var

COLOURS = ("red", "green", "blue", "black", "white")


class Colours(Conditioner):
    """Reads the first colour of a prompt, and what a prompt shall not hold."""

    @property
    def gives(self) -> Mapping[str, int]:
        return {"class": len(COLOURS)}

    def resolve(self, prompt: Any = None, negative_prompt: Any = None, **others: Any) -> list[Entry]:
        for name, value in others.items():
            if value is not None:
                raise InputError(f"{name} is {value!r}, which is not read here; expected a prompt")
        prompts = [prompt] if isinstance(prompt, str) else prompt or [""]
        negative = negative_prompt if isinstance(negative_prompt, list) else [negative_prompt or ""] * len(prompts)
        return [{"prompt": one, "negative_prompt": other} for one, other in zip(prompts, negative, strict=True)]

    def features(self, entries: Sequence[Entry]) -> Features:
        seen = [[i for i, colour in enumerate(COLOURS) if colour in entry["prompt"].split()] for entry in entries]
        ids = torch.tensor([found[0] if found else len(COLOURS) for found in seen])
        return Features(len(entries), {"class": Source("class", {"ids": ids}, torch.tensor([not f for f in seen]))})


@pytest.fixture
def pipe() -> Pipeline:
    return Pipeline(tiny_tokenizer(), tiny_var(), Colours(), name="colours")


@pytest.fixture
def saved(pipe: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    system = replace(systems.SYSTEMS[0], name="colours", conditioners={"colours": f"{__name__}.Colours"})
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, system))
    pipe.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_its_prompts_are_drawn_and_streamed(pipe: Pipeline) -> None:
    """The tokens are those of the class that the features name."""
    wanted = tiny_pipeline()([2, None], num_images=2, seed=1).tokens
    result = pipe(prompt=["a blue sky", "a sky"], num_images=2, seed=1)
    *_, last = pipe.stream(prompt=["a blue sky", "a sky"], num_images=2, seed=1)
    for tokens in (result.tokens, last.event.history):
        assert all(torch.equal(a, b) for a, b in zip(tokens, wanted, strict=True))
    assert [entry["prompt"] for entry in last.event.lineage.entries] == ["a blue sky"] * 2 + ["a sky"] * 2
    assert repr(result) == "<GenerationResult: 4 images of a blue sky, a sky, by colours>"
    assert "Colours, 4 scales" in repr(pipe)


def test_its_pictures_are_named_saved_and_repeated(pipe: Pipeline, tmp_path: Path) -> None:
    result = pipe(prompt=["a red/heart", "", "??"], negative_prompt=["", "", "snow"], seed=4)
    assert result.recipe["entries"][2] == {"prompt": "??", "negative_prompt": "snow"}
    written = result.save(tmp_path)
    assert [path.name for path in written] == ["a-red-heart-4.png", "unconditional-5.png", "prompt-6.png"]
    for path, image in zip(written, result.images, strict=True):
        assert pipe.repeat(path).images[0].tobytes() == image.tobytes()
        assert Recipe.read(path).entries == pipe.repeat(path).recipe["entries"]
    result.grid().save(tmp_path / "page.png")
    assert [i.tobytes() for i in pipe.repeat(tmp_path / "page.png")] == [i.tobytes() for i in result]


def test_what_it_does_not_read_is_refused_and_it_is_no_vocabulary(pipe: Pipeline) -> None:
    for argument in ("class_labels", "style", "image"):
        with pytest.raises(InputError, match=f"{argument} is 'x', which is not read here"):
            pipe(prompt="red", **{argument: "x"})  # type: ignore[arg-type]
    assert not hasattr(pipe, "vocabulary")
    with pytest.raises(InputError, match=r"a pipeline has no vocabulary; pipe\.conditioner reads"):
        _ = pipe.vocabulary
    with pytest.raises(CheckpointError, match="the conditioner gives class of 5, and the model reads class of 9"):
        Pipeline(tiny_tokenizer(), tiny_var(classes=9), Colours())


def test_its_checkpoint_says_which_it_is(pipe: Pipeline, saved: Path) -> None:
    """And one whose conditioner is unknown, or has settings that it does not know, is refused."""
    config = json.loads((saved / "config.json").read_text())
    assert (config["format"], config["conditioner"]) == (2, {"type": "colours", "config": {}})
    assert not (saved / "classes.json").exists()
    again = library.load(saved, device="cpu", dtype="float32")
    assert isinstance(again.conditioner, Colours)
    assert again(prompt="red", seed=1).images[0].tobytes() == pipe(prompt="red", seed=1).images[0].tobytes()
    for described, sentence in (
        ({"type": "smells"}, "unknown conditioner 'smells'; this version knows classes, .*colours"),
        ({"type": "colours", "config": {"size": 1}}, "a Colours has no settings, and these are {'size': 1}"),
        (
            {"type": "classes", "config": {"names": []}},
            "config is {'names': .*}; that of classes stands in classes.json",
        ),
        ({"type": "classes", "config": {}, "x": 1}, "unknown setting 'x'; ConditionerConfig has type, config"),
    ):
        (saved / "config.json").write_text(json.dumps(config | {"conditioner": described}))
        with pytest.raises(CheckpointError, match=sentence):
            library.load(saved)


def test_its_card_shows_a_call_of_its_own(saved: Path) -> None:
    card = hub_card(saved, "me/colours", {})
    for told in (
        "pipeline_tag: text-to-image",
        "- text-to-image",
        "A text-to-image VAR",
        'pipe(prompt="red heart", seed=1)',
    ):
        assert told in card
    assert "class" not in card


def test_a_conditioner_that_nobody_knows_is_not_saved(pipe: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a Colours cannot be saved; known conditioners are classes"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_the_command_line_knows_prompts_and_no_classes(nextscale: Command, pipe: Pipeline, saved: Path) -> None:
    """Several pages' worth of pictures in turns, and one repeated."""
    exact = ("--model", saved, "--dtype", "float32", "--device", "cpu", "--no-grid")
    done = nextscale("generate", "a red sky", "blue", "--seed", 3, "-n", 33, *exact, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [told["images"][i]["prompt"] for i in (0, 32, 33, 65)] == ["a red sky"] * 2 + ["blue"] * 2
    assert told["recipe"]["seeds"] == list(range(3, 69))
    again = nextscale("generate", "--like", told["images"][65]["file"], *exact, "-o", "again")
    assert again.code == 0, again.err
    assert Path("again/blue-68.png").read_bytes() == Path("out/blue-68.png").read_bytes()
    refused = nextscale("generate", "red", "--style", "noto", *exact)
    assert (refused.code, "--style is 'noto', but this model reads" in refused.err) == (2, True)
    assert "so it has no classes to list" in nextscale("generate", "--list-classes", "--model", saved).err
    assert "reads     Colours\n" in nextscale("info", saved).out


def test_class_labels_are_named_where_calls_are_and_nowhere_else() -> None:
    """In the conditioner of classes; otherwise as the argument of a call, or the key that old recipes have."""
    package, found = Path(library.__file__).parent, set()
    for path in package.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            names = [value for _, value in ast.iter_fields(node) if isinstance(value, str)]
            if id(node) not in prose and any("class_label" in name for name in names):
                found.add(path.relative_to(package).as_posix())
    assert found == {
        "conditions/classes.py",
        "pipeline.py",  # the signature of a call
        "edit.py",  # and of an edit
        "conditions/text.py",  # the first argument of a call, which may be a prompt
        "habits.py",  # what other libraries call an argument
        "cli/asked.py",  # the option --class
        "recipe.py",  # what versions before wrote
        "calibrate.py",  # what is drawn while a model is measured
        "serve/schema.py",  # the fields of a request, which are arguments of a call
        "serve/front.py",  # which of them a request has
        "serve/told.py",  # and what the service says of them
    }
