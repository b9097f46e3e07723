"""What a message quotes is cut, whatever it is."""

from __future__ import annotations

import pytest

from nextscale.errors import quoted

LONG = {"text": "x" * 3_000_000, "list": ["long"] * 1_000_000, "number": 10**5000, "bytes": b"\0" * 10**6}


@pytest.mark.parametrize("value", LONG.values(), ids=LONG)
def test_what_is_quoted_is_short(value: object) -> None:
    assert len(quoted(value)) < 120


def test_short_values_are_quoted_whole() -> None:
    assert [quoted(value) for value in ("café", 7, None, [1, "a"])] == ["'café'", "7", "None", "[1, 'a']"]


def test_endless_nesting_has_a_name() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert "too long to show" in quoted(nested)
