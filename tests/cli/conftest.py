"""Tiny models with random weights in checkpoint folders, and the command line called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nextscale.cli.main import main
from nextscale.conditions.classes import ClassVocabulary, Thing
from nextscale.conditions.encoder import EncoderReference
from nextscale.conditions.text import TextConditioner
from nextscale.pipeline import Pipeline
from tests.makers import LETTERS, LONGEST, tiny_infinity, tiny_pipeline, tiny_pipeline_of_styles, tokenizer_of


@dataclass(frozen=True)
class Answer:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def nextscale(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Runs ``nextscale WORDS...`` through ``main`` in a fresh folder, as a shell would."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEXTSCALE_DEBUG", raising=False)

    def run(*words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["nextscale", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        code = stop.value.code
        return Answer(code if isinstance(code, int) else 0, out, err)

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights that draws 16x16 pictures of five classes on four scales."""
    pipe = tiny_pipeline()
    things = (Thing("grinning cat", 0, ("smile",)), Thing("red apple", 2, ("fruit",)))
    pipe.vocabulary = ClassVocabulary(("cat-face", "animal-bird", "food-fruit", "flag", "tool"), things)
    pipe.card = "# tiny\n\nA model for tests."
    folder = tmp_path_factory.mktemp("models") / "tiny"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def styled_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights that draws three classes in the styles noto, twemoji and openmoji."""
    folder = tmp_path_factory.mktemp("models") / "styled"
    tiny_pipeline_of_styles().save_pretrained(folder)
    return folder


class Letters:
    """A text encoder without weights: every word is a state that its letters choose."""

    dtype = torch.float32

    def __init__(self, *given: Any) -> None: ...

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return [[sum(map(ord, word)) % LETTERS for word in text.split()][:LONGEST] or [0] for text in texts]

    def states(self, tokens: Sequence[list[int]]) -> list[Tensor]:
        return [F.one_hot(torch.tensor(ids), LETTERS).float() for ids in tokens]


@pytest.fixture(scope="session")
def saved_text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_infinity()
    conditioner = TextConditioner(EncoderReference("letters", width=LETTERS, length=LONGEST))
    folder = tmp_path_factory.mktemp("models") / "told"
    Pipeline(tokenizer_of(model), model, conditioner, name="told").save_pretrained(folder)
    return folder


@pytest.fixture
def text_model(saved_text_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with random weights that draws 16x16 pictures of texts, through an encoder without weights."""
    monkeypatch.setattr("nextscale.conditions.text.TextEncoder", Letters)
    return saved_text_model
