"""The table of published checkpoints says what the code and the official layouts say, and so does its page."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from nextscale.checkpoints.find import model_folder
from nextscale.checkpoints.load import checkpoint_folder
from nextscale.checkpoints.published import (
    PUBLISHED,
    Published,
    check_pair,
    converted_folder,
    models_cache,
    published,
)
from nextscale.checkpoints.shapes import without_values
from nextscale.checkpoints.store import module_of
from nextscale.errors import CheckpointError
from tests.verification.golden import GOLDEN

ROOT = Path(__file__).parent.parent.parent
WITH_LAYOUTS = ("var", "m-var", "infinity", "flexvar")
"""Systems whose authors' code could be asked for its layouts."""
OFFICIAL = {
    f"flexvar_{name}" if system == "flexvar" else name: layout
    for system in WITH_LAYOUTS
    for name, layout in json.loads((GOLDEN / system / "official_keys.json").read_text())["models"].items()
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of_the_network_and_of_the_official_layout(name: str) -> None:
    row = PUBLISHED[name]
    l2_norm = name not in ("m-var-d16", "m-var-d20")
    parts = {part: without_values(partial(module_of, config)) for part, config in row.configs().items()}
    count = {part: sum(p.numel() for p in module.parameters()) for part, module in parts.items()}
    scale_mul = sum(p.numel() for key, p in parts["model"].named_parameters() if key.endswith("scale_mul"))
    assert count["model"] - (0 if l2_norm else scale_mul) == row.parameters
    assert count["tokenizer"] == row.tokenizer_parameters
    config: Any = parts["model"].config
    assert (config.depth, config.sizes[-1][0] * 16) == (row.depth, row.pixels)
    layout = name.removesuffix("-512").replace("sar", "flexvar").replace("-", "_") + (
        f"_{'' if l2_norm else 'no'}l2" if row.system == "m-var" else ""
    )
    if row.system in WITH_LAYOUTS:
        assert OFFICIAL[layout]["parameters"] == row.parameters


@pytest.mark.parametrize("row", PUBLISHED.values(), ids=lambda row: row.name)
def test_text_models_have_nothing_of_imagenet(row: Published) -> None:
    assert ("FID" in row.measured) is row.reads_classes
    assert (row.sizes is None) is row.reads_classes


def test_a_tokenizer_of_the_same_sizes_that_was_not_trained_with_is_refused_by_its_name() -> None:
    with pytest.raises(CheckpointError, match=r"trained on the bits of infinity_vae_d32reg.pth, not on .*_d32.pth"):
        check_pair("infinity_2b_reg.pth", "infinity_vae_d32.pth")
    for model, tokenizer in (
        ("infinity_2b_reg.pth", "infinity_vae_d32reg.pth"),
        ("infinity_2b_reg.pth", "infinity_vae_d32_reg.pth"),
        ("infinity_8b_weights", "infinity_vae_d56_f8_14_patchify.pth"),
        ("mine.pth", "infinity_vae_d32.pth"),
    ):
        check_pair(model, tokenizer)


def test_names_that_are_understood() -> None:
    assert published("var-d16") is published("var-d16-256") is PUBLISHED["var-d16"]
    assert published("var-d36") is published("var-d36-512") is PUBLISHED["var-d36-512"]
    assert [published(name) for name in ("var-d36-256", "var-d17", "m-var-d24", "emoji", "")] == [None] * 5


def test_the_cache_lies_beside_the_hubs_own_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NEXTSCALE_CACHE", raising=False)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "hf"))
    assert models_cache() == tmp_path / "hf" / "nextscale"
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "mine"))
    row = PUBLISHED["var-d16"]
    assert converted_folder(row) == tmp_path / "mine/checkpoints/var-d16@main"
    assert converted_folder(row, "refs/pr/3") == tmp_path / "mine/checkpoints/var-d16@refs--pr--3"


def test_what_is_on_disk_goes_before_what_is_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEXTSCALE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"weights of var-d16 are not here yet; .* \(var_d16.pth of Foundation"):
        checkpoint_folder("var-d16")
    (tmp_path / "var-d16").mkdir()
    with pytest.raises(CheckpointError, match=r"var-d16 is a folder but no checkpoint: it has no config.json"):
        model_folder("var-d16")
    (tmp_path / "var-d16" / "config.json").write_text("{}")
    assert model_folder("var-d16") == checkpoint_folder("var-d16") == Path("var-d16")


def test_the_page_has_the_table_that_the_code_makes() -> None:
    spec = spec_from_file_location("checkpoint_table", ROOT / "tools" / "checkpoint_table.py")
    assert spec is not None
    assert spec.loader is not None
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (ROOT / "docs" / "checkpoints.md").read_text()
    shown = page.partition(tool.START)[2].partition(tool.END)[0]
    assert shown == tool.table(), "run: python tools/checkpoint_table.py --write"
    assert all(f"`{name}`" in shown for name in PUBLISHED)
