"""A call's names, styles and seeds become one label and one stream of noise per image, or are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from nextscale.conditions.classes import ClassVocabulary
from nextscale.errors import InputError
from nextscale.plan import Plan, Row
from nextscale.request import Request, resolve
from nextscale.sampling import IndependentNoise, OfficialNoise

STYLED = ClassVocabulary(("animal", "face", "flag"), styles=("noto", "twemoji"))
LACKING = replace(STYLED, missing=frozenset({("noto", "flag")}))
PLAIN = ClassVocabulary(("animal", "face", "flag"))
ONE_STYLE = ClassVocabulary(("animal", "face", "flag"), styles=("noto",))


def asked(vocabulary: ClassVocabulary, class_labels: Any = None, **more: Any) -> Request:
    arguments: dict[str, Any] = {"prompt": None, "style": None, "num_images": 1, "seed": 0, "generator": None}
    return resolve(vocabulary, Plan((Row(size=(1, 1)),)), class_labels, **(arguments | more))


def test_one_style_is_for_all_labels() -> None:
    request = asked(STYLED, ["face", 2], style="twemoji", num_images=2)
    assert request.classes == ["face", "face", "flag", "flag"]
    assert request.styles == ["twemoji"] * 4
    assert request.labels.tolist() == [4, 4, 5, 5]


def test_a_list_of_styles_has_one_per_label() -> None:
    request = asked(STYLED, ["face", "face", 2], style=("noto", "twemoji", "noto"), num_images=2)
    assert request.styles == ["noto", "noto", "twemoji", "twemoji", "noto", "noto"]
    assert request.labels.tolist() == [1, 1, 4, 4, 2, 2]


def test_the_first_style_is_taken_where_none_is_named() -> None:
    assert asked(STYLED, "face").styles == ["noto"]
    assert asked(STYLED, prompt=["a face"], style="twemoji").labels.tolist() == [4]


def test_where_no_style_is_named_one_that_has_the_class_is_taken() -> None:
    """No warning either: the suite makes errors of them."""
    assert asked(LACKING, ["animal", "face", "flag"]).styles == ["noto", "noto", "twemoji"]
    assert asked(LACKING, prompt="a flag").labels.tolist() == [5]


def test_a_style_that_lacks_the_class_is_drawn_with_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"no image of flag in the style noto.*; styles with images of it: twemoji"):
        assert asked(LACKING, ["face", "flag"], style="noto").labels.tolist() == [1, 2]
    nowhere = replace(LACKING, missing=frozenset({("noto", "flag"), ("twemoji", "flag")}))
    assert asked(nowhere, "flag").styles == ["noto"]
    with pytest.warns(UserWarning, match="so what it draws there means nothing$"):
        asked(nowhere, "flag", style="twemoji")


def test_a_model_of_one_style_knows_its_name() -> None:
    assert asked(ONE_STYLE, "face").styles == asked(ONE_STYLE, "face", style="noto").styles == ["noto"]
    assert asked(ONE_STYLE, "face").labels.tolist() == asked(PLAIN, "face").labels.tolist() == [1]


def test_a_model_without_styles_names_none() -> None:
    assert asked(PLAIN, ["face", "flag"]).styles == []


def test_a_part_of_the_noise_is_that_of_its_images() -> None:
    """One stream for a whole batch has no parts; independent noise is its seeds."""
    part = asked(PLAIN, [0, 1, 2], seed=5).noise_of(slice(1, 3))
    assert isinstance(part, IndependentNoise)
    assert part.seeds == [6, 7]
    official = asked(PLAIN, [0, 1, 2], seed=None, generator=torch.Generator())
    assert isinstance(official.noise, OfficialNoise)
    assert official.noise_of(slice(1, 3)) is official.noise
    assert official.seeds is None


@pytest.mark.parametrize(
    ("vocabulary", "style", "sentence"),
    [
        (STYLED, "notto", "there is no style 'notto'; did you mean 'noto'"),
        (STYLED, ["noto", "apple"], "there is no style 'apple'; expected one of noto, twemoji"),
        (STYLED, ["noto"], "1 styles were given for 2 labels; give one style, or one per label"),
        (STYLED, [], "0 styles were given for 2 labels"),
        (STYLED, 3, "style is 3; give the name of a style"),
        (STYLED, [None, 1], "there is no style None"),
        (PLAIN, "noto", "the style 'noto' was asked for, but this model has no styles"),
        (PLAIN, ["noto", "noto"], "no styles; leave it out"),
    ],
)
def test_styles_that_cannot_be_had(vocabulary: ClassVocabulary, style: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        asked(vocabulary, ["face", "flag"], style=style)
