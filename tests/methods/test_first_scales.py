"""Given coarse scales stay, what is drawn after them goes on from them, and all of them given are the picture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nextscale.conditions.classes import class_features
from nextscale.errors import PlanError
from nextscale.generate import generate
from nextscale.given import GivenTokens
from nextscale.methods.first_scales import first_scales
from nextscale.plan import Plan, default_plan
from nextscale.sampling import IndependentNoise
from tests.makers import tiny_tokenizer, tiny_var

MODEL, TOKENIZER = tiny_var(), tiny_tokenizer()


def drawn(plan: Plan, seed: int, **parts: Any) -> tuple[list[Tensor], Tensor]:
    features, noise = class_features(torch.tensor([1])), IndependentNoise([seed])
    for event in generate(plan, {"tokenizer": TOKENIZER, "model": MODEL} | parts, features, noise):
        last = event
    return last.history, last.canvas.latent


def test_given_scales_stay_and_the_rest_is_drawn_anew() -> None:
    plan = default_plan(MODEL)
    tokens, canvas = drawn(plan, 1)
    given = GivenTokens.whole(tokens)
    for count in range(len(plan.rows) + 1):
        again, latent = drawn(first_scales(plan, count), 2, given=given)
        assert all(torch.equal(a, b) for a, b in zip(tokens[:count], again[:count], strict=True))
        if count < 3:
            assert any(not torch.equal(a, b) for a, b in zip(tokens[count:], again[count:], strict=True))
    assert torch.equal(latent, canvas)


@pytest.mark.parametrize("count", [-1, 5, 1.5, "two", True])
def test_a_number_of_scales_that_the_plan_has_not_is_refused(count: Any) -> None:
    with pytest.raises(PlanError, match="expected a number of scales from 0 to 4"):
        first_scales(default_plan(MODEL), count)
