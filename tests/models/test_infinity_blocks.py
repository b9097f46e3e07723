"""M-VAR's blocks in a text model: what their parts see of each other, in which order they stand, and how they start."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nextscale.errors import InputError
from nextscale.layers.mamba2 import Mamba2
from nextscale.memory.segments import TeacherForcing
from nextscale.models import m_var
from nextscale.models.infinity import Infinity, InfinityConfig
from nextscale.models.infinity_blocks import Block, DecoupledBlock
from nextscale.scales import ScaleSchedule
from nextscale.settings import build
from tests.makers import SIZES, features_of, randomise, some_inputs, tiny_infinity, tiny_text_m_var

SCHEDULE = ScaleSchedule.of([2, 3])
C, HEADS, HIDDEN, LENGTH, EPS = 16, 2, 24, 5, 1e-6


def change(model: Infinity, scale: int, position: tuple[int, int] = (-1, -1)) -> Tensor:
    """How much every token's logits move when one input of ``scale`` moves: (L,)."""
    inputs, condition = some_inputs(model), model.condition(features_of(model))
    other = [x.clone() for x in inputs]
    other[scale - 1][:, :, position[0], position[1]] += 1.0
    return (model(other, condition) - model(inputs, condition)).abs().amax((0, 2, 3))


def blocks_of(model: Infinity) -> list[DecoupledBlock]:
    return [block for block in model.blocks if isinstance(block, DecoupledBlock)]


def silence(part: nn.Module) -> None:
    for p in part.parameters():
        p.zero_()


def test_attention_stays_inside_its_scale_and_the_mixer_alone_carries_on() -> None:
    model = tiny_text_m_var()
    assert [spec.reads for spec in model.slots] == ["own", "state"] * 3
    assert [spec.block for spec in model.slots] == [0, 0, 1, 1, 2, 2]
    assert model.memory == "recurrent"
    assert change(model, 2)[model.schedule.offsets[3] :].min() > 1e-5
    for block in blocks_of(model):
        silence(block.mixer.out_proj)
    moved, own = change(model, 2), model.schedule.slice(2)
    assert moved[own].min() > 1e-5
    assert moved[: own.start].max() == moved[own.stop :].max() == 0


def test_without_attention_tokens_are_strictly_causal() -> None:
    model = tiny_text_m_var()
    for block in blocks_of(model):
        silence(block.attention.proj)
    moved, place = change(model, 2, (1, 1)), model.schedule.offsets[2] + 4
    assert moved[:place].max() == 0
    assert moved[place:].min() > 1e-6


def decoupled() -> DecoupledBlock:
    block = DecoupledBlock(C, HEADS, HIDDEN, LENGTH, EPS, mixer=Mamba2(C, 8, 8))
    randomise(block, 1)
    block.mixer.init_decay()
    return block.requires_grad_(False)


def share(block: Any, other: Any, *parts: str) -> None:
    for part in parts:
        getattr(other, part).load_state_dict(getattr(block, part).state_dict())


def ran(
    block: Any, *between: Any, schedule: ScaleSchedule = SCHEDULE, chunks: tuple[int, ...] = tuple(range(9))
) -> Any:
    """A block over random tokens in teacher forcing, by those ``chunks`` of one modulation; ``between``: its further
    arguments before the slots.
    """
    generator = torch.Generator().manual_seed(2)
    x, modulation = (torch.randn(2, n, *c, generator=generator) for n, c in ((schedule.tokens, [C]), (1, [9, C])))
    specs = block.specs if isinstance(block, Block) else (block.attention.spec, block.mixer.spec)
    memory = TeacherForcing(specs, schedule, x.device)
    return block(x, modulation[:, :, list(chunks)], *between, *(memory.slot(i) for i in range(len(specs))))


