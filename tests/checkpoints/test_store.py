"""Our checkpoint folders: what is saved is loaded, what does not fit is named, and nothing half-written stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nextscale.checkpoints import store
from nextscale.checkpoints.load import revision
from nextscale.checkpoints.store import load_component, read_config, save_checkpoint
from nextscale.errors import CheckpointError
from tests.makers import MODELS, tiny_tokenizer, tiny_var


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "ck", {"tokenizer": tiny_tokenizer(), "model": tiny_var()}, {"name": "tiny"})
    return tmp_path / "ck"


@pytest.mark.parametrize("name", MODELS)
def test_weights_and_settings_survive_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    save_checkpoint(tmp_path / "ck", {"model": model})
    again = load_component(tmp_path / "ck", "model")
    assert again.config == model.config
    assert not again.training
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key])


def edit_config(saved: Path, change: Callable[[dict], None]) -> None:
    config = json.loads((saved / "config.json").read_text())
    change(config)
    (saved / "config.json").write_text(json.dumps(config))


def test_an_unknown_setting_is_refused(saved: Path) -> None:
    edit_config(saved, lambda c: c["components"]["model"]["config"].update(colour="red"))
    with pytest.raises(CheckpointError, match="unknown setting 'colour'; VARConfig has depth"):
        load_component(saved, "model")


def test_an_impossible_setting_is_refused(saved: Path) -> None:
    edit_config(saved, lambda c: c["components"]["model"]["config"].update(heads=5))
    with pytest.raises(CheckpointError, match="width of 32 cannot be split into 5 heads"):
        load_component(saved, "model")


def test_an_unknown_type_and_format_are_refused(saved: Path) -> None:
    edit_config(saved, lambda c: c["components"]["model"].update(type="gan"))
    with pytest.raises(CheckpointError, match="unknown type 'gan'; this version knows residual, var"):
        load_component(saved, "model")
    edit_config(saved, lambda c: c.update(format=99))
    with pytest.raises(CheckpointError, match="format 99; this version reads formats 1 and 2"):
        read_config(saved)


def test_an_absent_component_is_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="has no refiner; it has tokenizer, model"):
        load_component(saved, "refiner")


def test_a_truncated_file_is_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model.safetensors is not a readable safetensors file"):
        load_component(saved, "model")


def test_missing_extra_and_misshapen_tensors_are_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if k != "head_lin.bias"}, path)
    with pytest.raises(CheckpointError, match=r"lacks the tensor head_lin.bias, expected with the shape \(48,\)"):
        load_component(saved, "model")
    save_file(state | {"zzz": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="1 tensors this model does not know, first zzz"):
        load_component(saved, "model")
    save_file(state | {"head_lin.bias": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match=r"head_lin.bias has the shape \(3,\); expected \(48,\)"):
        load_component(saved, "model")


def test_damaged_json_is_named(saved: Path) -> None:
    (saved / "config.json").write_text('{"format": 1,')
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_config(saved)


def test_a_folder_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        save_checkpoint(tmp_path, {"model": tiny_var()})
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_a_failed_save_leaves_the_old_checkpoint_and_nothing_else(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = (saved / "model.safetensors").read_bytes()
    monkeypatch.setattr(store, "write_weights", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(saved, {"model": tiny_var(seed=3)}, overwrite=True)
    assert (saved / "model.safetensors").read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == ["ck"]


def test_saving_again_replaces(saved: Path) -> None:
    save_checkpoint(saved, {"model": tiny_var(seed=3)}, overwrite=True)
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "digests.json", "model.safetensors"]
    assert [p.name for p in saved.parent.iterdir()] == ["ck"]


def share(place: object) -> Callable[[dict], None]:
    return lambda config: config["components"]["tokenizer"].update(file=place)


def test_a_component_may_lie_in_the_checkpoint_beside_and_nowhere_else(saved: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "other", {"tokenizer": tiny_tokenizer(), "model": tiny_var()}, {"name": "other"})
    (saved / "tokenizer.safetensors").unlink()
    edit_config(saved, share("../other/tokenizer.safetensors"))
    shared, own = load_component(saved, "tokenizer"), load_component(tmp_path / "other", "tokenizer")
    assert all(torch.equal(t, own.state_dict()[key]) for key, t in shared.state_dict().items())
    before = revision(saved)
    other = tmp_path / "other" / "tokenizer.safetensors"
    save_file({key: t + 1 for key, t in load_file(other).items()}, other)
    assert revision(saved) != before
    for place in ("/etc/passwd", "../../tokenizer.safetensors", "../other/../x.safetensors", "model.safetensors", 3):
        edit_config(saved, share(place))
        with pytest.raises(CheckpointError, match="expected a file of a checkpoint beside this one"):
            load_component(saved, "tokenizer")
