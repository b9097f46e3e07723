"""A model that reads prompts: drawn, repeated, with features from a file, and with an encoder that leaves memory."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import nextscale as library
from nextscale import systems
from nextscale.conditions import text
from nextscale.conditions.base import Branches, Features, Source
from nextscale.conditions.encoder import TextEncoder
from nextscale.conditions.text import TextConditioner
from nextscale.conditions.textfile import TextFeatures
from nextscale.errors import InputError
from nextscale.models.base import Condition
from nextscale.pipeline import Pipeline
from nextscale.scales import ScaleSchedule
from tests.cli.conftest import Command
from tests.conditions.tiny_t5 import WIDTH, reference, save_t5
from tests.makers import randomise
from tests.tale.conditioner import LONGEST
from tests.tale.model import Tale, TaleConfig
from tests.tale.test_tale import LINE, new_tokenizer

EXACT = ("--dtype", "float32", "--device", "cpu")


@dataclass(frozen=True, kw_only=True)
class ToldConfig(TaleConfig):
    """Sizes of the tale."""


class Told(Tale):
    """The tale, which has places for so many tokens and no others, for texts of any length up to that."""

    def condition(
        self, features: Features, branches: Branches | None = None, schedule: ScaleSchedule | None = None
    ) -> Condition:
        def wide(source: Source) -> Source:
            states, mask = source.tensors["states"], source.tensors["mask"]
            more = LONGEST - mask.shape[1]
            return replace(source, tensors={"states": F.pad(states, (0, 0, 0, more)), "mask": F.pad(mask, (0, more))})

        sources = {name: wide(source) for name, source in features.sources.items()}
        return super().condition(Features(features.images, sources), branches, schedule)


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    types: Mapping[str, Any] = {**LINE.types, "tale": (__name__, "Told", "ToldConfig")}
    line = replace(LINE, types=types, conditioners={"text": "nextscale.conditions.text.TextConditioner"})
    monkeypatch.setattr(systems, "SYSTEMS", (*systems.SYSTEMS, line))
    save_t5(tmp_path / "t5")
    model = Told(ToldConfig(letters=WIDTH))
    randomise(model, 1, 0.3)
    conditioner = TextConditioner(reference(tmp_path / "t5", LONGEST))
    pipe = Pipeline(new_tokenizer(), model.eval(), conditioner, name="told", defaults={"guidance_scale": 3.0})
    pipe.save_pretrained(tmp_path / "told")
    return tmp_path / "told"


def load(saved: Path, **more: Any) -> Pipeline:
    return library.load(saved, device="cpu", dtype="float32", **more)


def pixels(picture: Any) -> np.ndarray:
    return np.asarray(Image.open(picture) if isinstance(picture, str | Path) else picture)


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.tokens, b.tokens, strict=True))


def test_pictures_of_prompts_are_drawn_saved_and_repeated(saved: Path, tmp_path: Path, nextscale: Command) -> None:
    """In a batch and alone, with and without a negative prompt, and with an empty one."""
    pipe = load(saved)
    asked: dict[str, Any] = {"prompt": ["a red fox", "", "blue sky"], "negative_prompt": ["the snow", None, ""]}
    drawn = pipe(**asked, seed=4)
    assert drawn.recipe["entries"][1:] == [
        {"prompt": "", "negative_prompt": None},
        {"prompt": "blue sky", "negative_prompt": None},
    ]
    for i in range(3):
        one = pipe(prompt=asked["prompt"][i], negative_prompt=asked["negative_prompt"][i], seed=4 + i)
        assert all(torch.equal(a[0], b[i]) for a, b in zip(one.tokens, drawn.tokens, strict=True))
    assert not same(pipe(prompt="a red fox", seed=4), pipe(prompt="a red fox", negative_prompt="the snow", seed=4))
    assert not same(pipe(prompt="a red fox", seed=4), pipe(prompt="a blue fox", seed=4))
    files = drawn.save(tmp_path / "drawn")
    assert [file.name for file in files] == ["a-red-fox-4.png", "unconditional-5.png", "blue-sky-6.png"]
    drawn.grid().save(tmp_path / "page.png")
    assert same(pipe.repeat(tmp_path / "page.png"), drawn)
    for i, file in enumerate(files):
        done = nextscale("generate", "--like", file, "--model", saved, *EXACT, "-o", f"again-{i}")
        assert done.code == 0, done.err
        assert np.array_equal(pixels(next(Path(f"again-{i}").iterdir())), pixels(drawn.images[i]))
    assert "prompts, through" in repr(pipe)
    assert f"reads     prompts, through {tmp_path / 't5'}" in nextscale("info", saved).out
    config = json.loads((saved / "config.json").read_text())["conditioner"]
    assert config == {"type": "text", "config": pipe.conditioner.to_dict()}


def test_a_file_of_prompts_is_encoded_and_drawn_without_the_encoder(
    saved: Path, tmp_path: Path, nextscale: Command
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes("\ufeffa red fox\r\n\n  blue sky \na red fox\n\nthe snow in the sky in the snow".encode())
    done = nextscale("encode", prompts, "--model", saved, *EXACT)
    assert done.code == 0, done.err
    assert done.out == f"features.safetensors: 3 prompts, 15 tokens of {tmp_path / 't5'}\n"
    for told in (
        "prompts.txt has empty lines, which were skipped: 2",
        "prompts.txt has lines that stand there before, whose prompts are encoded once: 1",
        "'the snow in the sky in the snow' has 9 tokens, and the text encoder reads 8; left out: 1",
        "t5 on cpu (as asked) in float32 (as asked)",
    ):
        assert told in done.err
    file = tmp_path / "features.safetensors"
    assert TextFeatures(file).prompts == ["a red fox", "blue sky", "the snow in the sky in the snow"]
    assert "exists; choose another name" in nextscale("encode", prompts, "--model", saved).err
    again = nextscale("encode", prompts, "--model", saved, *EXACT, "--overwrite", "--json", "-o", file)
    about = {"encoder": str(tmp_path / "t5"), "sha256": TextFeatures(file).reference.sha256}
    assert json.loads(again.out) == {"features": str(file), "prompts": 3, "tokens": 15, **about}
    expected = load(saved)(prompt="a red fox", negative_prompt="blue sky", seed=3).images[0]
    shutil.rmtree(tmp_path / "t5")
    words = ("generate", "--model", saved, *EXACT, "--seed", 3, "--features", file)
    done = nextscale(*words, "a red fox", "--negative-prompt", "blue sky")
    assert done.code == 0, done.err
    (picture,) = (tmp_path / "out").iterdir()
    assert np.array_equal(pixels(picture), pixels(expected))
    assert same(load(saved, features=file).repeat(picture), load(saved, features=str(file)).repeat(picture))
    done = nextscale(*words, "a blue fox")
    assert done.code == 2
    assert f"'a blue fox' is not in {file}, and the text encoder" in done.err


def test_what_is_no_file_of_prompts_or_no_model_of_text(
    saved: Path, tmp_path: Path, tiny_model: Path, nextscale: Command
) -> None:
    for name, content in (("binary", b"\x89PNG\xff"), ("zeros", b"a\0b"), ("empty", b"\n \n"), ("good", b"a red fox")):
        (tmp_path / f"{name}.txt").write_bytes(content)
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    features, good = ("--features", "bad.safetensors"), "good.txt"
    for words, sentence in (
        (["encode", "none.txt"], "none.txt is missing; expected a file"),
        (["encode", "binary.txt"], "binary.txt is not text in UTF-8"),
        (["encode", "zeros.txt"], "zeros.txt is not text (byte 0 stands in it); expected prompts in UTF-8"),
        (["encode", "empty.txt"], "empty.txt holds no prompt; expected one a line"),
        (["encode", good, "empty.txt"], "2 files were given with a text among them; expected one file of prompts"),
        (["encode", good, "--model", tiny_model], "reads 5 classes, so no prompts are encoded for it"),
        (["generate", "a fox", *features], "bad.safetensors cannot be read"),
        (
            ["generate", "-c", "0", *features, "--model", tiny_model],
            "features is 'bad.safetensors', but this model has no encoder; leave it out",
        ),
        (
            ["generate", "-c", "0", "--low-memory", "--model", tiny_model],
            "low_memory is True, but this model has no encoder",
        ),
    ):
        model = () if "--model" in words else ("--model", saved)
        done = nextscale(*words, *model, *EXACT)
        assert (done.code, sentence in done.err) == (2, True), done.err
        assert len(done.err.splitlines()) <= 2
    assert not (tmp_path / "features.safetensors").exists()


@pytest.mark.parametrize("given", [{"features": 3}, {"features": True}, {"low_memory": "no"}, {"low_memory": 1}])
def test_what_is_no_file_or_switch_is_refused(saved: Path, given: dict[str, Any]) -> None:
    ((name, value),) = given.items()
    with pytest.raises(InputError, match=f"^{name} is {value!r}; expected "):
        load(saved, **given)


def test_what_is_said_of_classes_is_not_said_of_texts(saved: Path, nextscale: Command) -> None:
    done = nextscale("generate", "--list-classes", "--model", saved)
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines() == [
        f"nextscale: told reads prompts, through {saved.parent / 't5'}, so it has no classes to list"
    ]
    done = nextscale("generate", "red fox", "--style", "noto", "--model", saved)
    assert (done.code, done.out) == (2, "")
    assert "nextscale: --style is 'noto', but this model reads prompts, through " in done.err
    done = nextscale("generate", "red", "fox", "--model", saved, *EXACT)
    assert done.code == 0, done.err
    assert "these words are one prompt, 'red fox'; a picture for each: a line of --prompts FILE\n" in done.err


def test_with_low_memory_the_encoder_is_gone_when_the_model_draws(
    saved: Path, nextscale: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded for the first call; without low memory it stays for the next."""
    networks: list[weakref.ref[Any]] = []

    class Watched(TextEncoder):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            networks.append(weakref.ref(self.network))

    monkeypatch.setattr(text, "TextEncoder", Watched)
    lean, usual = load(saved, low_memory=True), load(saved)
    assert networks == []
    alive: list[bool] = []
    drawn = lean(prompt="a red fox", seed=1, callback_on_scale_end=lambda _: alive.append(networks[0]() is not None))
    assert alive == [False] * 3
    assert same(drawn, usual(prompt="a red fox", seed=1))
    usual(prompt="blue sky", seed=1)
    assert [network() is not None for network in networks] == [False, True]
    done = nextscale("generate", "a red fox", "--low-memory", "--model", saved, *EXACT, "--seed", 1)
    assert done.code == 0, done.err
    assert networks[2]() is None
    assert np.array_equal(pixels("out/a-red-fox-1.png"), pixels(drawn.images[0]))
    with pytest.raises(InputError, match="low_memory is True, but this model has no encoder; leave it out"):
        library.load("emoji", low_memory=True)


def test_the_encoder_computes_where_the_model_does(saved: Path) -> None:
    pipe = load(saved)
    conditioner = pipe.conditioner
    assert isinstance(conditioner, TextConditioner)
    exact = conditioner.features([{"prompt": "a red fox"}]).sources["text"].tensors["states"]
    pipe.to(torch.bfloat16)
    rounded = conditioner.features([{"prompt": "a red fox"}]).sources["text"].tensors["states"]
    assert not torch.equal(exact, rounded)
    assert torch.equal(rounded, rounded.bfloat16().float())


def test_prompts_are_encoded_for_a_published_model_without_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nextscale: Command
) -> None:
    save_t5(tmp_path / "t5")
    known = TextConditioner(reference(tmp_path / "t5"))
    monkeypatch.setattr("nextscale.checkpoints.convert.infinity.conditioner", lambda config: known)
    (tmp_path / "prompts.txt").write_text("a red fox\n", encoding="utf-8")
    done = nextscale("encode", tmp_path / "prompts.txt", "-o", tmp_path / "f.safetensors", "--model", "infinity-2b")
    assert done.code == 0, done.err
    assert TextFeatures(tmp_path / "f.safetensors").prompts == ["a red fox"]