def a_text(block: Block) -> tuple[Any, ...]:
    """Keys and values of a text, its mask, and positions that turn nothing."""
    states = torch.randn(2, LENGTH, C, generator=torch.Generator().manual_seed(3))
    turn = torch.tensor([1.0, 0.0]).expand(SCHEDULE.tokens, C // HEADS // 2, 2)
    return block.cross.text(states), torch.ones(2, LENGTH, dtype=torch.bool), turn


def test_without_a_text_the_block_is_m_vars() -> None:
    """With parameters of the same names, and the same nine parts of the modulation."""
    block = decoupled()
    config = m_var.MVARConfig(depth=1, width=C, heads=HEADS, mlp_ratio=HIDDEN / C, l2_norm=True, head_dim=8)
    theirs = m_var.Block(config, block.mixer)
    share(block, theirs, "attention", "mixer", "ffn")
    text = a_text(block)
    with_text = ran(block, *text)
    silence(block.cross.proj)
    torch.testing.assert_close(ran(block, *text), ran(theirs), atol=1e-5, rtol=1e-5)
    assert (with_text - ran(theirs)).abs().max() > 1e-2


def test_without_its_mixer_the_block_is_infinitys_of_one_scale() -> None:
    block, theirs, one = decoupled(), Block(C, HEADS, HIDDEN, LENGTH, EPS), SCHEDULE.prefix(1)
    share(block, theirs, "attention", "cross_norm", "cross", "ffn")
    text, mask, turn = a_text(block)
    context = text, mask, turn[: one.tokens]
    mixed = ran(block, *context, schedule=one)
    silence(block.mixer.out_proj)
    wanted = ran(theirs, *context, schedule=one, chunks=(0, 2, 3, 5, 6, 8))
    torch.testing.assert_close(ran(block, *context, schedule=one), wanted, atol=1e-6, rtol=1e-6)
    assert (mixed - wanted).abs().max() > 1e-2


def test_a_token_asks_the_text_when_it_knows_the_scales_before() -> None:
    block, asking = decoupled(), list[Tensor]()
    silence(block.ffn)
    block.cross_norm.register_forward_pre_hook(lambda module, given: asking.append(given[0]))
    text = a_text(block)
    ran(block, *text)
    silence(block.cross.proj)
    torch.testing.assert_close(asking[0], ran(block, *text))


def test_drawing_remembers_as_much_whatever_the_size() -> None:
    model = tiny_text_m_var()
    conv_tail, ssm = 3 * (64 + 32), 4 * 16 * 16
    assert sum(spec.bytes(1, 2) for spec in model.slots if spec.reads == "state") == 4 * 3 * (conv_tail + ssm)
    assert all(spec.reads != "past" for spec in model.slots)


def test_initialisation() -> None:
    """Infinity's; the mixer's is M-VAR's, and its gate is as small as the others."""
    c = 192
    config = InfinityConfig(
        depth=2, width=c, heads=4, hidden=768, bits=16, text_width=64, text_length=8, mixer="mamba2"
    )
    model, std = Infinity(config).requires_grad_(False), (1 / (3 * c)) ** 0.5
    model.init_weights()
    block = blocks_of(model)[1]
    for tensor, wanted in (
        (model.shared_ada_lin.weight, std),
        (block.attention.proj.weight, std / 2),
        (block.ffn.fc2.weight, std / 2),
        (block.mixer.in_proj.weight, std),
        (block.mixer.out_proj.weight, std),
        (block.mixer.conv1d.weight, 0.02),
        (block.ada_gss[3:], 1e-3 / c**0.5),
        (block.ada_gss[:3], 5e-6 / c**0.5),
    ):
        assert float(tensor.std()) == pytest.approx(wanted, rel=0.15)
    assert block.ada_gss.shape == (9, c)
    assert not block.mixer.conv1d.bias.any()  # type: ignore[union-attr]
    steps = nn.functional.softplus(block.mixer.dt_bias)
    assert 9e-4 < float(steps.min()) < float(steps.max()) < 0.11


def test_dropped_paths_close_three_gates() -> None:
    model = tiny_text_m_var(drop_path=0.5)
    plain, chance = model.condition(features_of(model)), torch.full((2, 3, model.gates), 0.9)
    chance[1, 2, 1] = 0.1
    dropped = model.drop_paths(plain, chance).modulation[2]
    torch.testing.assert_close(dropped[0, :, :3], 2 * plain.modulation[2][0, :, :3])
    assert [float(gate.abs().max()) > 0 for gate in dropped[1, 0, :3]] == [True, False, True]
    assert torch.equal(dropped[:, :, 3:], plain.modulation[2][:, :, 3:])


def test_a_configuration_from_before_the_mixer_is_infinity() -> None:
    said = asdict(tiny_infinity().config)
    for name in ("mixer", "state", "head_dim"):
        del said[name]
    assert build(InfinityConfig, said) == tiny_infinity().config
    names = {name.split(".")[2] for name in tiny_infinity().state_dict() if name.startswith("blocks.")}
    assert names == {"attention", "cross_norm", "cross", "ffn", "ada_gss"}


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"mixer": "rwkv"}, "mixer is 'rwkv'; expected 'mamba2', or none, for attention over all scales"),
        ({"mixer": "mamba2", "head_dim": 48}, "inner width of 64 cannot be split into heads of 48"),
        ({"mixer": "mamba2", "state": 0}, "state is 0; expected 1 "),
        ({"state": 32}, "state is 32 and head_dim 64, which are of Mamba-2, but there is no mixer"),
    ],
)
def test_impossible_sizes_are_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        InfinityConfig(depth=1, width=32, heads=2, hidden=32, text_heads=2, sizes=SIZES, **changed)
    InfinityConfig(depth=1, width=48, heads=2, hidden=32, sizes=SIZES)  # heads of a mixer that it has not
