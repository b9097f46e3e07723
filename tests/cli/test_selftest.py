"""``nextscale selftest`` prints a report, writes the picture, and its exit code says whether all is well."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nextscale.pictures import open_picture, read_recipe
from tests.cli.conftest import Command
from tests.makers import tiny_pipeline


def test_a_sound_checkpoint(nextscale: Command, tiny_model: Path) -> None:
    done = nextscale("selftest", tiny_model, "-o", "drawn")
    assert done.code == 0, done.err
    assert done.out.startswith("### nextscale selftest of tiny: passed\n")
    picture = Path("drawn/selftest-tiny.png")
    assert open_picture(picture).size == (16, 16)
    assert read_recipe(picture)["seed"] == 1


def test_a_broken_one(nextscale: Command) -> None:
    tiny_pipeline().save_pretrained("mine")
    config = Path("mine/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"name": "var-d16"}))  # it is much smaller
    done = nextscale("selftest", "mine", "--json")
    assert done.code == 1
    told = json.loads(done.out)
    wrong = {one["name"] for one in told["checks"] if one["ok"] is False}
    assert wrong >= {"generator", "tokenizer"}
    state = load_file("mine/model.safetensors")
    save_file(state | {"head_lin.bias": torch.full((48,), torch.inf)}, "mine/model.safetensors")
    assert "mine/model.safetensors is damaged" in nextscale("selftest", "mine").err
    assert nextscale("selftest", "nothing-here").code == 2
