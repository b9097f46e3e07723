"""A recipe is read and checked before any of it is used."""

from __future__ import annotations

from typing import Any

import pytest

from nextscale.errors import InputError
from nextscale.recipe import Recipe
from tests.makers import tiny_pipeline


def test_a_recipe_is_checked_before_it_is_used() -> None:
    good: dict[str, Any] = {
        "model": "m",
        "dtype": "float32",
        "class_label": "a",
        "seed": 1,
        "plan": {"rows": [{"size": [1, 1]}]},
    }
    assert Recipe.from_dict(good).seeds == [1]
    assert Recipe.from_dict(good | {"class_label": None}).class_labels == [None]
    for wrong in ({"seed": True}, {"seed": -1}, {"seed": 2**63}, {"seed": 1.0}, {"class_label": 1}, {"style": 1}):
        with pytest.raises(InputError, match="the recipe has the"):
            Recipe.from_dict(good | wrong)
    several = {key: value for key, value in good.items() if key not in ("class_label", "seed")}
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
    again = pipe(**pipe.arguments_of(recipe))
    assert [image.tobytes() for image in again.images] == [image.tobytes() for image in result.images]
    with pytest.raises(InputError, match="was drawn by tiny, and this is other"):
        recipe.arguments("other", "another", "float32")
    with pytest.warns(UserWarning, match="drawn by revision unsaved of tiny; this is newer"):
        recipe.arguments("tiny", "newer", "float32")
