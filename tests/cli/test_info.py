"""``nextscale info`` says what a model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nextscale.cli.main import VERBS
from nextscale.conditions.encoder import EncoderReference
from nextscale.conditions.text import TextConditioner
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.pipeline import Pipeline
from nextscale.ratios import PUBLISHED
from nextscale.tokenizers.autoencoder import AutoencoderConfig
from nextscale.tokenizers.bitwise import BitwiseConfig, BitwiseTokenizer
from tests.cli.conftest import Command
from tests.makers import tiny_pipeline


def test_a_folder_is_described(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("info", tiny_model)
    assert done.code == 0, done.err
    for words in ("tiny", str(tiny_model), "residual", "var", "A model for tests."):
        assert words in done.out


def test_schedules_of_many_ratios_are_told_as_ratios(nextscale: Command, tmp_path: Path) -> None:
    sizes, schedules = PUBLISHED[7].sizes, tuple(one.sizes for one in PUBLISHED)
    autoencoder = AutoencoderConfig(ch=8, mult=(1,) * 5, z=3, res_blocks=1, groups=4)
    tokenizer = BitwiseTokenizer(BitwiseConfig(bits=3, sizes=sizes, autoencoder=autoencoder))
    own: dict[str, Any] = {
        "depth": 1,
        "width": 8,
        "heads": 2,
        "hidden": 8,
        "bits": 3,
        "text_width": 4,
        "text_length": 4,
    }
    model = Infinity(InfinityConfig(**own, text_heads=1, sizes=sizes, schedules=schedules))
    conditioner = TextConditioner(EncoderReference("some/t5", width=4, length=4))
    Pipeline(tokenizer, model, conditioner).save_pretrained(tmp_path / "model")
    done = nextscale("info", tmp_path / "model")
    assert done.code == 0, done.err
    assert "schedules 1:3 2:5 1:2 4:7 2:3 3:4 4:5 1:1 5:4 4:3 3:2 7:4 2:1 5:2 3:1\n" in done.out
    assert max(map(len, done.out.splitlines())) < 200


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
