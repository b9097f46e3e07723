"""The order of the data is a function of seed and step, and shows every image once per epoch."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.training import order


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 5), st.integers(1, 4))
def test_every_image_once_per_epoch(images: int, batch: int, seed: int, epochs: int) -> None:
    steps = -(-epochs * images // batch)
    seen = torch.cat([order.rows(images, batch, seed, step) for step in range(steps)]).tolist()
    for epoch in range(epochs):
        assert sorted(seen[epoch * images : (epoch + 1) * images]) == list(range(images))


def test_steps_may_be_asked_for_in_any_order() -> None:
    forward = [order.rows(30, 8, 1, step).tolist() for step in range(12)]
    backward = [order.rows(30, 8, 1, step).tolist() for step in reversed(range(12))]
    assert forward == backward[::-1]


def test_seeds_and_epochs_differ() -> None:
    first = order.rows(50, 50, 0, 0).tolist()
    assert first != order.rows(50, 50, 1, 0).tolist()
    assert first != order.rows(50, 50, 0, 1).tolist()


def test_every_purpose_and_step_has_its_own_randomness() -> None:
    keys = [order.key(seed, p, step) for seed in range(3) for p in order.PURPOSES for step in range(200)]
    assert max(Counter(keys).values()) == 1
    assert all(0 <= key < 2**63 for key in keys)
    a, b = (torch.rand(3, generator=order.generator(1, "step", 7)) for _ in range(2))
    assert torch.equal(a, b)
