"""A collapse is noticed when it has lasted, once, and not where a number only dips."""

from __future__ import annotations

import torch

from nextscale.training.collapse import CollapseWatch

FINE, COARSE, ALL = (torch.tensor(row) for row in ([False] * 3, [False, True, False], [True] * 3))


def watch() -> CollapseWatch:
    return CollapseWatch(2, 100)


def test_a_collapse_is_warned_of_once_after_its_time_and_again_after_a_recovery() -> None:
    seen = watch()
    assert [seen.note(COARSE, 40) for _ in range(5)] == [[], [], [1], [], []]
    assert seen.warned.tolist() == [False, True, False]
    assert seen.note(FINE, 40) == []
    assert not seen.warned.any()
    assert [seen.note(COARSE, 40) for _ in range(3)] == [[], [], [1]]
    assert [seen.note(ALL, 40) for _ in range(4)][2:] == [[0], []]


def test_a_dip_is_no_collapse() -> None:
    seen = watch()
    assert [seen.note(ALL if i % 3 else FINE, 40) for i in range(30)] == [[]] * 30
    assert seen.to_mend() == []


def test_a_collapse_is_mended_now_and_given_time() -> None:
    seen = watch()
    named = []
    for _ in range(7):
        seen.note(COARSE, 50)
        named.append(seen.to_mend())
    assert named == [[], [1], [], [1], [], [1], []]
