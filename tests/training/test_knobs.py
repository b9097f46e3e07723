"""The tool that tries the knobs of a tokenizer's recipe one by one: every knob turns, and the table is about them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from nextscale.training.recipe import load_recipe
from tests.makers import load_tool
from tests.training.tiny import TINY_TOKENIZER


@pytest.fixture(scope="module")
def knobs() -> ModuleType:
    return load_tool("knobs")


def test_every_knob_is_a_recipe_of_its_own(knobs: ModuleType) -> None:
    recipes = {load_recipe("tokenizer-emoji", knob).model_dump_json() for knob in knobs.KNOBS.values()}
    as_it_is = load_recipe("tokenizer-emoji")
    there_already = [name for name, knob in knobs.KNOBS.items() if load_recipe("tokenizer-emoji", knob) == as_it_is]
    assert len(recipes) == len(knobs.KNOBS) - len(there_already) + 1


def test_one_row_for_every_knob_that_was_asked_for(
    knobs: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [word for override in TINY_TOKENIZER for word in ("--set", override)]
    words = ["knobs.py", str(images), "-o", str(tmp_path), "--steps", "2", "--only", "angle", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [*words, *settings, "--set", "schedule.steps=2"])
    knobs.main()
    table = capsys.readouterr().out.strip().split("\n\n")[-1].splitlines()
    first = [line.split(" | ")[0] for line in table]
    assert first == ["| changed", "| ---", "| the recipe as it is", "| codes by angle"]
    assert all(line.count("|") == 7 for line in table)
    assert (tmp_path / "codes-by-angle" / "export" / "tokenizer.safetensors").is_file()
