"""M-VAR's converter: strict, both ways, every published layout, and no confusion with VAR."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from nextscale.checkpoints.convert import convert_files, export_official, m_var, var
from nextscale.checkpoints.store import load_component
from nextscale.errors import CheckpointError
from nextscale.models.m_var import MVAR, MVARConfig
from tests.makers import tiny_m_var, tiny_var

GOLDEN = Path(__file__).parents[2] / "golden" / "m-var"
KEYS: dict[str, Any] = json.loads((GOLDEN / "official_keys.json").read_text())["models"]


def expanded(entry: dict[str, Any]) -> dict[str, Tensor]:
    """The official state_dict of ``official_keys.json``, on the meta device."""
    state = {}
    for name, dtype, shape, _ in entry["tensors"]:
        for i in range(entry["blocks"]) if "{i}" in name else [0]:
            state[name.replace("{i}", str(i))] = torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
    assert len(state) == entry["keys"]
    return state


def official(model: MVAR | None = None) -> dict[str, Tensor]:
    model = model or tiny_m_var()
    return m_var.model_to_official(model.state_dict(), model.config)


@pytest.mark.parametrize("name", KEYS)
def test_every_published_layout_is_read(name: str) -> None:
    state, wanted = expanded(KEYS[name]), KEYS[name]["config"]
    config = m_var.model_config(state)
    assert config == MVARConfig(
        depth=wanted["depth"],
        width=wanted["embed_dim"],
        heads=wanted["num_heads"],
        classes=wanted["num_classes"],
        l2_norm=wanted["attn_l2_norm"],
    )
    ours = m_var.model_from_official(state, config)
    with torch.device("meta"):
        model = MVAR(config)
    model.load_state_dict(ours, strict=True, assign=True)
    assert sum(p.numel() for p in model.parameters()) == KEYS[name]["parameters"]
    back = {key: (t.dtype, t.shape) for key, t in m_var.model_to_official(ours, config).items()}
    assert back == {key: (t.dtype, t.shape) for key, t in state.items()}


@pytest.mark.parametrize("l2_norm", [True, False])
def test_there_and_back_keeps_every_bit(l2_norm: bool) -> None:
    model = tiny_m_var(l2_norm=l2_norm)
    state = official(model)
    config = m_var.model_config(state, heads=4)
    assert config == model.config
    ours = m_var.model_from_official(state, config)
    assert ours.keys() == model.state_dict().keys()
    assert all(torch.equal(ours[key], t) for key, t in model.state_dict().items())


def test_buffers_are_those_of_the_official_class() -> None:
    state = official()
    assert state["lvl_1L"][0].bincount().tolist() == [1, 4, 9, 16]
    mask = state["attn_bias_for_masking"][0, 0]
    assert [int((row == 0).sum()) for row in mask[[0, 1, 5, 29]]] == [1, 4, 9, 16]
    assert mask[29, 0] == mask[0, 29] == -torch.inf
    assert state["blocks.1.attn.patch_nums"].tolist() == [1, 4, 9, 16]


def test_var_and_m_var_are_not_taken_for_each_other() -> None:
    model = tiny_var()
    of_var = var.model_to_official(model.state_dict(), model.config)
    with pytest.raises(CheckpointError, match=r"this is a VAR transformer: it has no tensor blocks.0.mamba"):
        m_var.model_config(of_var)
    with pytest.raises(CheckpointError, match=r"this is an M-VAR transformer: it has tensors blocks.0.mamba"):
        var.model_config(official())
    with pytest.raises(CheckpointError, match="something else"):
        m_var.model_config({"a": torch.zeros(1)})


def test_what_does_not_fit_is_named() -> None:
    state = official()
    config = m_var.model_config(state)
    for damage, message in (
        ({"blocks.1.mamba.D": None}, "lacks the tensor blocks.1.mamba.D"),
        ({"blocks.0.mamba.in_proj.weight": torch.zeros(3, 3)}, r"in_proj.weight .* has the shape \(3, 3\)"),
        ({"blocks.0.mamba.extra": torch.zeros(1)}, "1 tensors that do not belong there, first blocks.0.mamba.extra"),
    ):
        broken = {key: t for key, t in {**state, **damage}.items() if t is not None}
        with pytest.raises(CheckpointError, match=message):
            m_var.model_from_official(broken, config)
    with pytest.raises(CheckpointError, match="shared AdaLN"):
        m_var.model_config(state | {"shared_ada_lin.1.weight": torch.zeros(1)})
    attention = tiny_m_var("attention")
    with pytest.raises(CheckpointError, match="inter-scale mixer is 'attention'"):
        m_var.model_to_official(attention.state_dict(), attention.config)


def test_a_file_becomes_a_checkpoint_and_a_file_again(tmp_path: Path) -> None:
    state = official()
    save_file({key: t.contiguous() for key, t in state.items()}, tmp_path / "d2.safetensors")
    report = convert_files([tmp_path / "d2.safetensors"], tmp_path / "out")
    assert "M-VAR transformer" in str(report)
    model = load_component(tmp_path / "out", "model")
    assert isinstance(model, MVAR)
    assert model.config == tiny_m_var().config
    back = export_official(tmp_path / "out", "model")
    assert all(torch.equal(back[key], t) for key, t in state.items())
