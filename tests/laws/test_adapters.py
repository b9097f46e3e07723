"""Laws of an adapter in the loop: a wrapper around every slot, which reads a source of its own, around a model that
knows nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nextscale.conditions.base import Branches, Features, Source
from nextscale.layers.attention import attend
from nextscale.layers.slots import AttentionSlot, SlotWrapper
from nextscale.models.base import Condition, NextScaleModel
from nextscale.models.var import VAR, VARConfig
from nextscale.plan import Plan, default_plan
from nextscale.price import price
from nextscale.rehearse import rehearse
from nextscale.row import Row
from nextscale.sampling import IndependentNoise
from nextscale.scales import ScaleSchedule
from tests.laws.test_loop import Best, culled, handed, run, same
from tests.makers import (
    CLASSES,
    CODE_DIM,
    CODES,
    MODELS,
    SIZES,
    features_of,
    randomise,
    remembers,
    tiny_tokenizer,
    tokenizer_of,
)

WIDTH = 6


@dataclass(frozen=True)
class Look:
    """Attention to keys and values (R, H, T, D) of the control, where ``shown`` (R, 1, 1, 1) is 1 and not 0."""

    keys: Tensor
    values: Tensor
    shown: Tensor

    def wrap(self, slot: Any, k: int | None, schedule: ScaleSchedule) -> Any:
        return Looking(slot, self)

    def select(self, rows: Tensor) -> SlotWrapper:
        return Look(self.keys[rows], self.values[rows], self.shown[rows])


@dataclass(frozen=True)
class Looking:
    inner: AttentionSlot
    look: Look

    def attend(self, q: Tensor, k: Tensor, v: Tensor, plain: Any = None) -> Tensor:
        return self.inner.attend(q, k, v, plain) + self.look.shown * attend(q, self.look.keys, self.look.values)


class Adapted(nn.Module):
    """A model with the adapter, in its first blocks; in all else it is the model."""

    def __init__(self, base: NextScaleModel, blocks: int = 100) -> None:
        super().__init__()
        self.base, self.wrapped = base, blocks
        self.projections = nn.ModuleList(nn.Linear(WIDTH, 2 * spec.heads * spec.width) for spec in base.slots)

    def __getattr__(self, name: str) -> Any:
        return self._modules[name] if name in self._modules else getattr(self._modules["base"], name)

    @property
    def reads(self) -> Mapping[str, int]:
        return {**self.base.reads, "control": WIDTH}

    def blank(self, images: int, device: torch.device) -> Features:
        control = Source("control", {"states": torch.zeros(images, 4, WIDTH, device=device)})
        return Features(images, {**self.base.blank(images, device).sources, "control": control})

    def condition(self, features: Features, branches: Branches, schedule: ScaleSchedule | None = None) -> Condition:
        base = self.base.condition(features, branches, schedule)
        seen = [features.seen(branch, "control") for branch in branches]
        source = next((one for one in seen if one is not None), None)
        if source is None:
            return base
        states = source.tensors["states"].repeat(len(branches), 1, 1)
        shown = torch.tensor([float(one is not None) for one in seen], device=states.device)
        shown, slots = shown.repeat_interleave(features.images)[:, None, None, None], list[SlotWrapper | None]()
        for spec, projection in zip(self.base.slots, self.projections, strict=True):
            keys, values = projection(states).unflatten(-1, (2, spec.heads, spec.width)).permute(2, 0, 3, 1, 4)
            left_out = spec.reads == "state" or spec.block >= self.wrapped
            slots.append(None if left_out else Look(keys, values, shown))
        return replace(base, slots=tuple(slots))


@pytest.fixture(params=MODELS)
def base(request: pytest.FixtureRequest) -> NextScaleModel:
    return MODELS[request.param]()


def adapted(base: NextScaleModel, blocks: int = 100) -> Any:
    model = Adapted(base, blocks)
    randomise(model.projections, 3)
    return model.eval().requires_grad_(False)


def with_control(base: NextScaleModel) -> Features:
    states = torch.randn(3, 4, WIDTH, generator=torch.Generator().manual_seed(4))
    return Features(3, {**features_of(base, 3).sources, "control": Source("control", {"states": states})})


def steered(base: NextScaleModel, until: int = 4) -> Plan:
    """Three branches, of which the first sees the control, up to a scale."""

    def steer(k: int, row: Row) -> Row:
        return replace(row, guidance=(1.5, 1.0, -1.5), condition=None if k < until else base.sources)

    plan = default_plan(base, guidance_scale=2.0)
    branches: Branches = ((*base.sources, "control"), base.sources, ())
    return replace(plan, rows=tuple(steer(k, row) for k, row in enumerate(plan.rows)), branches=branches)


def test_a_control_steers_the_branches_and_scales_that_see_it(base: NextScaleModel) -> None:
    model, features = adapted(base), with_control(base)
    plain = run(steered(base, until=0), base, features)
    assert same(run(steered(base, until=0), model, features), plain)
    until_2, always = run(steered(base, until=2), model, features), run(steered(base), model, features)
    assert same(until_2[:2], always[:2])
    assert (always[0].branch_logits[3:] == plain[0].branch_logits[3:]).all()
    assert not (always[0].branch_logits[:3] == plain[0].branch_logits[:3]).any()
    controlled, plainly, _ = until_2[2].branch_logits.split(3)
    # Of the scales before the memory keeps what the control did; what is drawn on the canvas is all branches'.
    assert ((controlled - plainly).abs().max() > 1e-4) == remembers(base)
    assert not same(until_2, plain)


def test_a_control_stays_with_its_image_through_populations_and_take_overs(base: NextScaleModel) -> None:
    model, features = adapted(base), with_control(base)
    for plan in (steered(base), steered(base, until=2), handed(steered(base), 2, base)):
        chosen = culled(plan, 3, {0: 2, 1: 4, 2: 1})
        together = run(chosen, model, features, best=Best(), refiner=model)
        one, noise = features.select(torch.tensor([1])), IndependentNoise([11])
        alone = run(chosen, model, one, best=Best(), refiner=model, noise=noise)
        for a, b in zip(together, alone, strict=True):
            assert torch.equal(a.tokens[len(b.tokens) : 2 * len(b.tokens)], b.tokens)


def test_an_adapted_model_is_priced_and_rehearsed(base: NextScaleModel) -> None:
    parts = {"tokenizer": tokenizer_of(base), "model": adapted(base)}
    assert price(steered(base), parts, 2).flops > 0
    with_adapter = rehearse(steered(base), parts, 2, torch.device("cpu"))
    without = rehearse(steered(base, until=0), parts, 2, torch.device("cpu"))
    assert with_adapter.moved > without.moved


def test_blocks_that_are_wrapped_unlike_one_another_are_all_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = VARConfig(depth=5, width=32, heads=4, codes=CODES, code_dim=CODE_DIM, classes=CLASSES, sizes=SIZES)
    base = VAR(config)
    parts = {"tokenizer": tiny_tokenizer(), "model": adapted(base, 3)}
    found = []
    for all_blocks in (2, 8):
        monkeypatch.setattr("nextscale.rehearse.ALL_BLOCKS", all_blocks)
        found.append(rehearse(steered(base), parts, 2, torch.device("cpu")))
    assert found[0] == found[1]
