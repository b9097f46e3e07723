"""What is held out for text models: whole cells and families, the same in every build, and nothing of them trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from nextscale.data.emoji import STYLES
from nextscale.data.emoji_cells import held_out, is_flag, lost_styles, sides

FLUENT = {"fluent-emoji-flat", "fluent-emoji"}
FAMILIES = 2000


def records(styles: Sequence[str] = STYLES, families: int = FAMILIES) -> list[dict[str, Any]]:
    """Families of three near copies in every style; each tenth is not drawn by Fluent, each fifth is held out, and each
    hundredth is a flag.
    """
    return [
        {
            **{"id": f"{style}/{i}-{tone}", "style": style, "family": f"{i}", "name": f"thing {i}, {tone}"},
            **{"class": "country-flag" if i % 100 == 7 else "animal", "split": "heldout" if i % 5 == 2 else "train"},
        }
        for style in styles
        for i in range(families)
        for tone in range(3)
        if not (i % 10 == 3 and style in FLUENT)
    ]


@pytest.fixture(scope="module")
def whole() -> dict[tuple[str, str], set[str]]:
    """The sides of each cell of the whole set: (family, style)."""
    found: dict[tuple[str, str], set[str]] = {}
    every = records()
    for record, side in zip(every, sides(every), strict=True):
        found.setdefault((record["family"], record["style"]), set()).add(side)
    return found


def test_near_copies_lie_on_one_side_and_a_held_out_cell_is_known_in_another_style(
    whole: dict[tuple[str, str], set[str]],
) -> None:
    assert all(len(of) == 1 for of in whole.values())
    of = {cell: side for cell, (side,) in whole.items()}
    for (family, style), side in of.items():
        others = {other: of[family, other] for other in STYLES if (family, other) in of}
        if side == "cell":
            assert "train" in others.values(), (family, style)
            assert len(others) == len(STYLES), (family, style)
        if side == "cell" and style in FLUENT:  # the same drawings
            assert {name for name, side in others.items() if side == "cell"} == FLUENT
        elif side == "cell":
            assert [name for name, side in others.items() if side == "cell"] == [style]
        if side == "family":
            assert set(others.values()) == {"family"}


def test_a_fifth_of_the_families_loses_a_style_and_a_quarter_of_the_held_out_ones_stays_held_out(
    whole: dict[tuple[str, str], set[str]],
) -> None:
    families = {side: {family for (family, _), of in whole.items() if of == {side}} for side in ("cell", "family")}
    drawn_by_all = sum(i % 5 != 2 and i % 10 != 3 for i in range(FAMILIES))
    assert len(families["cell"]) / drawn_by_all == pytest.approx(0.2, abs=0.03)
    assert len(families["family"]) / (FAMILIES / 5) == pytest.approx(0.25, abs=0.06)
    lost = [lost_styles(f"{i}") for i in range(FAMILIES)]
    assert [sum("noto" in of for of in lost), sum(of == FLUENT for of in lost)] == pytest.approx([80, 160], abs=30)


def test_flags_are_trained_on(whole: dict[tuple[str, str], set[str]]) -> None:
    flags = [record for record in records() if is_flag(record)]
    assert flags
    assert all(whole[flag["family"], flag["style"]] == {"train"} for flag in flags)
    assert is_flag({"class": "subdivision-flag"})
    assert not is_flag({"class": "flag"})


@pytest.mark.parametrize("styles", [STYLES[:1], STYLES[1:3], STYLES[3:], STYLES[::-1]])
def test_a_set_of_fewer_styles_trains_on_nothing_that_the_whole_set_holds_out(
    whole: dict[tuple[str, str], set[str]], styles: Sequence[str]
) -> None:
    some = records(styles)
    found = sides(some)
    held = {(one["family"], one["style"]) for one, side in zip(some, found, strict=True) if side != "train"}
    assert held >= {cell for cell, side in whole.items() if side != {"train"} and cell[1] in styles}
    trained = {one["family"] for one, side in zip(some, found, strict=True) if side == "train"}
    cells = {one["family"] for one, side in zip(some, found, strict=True) if side == "cell"}
    assert cells <= trained
    assert bool(cells) == (not set(styles) <= FLUENT and len(styles) > 1)


def test_what_is_held_out_can_be_listed(whole: dict[tuple[str, str], set[str]]) -> None:
    listed = held_out(records())
    for kind, side in (("cells", "cell"), ("families", "family")):
        assert {(one["family"], style) for one in listed[kind] for style in one["styles"]} == {
            cell for cell, of in whole.items() if of == {side}
        }
        assert all(one["images"] == 3 * len(one["styles"]) for one in listed[kind])
    order = [one["family"] for one in listed["cells"]]
    assert order != sorted(order, key=int)
    assert order[0] == held_out(records(families=1990))["cells"][0]["family"]


def test_the_rules_are_those_that_models_were_trained_by() -> None:
    first = {i: lost_styles(f"{i}") for i in range(20) if lost_styles(f"{i}")}
    assert first == {2: {"openmoji"}, 6: FLUENT, 8: {"noto"}, 12: FLUENT, 17: FLUENT}
    assert lost_styles("1f353") == FLUENT  # strawberry
