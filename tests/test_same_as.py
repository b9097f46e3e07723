"""The tool that compares two commits sees a single bit, and names what one side alone has."""

from __future__ import annotations

import torch

from tests.makers import load_tool


def test_one_bit_is_seen() -> None:
    compare = load_tool("same_as").compare
    ours = {"a": torch.ones(3), "b": torch.arange(4)}
    assert compare(ours, {name: tensor.clone() for name, tensor in ours.items()}) == []
    flipped = torch.ones(3)
    flipped.view(torch.int32)[1] ^= 1
    (line,) = compare(ours, ours | {"a": flipped})
    assert line.startswith("a: 1 of 3 numbers differ, by 1.19")


def test_other_names_shapes_and_types_are_seen() -> None:
    compare = load_tool("same_as").compare
    theirs = {"a": torch.ones(3), "b": torch.ones(2), "c": torch.ones(1)}
    ours = {"a": torch.ones(3, 1), "b": torch.ones(2).double(), "d": torch.ones(1)}
    assert [line.split(":")[0] for line in compare(theirs, ours)] == ["c", "d", "a", "b"]
