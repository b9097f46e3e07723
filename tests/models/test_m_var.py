"""M-VAR: what its three parts see of each other, its sizes and its initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nextscale.conditions.classes import class_features
from nextscale.errors import InputError
from nextscale.layers.mamba2 import Mamba2
from nextscale.models.m_var import MVAR, Block, MVARConfig
from nextscale.models.var import VAR, VARConfig
from nextscale.scales import ScaleSchedule
from tests.makers import some_inputs, tiny_m_var

LABELS = torch.tensor([1, 3])


def logits(model: MVAR, inputs: list[Tensor]) -> Tensor:
    return model(inputs, model.condition(class_features(LABELS)))


def change(model: MVAR, scale: int, position: tuple[int, int] = (-1, -1)) -> Tensor:
    """How much every token's logits move when one input of ``scale`` moves: (L,)."""
    inputs = some_inputs(model)
    other = [x.clone() for x in inputs]
    other[scale - 1][:, :, position[0], position[1]] += 1.0
    return (logits(model, other) - logits(model, inputs)).abs().amax((0, 2))


def blocks_of(model: MVAR) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


def mamba_of(block: Block) -> Mamba2:
    assert isinstance(block.mixer, Mamba2)
    return block.mixer


def silence(part: nn.Linear) -> None:
    part.weight.zero_()
    if part.bias is not None:
        part.bias.zero_()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_one_input_moves_its_own_scale_and_the_finer_ones(scale: int) -> None:
    model, moved = tiny_m_var(), change(tiny_m_var(), scale)
    start = model.schedule.offsets[scale]
    assert moved[:start].max() == 0
    assert moved[start:].min() > 1e-5


def test_without_the_mixer_a_scale_sees_itself_only() -> None:
    model = tiny_m_var()
    for block in blocks_of(model):
        silence(mamba_of(block).out_proj)
    moved, own = change(model, 2), model.schedule.slice(2)
    assert moved[own].min() > 1e-5
    assert moved[: own.start].max() == moved[own.stop :].max() == 0


def test_without_attention_tokens_are_strictly_causal() -> None:
    model = tiny_m_var()
    for block in blocks_of(model):
        silence(block.attention.proj)
    moved, place = change(model, 2, (1, 1)), model.schedule.offsets[2] + 4
    assert moved[:place].max() == 0
    assert moved[place:].min() > 1e-6


def test_attention_between_scales_may_take_the_mixers_place() -> None:
    model = tiny_m_var("attention")
    assert [spec.reads for spec in model.slots] == ["own", "past"] * 2
    assert model.memory == "full"
    moved = change(model, 2)
    assert moved[: model.schedule.offsets[2]].max() == 0
    assert moved[model.schedule.offsets[3] :].min() > 1e-5


@pytest.mark.parametrize(
    ("depth", "millions"), [(12, 198.4), (16, 464.2), (20, 900.5), (24, 1550.1), (30, 3017.1), (32, 3658.7)]
)
def test_published_sizes_have_the_counted_parameters(depth: int, millions: float) -> None:
    with torch.device("meta"):
        model = MVAR(MVARConfig.published(depth))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_four_blocks_cost_what_six_of_var_cost() -> None:
    """27 C^2 parameters per block against 18 C^2, and linear layers of as many FLOPs (Mamba-2's beside
    attention's).
    """
    width, sizes = 256, ScaleSchedule.of([1, 2, 3, 4]).sizes
    with torch.device("meta"):
        m_var = MVAR(MVARConfig(depth=4, width=width, heads=4, sizes=sizes))
        var = VAR(VARConfig(depth=6, width=width, heads=4, sizes=sizes))
    parameters = [sum(p.numel() for p in model.blocks.parameters()) for model in (m_var, var)]
    assert parameters[0] / parameters[1] == pytest.approx(1, abs=0.04)
    macs = [
        sum(p.numel() for name, p in model.blocks.named_parameters() if p.ndim == 2 and "ada" not in name)
        for model in (m_var, var)
    ]
    assert macs[0] / macs[1] == pytest.approx(1, abs=0.04)


@pytest.mark.parametrize(("preset", "share"), [("256", 0.2389), ("512", 0.3034)])
def test_share_of_attention_inside_scales(preset: str, share: float) -> None:
    lengths = ScaleSchedule.preset(preset).lengths
    assert sum(n * n for n in lengths) / sum(lengths) ** 2 == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize(("official", "gates"), [(True, 2), (False, 3)])
def test_initialisation(official: bool, gates: int) -> None:
    """The official one scales two of three gates; ours all three."""
    config = MVARConfig(depth=2, width=256, heads=4, classes=3, codes=16, code_dim=4, sizes=((1, 1), (2, 2)))
    model, std = MVAR(config), (1 / (3 * 256)) ** 0.5
    model.requires_grad_(False).init_weights(gamma=1e-3, official=official)
    block = blocks_of(model)[1]
    mamba = mamba_of(block)
    stds = [float(chunk.std()) / std for chunk in block.ada_lin.weight.chunk(9)]
    assert stds[:gates] == pytest.approx([1e-3] * gates, rel=0.1)
    assert stds[gates:] == pytest.approx([0.5] * (9 - gates), rel=0.1)
    assert float(mamba.in_proj.weight.std()) == pytest.approx(std, rel=0.05)
    assert float(mamba.out_proj.weight.std()) == pytest.approx(std, rel=0.05)
    assert float(block.attention.proj.weight.std()) == pytest.approx(std / 2, rel=0.05)
    assert float(block.ffn.fc2.weight.std()) == pytest.approx(std / 2, rel=0.05)
    assert float(mamba.conv1d.weight.std()) == pytest.approx(0.02, rel=0.1)
    assert mamba.conv1d.bias is not None
    assert float(mamba.conv1d.bias.abs().max()) == 0


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="no inter-scale mixer 'rwkv'; expected 'mamba2' or 'attention'"):
        MVARConfig(depth=1, width=64, heads=1, mixer="rwkv")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="inner width of 96 cannot be split into heads of 64"):
        MVARConfig(depth=1, width=48, heads=1)
    with pytest.raises(InputError, match="cannot be split into 5 heads"):
        MVARConfig(depth=1, width=64, heads=5)


def test_the_mixer_is_one_module_of_the_block() -> None:
    assert {name.split(".")[2] for name, _ in tiny_m_var().blocks.named_parameters(prefix="blocks")} == {
        "attention",
        "mixer",
        "ffn",
        "ada_lin",
    }
