"""``nextscale info`` says what a model is."""

from __future__ import annotations

import json
from pathlib import Path

from nextscale.cli.main import VERBS
from tests.cli.conftest import Command
from tests.makers import tiny_pipeline


def test_a_folder_is_described(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("info", tiny_model)
    assert done.code == 0, done.err
    for words in ("tiny", str(tiny_model), "residual", "var", "A model for tests."):
        assert words in done.out


def test_json_counts_the_parameters(nextscale: Command, tiny_model: Path) -> None:
    told = json.loads(nextscale("info", tiny_model, "--json").out)
    pipe = tiny_pipeline()
    assert told["components"]["model"]["parameters"] == sum(p.numel() for p in pipe.model.parameters())
    assert told["components"]["tokenizer"]["parameters"] == sum(p.numel() for p in pipe.tokenizer.parameters())
    assert told["components"]["model"]["bytes"] == (tiny_model / "model.safetensors").stat().st_size
    assert told["card"].startswith("# tiny")
    assert told["classes"] == ["cat-face", "animal-bird", "food-fruit", "flag", "tool"]
    assert told["styles"] == []


def test_styles_are_named(nextscale: Command, styled_model: Path) -> None:
    assert "styles    noto, twemoji, openmoji\n" in nextscale("info", styled_model).out
    assert json.loads(nextscale("info", styled_model, "--json").out)["styles"] == ["noto", "twemoji", "openmoji"]


def test_what_is_no_model_is_refused(nextscale: Command) -> None:
    Path("config.json").write_text("{half")
    for name, expected in [("nonsense", "no model 'nonsense'"), (".", "not valid JSON")]:
        done = nextscale("info", name)
        assert (done.code, done.out) == (2, "")
        assert expected in done.err


def test_every_verb_has_a_line_of_help(nextscale: Command) -> None:
    done = nextscale("--help")
    assert done.code == 0
    for verb in VERBS:
        assert verb in done.out
