"""What belongs together is held out together: the family rules and the split."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextscale.data.emoji_families import family_key, read_emojibase, split_families
from nextscale.data.emoji_sources import Package


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F9D1-200D-1F52C", "1F469-200D-1F52C"),  # scientist, woman scientist
        ("1F46E", "1F46E-200D-2642-FE0F"),  # police officer, man police officer
        ("1F3C3", "1F3C3-200D-2640-FE0F-200D-27A1-FE0F"),  # running, woman running to the right
        ("1F469-200D-1F9B0", "1F468"),  # woman with red hair, man
        ("1F46D", "1F9D1-200D-1F91D-200D-1F9D1"),  # women holding hands, people holding hands
        ("1F468-200D-1F469-200D-1F466", "1F9D1-200D-1F9D2"),  # families
        ("1F468-200D-2764-FE0F-200D-1F468", "1F48F"),  # couple with heart, kiss
        ("2764-FE0F", "1F49A"),  # red heart, green heart
        ("0031-FE0F-20E3", "0038-FE0F-20E3"),  # keycaps
        ("1F550", "1F567"),  # clocks
        ("27A1-FE0F", "2B06-FE0F"),  # arrows
    ],
)
def test_variants_and_near_copies_share_a_family(one: str, other: str) -> None:
    assert family_key(one) == family_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F9D1-200D-1F52C", "1F9D1-200D-1F680"),  # scientist, astronaut
        ("1F415", "1F408"),  # dog, cat
        ("2640-FE0F", "2642-FE0F"),  # the female and the male sign, as emoji
        ("1F1E9-1F1EA", "1F1EB-1F1F7"),  # two flags
    ],
)
def test_different_things_do_not(one: str, other: str) -> None:
    assert family_key(one) != family_key(other)


families = st.dictionaries(st.text("abcdef0123456789-", min_size=1), st.sampled_from(["x", "y", "z"]), max_size=60)


@given(families)
def test_each_class_keeps_about_four_fifths_to_train_on(class_of_family: dict[str, str]) -> None:
    split = split_families(class_of_family)
    assert set(split) == set(class_of_family)
    for name in set(class_of_family.values()):
        sides = [split[family] for family, class_name in class_of_family.items() if class_name == name]
        assert "train" in sides
        assert abs(sides.count("heldout") - 0.2 * len(sides)) <= 0.5


@given(families, st.randoms())
def test_the_split_does_not_depend_on_the_order(class_of_family: dict[str, str], random: Random) -> None:
    items = list(class_of_family.items())
    random.shuffle(items)
    assert split_families(dict(items)) == split_families(class_of_family)


def test_emojibase_is_read_in_its_order_without_components(packages: dict[str, Package]) -> None:
    emoji = read_emojibase(packages)
    assert [one.name for one in emoji] == [
        "grinning cat",
        "health worker",
        "woman health worker",
        "woman health worker: dark",
        "dog",
    ]
    assert [one.tones for one in emoji] == [(), (), (), (5,), ()]
    assert [one.gender for one in emoji] == [None, None, "female", "female", None]
    assert emoji[3].keywords == emoji[2].keywords
    assert len({one.family for one in emoji}) == 3
