"""Vector files are read whole, drawn weights are the documented ones, and what is damaged is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nextscale.errors import InputError
from nextscale.verification.vectors import draw, read_vectors
from tests.verification.golden import golden

METADATA = {
    "format": "1",
    "system": "var",
    "kind": "sampling",
    "case": "x",
    "config": "{}",
    "tolerance_float": "0.0001",
}


def test_drawn_numbers_are_the_documented_ones() -> None:
    assert draw("x", [3], 0, 1, "").tolist() == [2.43359375, 1.640625, 0.5771484375]
    assert draw("x", [3], 1, 0.5, "").tolist() == pytest.approx([2.2167969, 1.8203125, 1.2885742], abs=1e-3)
    assert draw("x", [3], 0, 1, "salt/").tolist() != draw("x", [3], 0, 1, "").tolist()


def test_stored_tensors_go_before_drawn_ones(tmp_path: Path) -> None:
    recipe = {"state_recipe": json.dumps({"a": [[2], 0, 1], "m/b": [[2, 2], 0, 1]}), "models": json.dumps(["m"])}
    stored = {
        "state/a": torch.ones(2, dtype=torch.float16),
        "in/x": torch.ones(1),
        "out/r/y": torch.ones(1),
        "odd": torch.ones(1),
    }
    save_file(stored, tmp_path / "x.safetensors", metadata=METADATA | recipe)
    file = read_vectors(tmp_path / "x.safetensors")
    assert file.state["a"].tolist() == [1, 1]
    assert file.state["a"].dtype == torch.float32
    assert torch.equal(file.model_state("m")["b"], draw("m/b", [2, 2], 0, 1, ""))
    assert (list(file.inputs), list(file.outputs), file.strays) == (["x"], ["r/y"], ("odd",))


def test_missing_inputs_and_settings_are_named(tmp_path: Path) -> None:
    save_file({"out/y": torch.ones(1)}, tmp_path / "x.safetensors", metadata=METADATA)
    file = read_vectors(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="lacks the input in/image"):
        file.input("image")
    with pytest.raises(InputError, match="lacks 'vae'"):
        file.section("vae")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"format": "2"}, "format '2'; this version reads format '1'"),
        ({"format": None}, "is no vector file"),
        ({"system": None}, "does not say its system"),
        ({"config": "{broken"}, "no readable config"),
        ({"tolerance_float": "much"}, "tolerance of 'much'"),
        ({"tolerance_float": "nan"}, "tolerance of 'nan'"),
        ({"tolerance_float": "1"}, "tolerance of '1'"),
        ({"config": "[" * 200_000}, "no readable config"),
        ({"state_recipe": "[" * 200_000}, "no readable state_recipe"),
        ({"state_recipe": '["x"]'}, "no readable state_recipe"),
        ({"state_recipe": '{"x": 3}'}, "no readable state_recipe"),
        ({"state_recipe": '{"x": [[2], 0]}'}, "no readable state_recipe"),
        ({"state_recipe": '{"x": [[2.5], 0, 1]}'}, "no readable state_recipe"),
        ({"state_recipe": '{"x": [[-2], 0, 1]}'}, "no readable state_recipe"),
        ({"state_recipe": '{"x": [[2], 0, "1"]}'}, "no readable state_recipe"),
        ({"state_recipe": '{"x": [[1000000, 1000000], 0, 1]}'}, r"asks for 1e\+12 numbers"),
        ({"state_recipe": '{"x": [[2], 0, ' + "1" * 5000 + "]}"}, "no readable state_recipe"),
    ],
)
def test_damaged_metadata_are_refused(tmp_path: Path, changed: dict[str, str | None], sentence: str) -> None:
    metadata = {key: value for key, value in {**METADATA, **changed}.items() if value is not None}
    save_file({"out/y": torch.ones(1)}, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(InputError, match=sentence):
        read_vectors(tmp_path / "x.safetensors")


def test_missing_and_truncated_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        read_vectors(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        read_vectors(tmp_path)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InputError, match="is no file"):
        read_vectors(tmp_path / "pipe.safetensors")
    (tmp_path / "x.safetensors").write_bytes(golden("sampling").read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_vectors(tmp_path / "x.safetensors")
