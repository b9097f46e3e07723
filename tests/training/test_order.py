"""Order and noise are functions of seed, step and place in the batch; every image is seen once per epoch."""

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


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_noise_belongs_to_the_sample_however_a_batch_is_split(parts: int, size: int, seed: int, step: int) -> None:
    batch = parts * size

    def draw(part: slice) -> list[torch.Tensor]:
        noise = order.SampleNoise(seed, step, batch, part)
        assert len(noise) == len(range(batch)[part])
        return [noise.uniform(), noise.uniform(2, 3), noise.uniform()]

    whole = draw(slice(None))
    assert [tuple(x.shape) for x in whole] == [(batch,), (batch, 2, 3), (batch,)]
    split = [draw(slice(i * size, (i + 1) * size)) for i in range(parts)]
    for i, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[i] for part in split]), expected)


def test_noise_differs_between_calls_samples_steps_and_seeds() -> None:
    noise = order.SampleNoise(0, 0, 50, slice(None))
    drawn = [noise.uniform(), noise.uniform()]
    drawn += [order.SampleNoise(seed, step, 50, slice(None)).uniform() for seed, step in ((0, 1), (1, 0))]
    numbers = torch.cat(drawn)
    assert len(numbers.unique()) == len(numbers)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(0, 3))
def test_groups_are_read_a_few_at_a_time(groups: list[int], seed: int) -> None:
    images = sum(groups)
    seen = order.rows(images, images, seed, 0, tuple(groups)).tolist()
    assert sorted(seen) == list(range(images))
    group_of = [group for group, size in enumerate(groups) for _ in range(size)]
    places: dict[int, list[int]] = {}
    for place, row in enumerate(seen):
        places.setdefault(group_of[row], []).append(place)
    for place in range(images):
        assert sum(min(at) <= place <= max(at) for at in places.values()) <= order.AT_ONCE


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_every_part_of_a_step_shares_numbers_which_move_no_sample_s_own(size: int, seed: int, step: int) -> None:
    first, second = (order.SampleNoise(seed, step, 2 * size, part) for part in (slice(0, size), slice(size, 2 * size)))
    plain = order.SampleNoise(seed, step, 2 * size, slice(None))
    first.uniform(3)  # samples' numbers do not move the shared ones either
    shared = [first.shared(), first.shared(2, 3)]
    assert [tuple(x.shape) for x in shared] == [(), (2, 3)]
    assert torch.equal(shared[0], second.shared())
    second.uniform(3)
    assert torch.equal(shared[1], second.shared(2, 3))
    plain.uniform(3)
    assert torch.equal(torch.cat([first.uniform(), second.uniform()]), plain.uniform())


def test_shared_numbers_differ_between_calls_steps_and_seeds_and_from_those_of_samples() -> None:
    noise = order.SampleNoise(0, 0, 50, slice(None))
    drawn = [noise.shared(50), noise.shared(50), noise.uniform()]
    drawn += [order.SampleNoise(seed, step, 50, slice(None)).shared(50) for seed, step in ((0, 1), (1, 0))]
    numbers = torch.cat(drawn)
    assert len(numbers.unique()) == len(numbers)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
