"""A recipe is read and checked before any of it is used."""

from __future__ import annotations

from typing import Any

import pytest

from nextscale.errors import InputError
from nextscale.recipe import Recipe, recipe_of
from tests.makers import tiny_pipeline

GOOD: dict[str, Any] = {
    "format": 2,
    "model": "m",
    "dtype": "float32",
    "entry": {"class": "a"},
    "seed": 1,
    "plan": {"rows": [{"size": [1, 1]}]},
}
OLD: dict[str, Any] = {
    **{key: GOOD[key] for key in ("model", "dtype", "seed", "plan")},
    "class_label": "a",
}
"""As versions wrote it that knew no format."""


def test_a_recipe_is_checked_before_it_is_used() -> None:
    assert Recipe.from_dict(GOOD).seeds == [1]
    assert Recipe.from_dict(GOOD).entries == [{"class": "a"}]
    for wrong in (
        {"seed": True},
        {"seed": -1},
        {"seed": 2**63},
        {"seed": 1.0},
        {"entry": "a"},
        {"format": 3},
        {"format": True},
    ):
        with pytest.raises(InputError, match="the recipe has the"):
            Recipe.from_dict(GOOD | wrong)
    several = {key: value for key, value in GOOD.items() if key not in ("entry", "seed")}
    with pytest.raises(InputError, match="2 entries and 1 seeds; expected one of each per picture"):
        Recipe.from_dict(several | {"entries": [{}, {}], "seeds": [1]})
    with pytest.raises(InputError, match="the recipe has no 'entries'"):
        Recipe.from_dict(several | {"seeds": [1]})


def test_an_old_recipe_is_read_as_a_new_one() -> None:
    assert Recipe.from_dict(OLD) == Recipe.from_dict(GOOD)
    assert Recipe.from_dict(OLD | {"class_label": None}).entries == [{"class": None}]
    assert Recipe.from_dict(OLD | {"style": "x"}).entries == [{"class": "a", "style": "x"}]
    for wrong in ({"class_label": 1}, {"style": 1}):
        with pytest.raises(InputError, match="the recipe has the"):
            Recipe.from_dict(OLD | wrong)
    several = {key: value for key, value in OLD.items() if key not in ("class_label", "seed")}
    for lists in (
        {"class_labels": ["a"], "seeds": [1, 2]},
        {"class_labels": ["a"], "seeds": [1], "styles": ["x", "y"]},
    ):
        with pytest.raises(InputError, match="one of each per picture"):
            Recipe.from_dict(several | lists)


def test_a_result_is_repeated_and_another_model_refuses() -> None:
    pipe = tiny_pipeline()
    result = pipe(class_labels=[0, 1], seed=3, top_k=4)
    recipe = Recipe.from_dict(result.recipe)
    assert Recipe.from_dict(recipe_of(result.recipe, 1)).entries == [{"class": "face"}]
    again = pipe(**pipe.arguments_of(recipe))
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in result.images]
    with pytest.raises(InputError, match="was drawn by tiny, and this is other"):
        recipe.arguments(pipe.conditioner, "other", "another", "float32")
    with pytest.warns(UserWarning, match="drawn by revision unsaved of tiny; this is newer") as told:
        recipe.arguments(pipe.conditioner, "tiny", "newer", "float32")
    assert told[0].filename == __file__
