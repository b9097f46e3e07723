"""Order and noise are functions of seed, step and place in the batch; every image is seen once per epoch."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.training import order


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


BUCKETS = st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any)


def bucketed(sizes: list[int]) -> torch.Tensor:
    labels = torch.tensor([bucket for bucket, size in enumerate(sizes) for _ in range(size)])
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@given(BUCKETS, st.integers(1, 12), st.integers(0, 3), st.integers(1, 5))
def test_batches_are_of_one_bucket_and_use_every_image_alike(
    sizes: list[int], batch: int, seed: int, epochs: int
) -> None:
    labels = bucketed(sizes)
    steps = sum(size * epochs // batch for size in sizes)
    buckets = order.Buckets(labels)
    drawn = [buckets.rows(batch, seed, step) for step in range(steps)]
    assert all(len(rows) == batch and len(labels[rows].unique()) == 1 for rows in drawn)
    seen = torch.cat(drawn).bincount(minlength=len(labels)) if drawn else torch.zeros(len(labels))
    for bucket, size in enumerate(sizes):
        times = seen[labels == bucket]
        assert int(times.sum()) == size * epochs // batch * batch
        if size:  # what is left over is less than a batch, and comes first in the next epoch
            assert int(times.max()) <= epochs
            assert int(times.max() - times.min()) <= 1
            assert int(times.min()) >= epochs - -(-batch // size)


@given(BUCKETS, st.integers(1, 12), st.integers(0, 3), st.integers(0, 10**9))
def test_a_step_s_bucket_is_a_function_of_seed_and_step(sizes: list[int], batch: int, seed: int, step: int) -> None:
    used, fresh = order.Buckets(bucketed(sizes)), order.Buckets(bucketed(sizes))
    following = [used.rows(batch, seed, step + ahead).tolist() for ahead in range(4)]
    assert [fresh.rows(batch, seed, step + ahead).tolist() for ahead in reversed(range(4))] == following[::-1]


def test_a_set_of_one_bucket_is_shuffled_epochs_laid_end_to_end() -> None:
    """Just these: whoever resumes a run goes on with the images that it has not seen."""
    epochs = [torch.randperm(30, generator=order.generator(1, "order", epoch)) for epoch in range(4)]
    buckets = order.Buckets(torch.zeros(30, dtype=torch.int64))
    drawn = torch.cat([buckets.rows(8, 1, step) for step in range(15)])
    assert torch.equal(drawn, torch.cat(epochs))
    assert not torch.equal(buckets.rows(30, 1, 0), buckets.rows(30, 1, 1))
    assert not torch.equal(buckets.rows(30, 1, 0), buckets.rows(30, 2, 0))


def test_buckets_are_mixed_in_every_epoch_and_differently_in_each() -> None:
    labels = torch.tensor([0] * 40 + [1] * 40)
    buckets = order.Buckets(labels)
    found = [[int(labels[buckets.rows(4, 0, 20 * epoch + step)][0]) for step in range(20)] for epoch in range(3)]
    assert all(sum(epoch) == 10 and epoch != sorted(epoch) for epoch in found)
    assert len({tuple(epoch) for epoch in found}) == 3


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30), st.integers(0, 3))
def test_a_bucket_reads_its_groups_a_few_at_a_time(groups: list[int], seed: int) -> None:
    labels, group_of = bucketed([sum(groups) // 2, -(-sum(groups) // 2)]), []
    for group, size in enumerate(groups):
        group_of += [group] * size
    buckets = order.Buckets(labels, tuple(groups))
    for bucket, members in enumerate(buckets.members):
        seen = buckets._sequence(seed, bucket, 0).tolist()
        assert sorted(seen) == members.tolist()
        places: dict[int, list[int]] = {}
        for place, row in enumerate(seen):
            places.setdefault(group_of[row], []).append(place)
        for place in range(len(seen)):
            assert sum(min(at) <= place <= max(at) for at in places.values()) <= order.AT_ONCE


TIMES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=40)


@given(TIMES, st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_an_epoch_draws_every_image_as_often_as_it_should(
    images: list[tuple[int, int]], seed: int, epochs: int, grouped: bool
) -> None:
    labels, times = torch.tensor(images).T
    buckets = order.Buckets(labels, (1,) * len(labels) if grouped else (), times)
    steps = epochs * int(times.sum())  # of one image each
    seen = torch.cat([buckets.rows(1, seed, step) for step in range(steps)])
    assert torch.equal(seen.bincount(minlength=len(labels)), epochs * times)
    fresh = order.Buckets(labels, (1,) * len(labels) if grouped else (), times)
    assert torch.equal(fresh.rows(1, seed, steps - 1), seen[-1:])  # a resumed run goes on with the same image


def test_images_that_are_drawn_once_are_drawn_as_without_times() -> None:
    labels, groups = bucketed([20, 30]), (10,) * 5
    plain, once = order.Buckets(labels, groups), order.Buckets(labels, groups, torch.ones(50, dtype=torch.int64))
    assert all(torch.equal(plain.rows(4, 1, step), once.rows(4, 1, step)) for step in range(30))
