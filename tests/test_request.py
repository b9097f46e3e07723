"""A call's names, styles and seeds become one entry and one stream of noise per image, or are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nextscale.conditions.classes import ClassVocabulary, Thing
from nextscale.errors import InputError
from nextscale.plan import Plan
from nextscale.request import Request, resolve, sampling_numbers
from nextscale.row import Row
from nextscale.sampling import IndependentNoise, OfficialNoise
from tests.makers import tiny_pipeline

STYLED = ClassVocabulary(("animal", "face", "flag"), styles=("noto", "twemoji"))
LACKING = replace(STYLED, missing=frozenset({("noto", "flag")}))
PLAIN = ClassVocabulary(("animal", "face", "flag"))
ONE_STYLE = ClassVocabulary(("animal", "face", "flag"), styles=("noto",))


class Asked(Request):
    """The request of a class model, and what its entries say."""

    vocabulary: ClassVocabulary

    @property
    def classes(self) -> list[str | None]:
        return [entry["class"] for entry in self.entries]

    @property
    def styles(self) -> list[str | None]:
        return [entry["style"] for entry in self.entries if "style" in entry]

    @property
    def labels(self) -> Tensor:
        source = self.features(self.vocabulary).sources["class"]
        assert source.dropped is not None
        assert source.dropped.tolist() == [name is None for name in self.classes]
        return source.tensors["ids"]


def asked(vocabulary: ClassVocabulary, class_labels: Any = None, plan: Plan | None = None, **more: Any) -> Asked:
    call: dict[str, Any] = {"num_images": 1, "seed": 0, "generator": None}
    call |= {name: more.pop(name) for name in list(more) if name in call}
    plan = plan or Plan((Row(size=(1, 1)),))
    request = resolve(vocabulary, plan, {"class_labels": class_labels, **more}, **call)
    found = Asked(request.entries, request.seeds, request.noise, request.plan)
    object.__setattr__(found, "vocabulary", vocabulary)
    return found


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


NAMED = ClassVocabulary(("cat-face", "animal-bird", "flag"), (Thing("grinning cat", 0), Thing("dog", 1)))
NUMBERS = ClassVocabulary(("0", "1", "10", "11", "2"))


def test_a_label_may_be_words_and_one_warning_tells_what_is_drawn() -> None:
    with pytest.warns(UserWarning, match="is drawn as") as told:
        assert asked(NAMED, ["grinning cat", "flag", "a dog"]).classes == ["cat-face", "flag", "animal-bird"]
    (warning,) = told
    assert "'grinning cat' is drawn as cat-face, 'a dog' is drawn as animal-bird: the model knows" in str(
        warning.message
    )
    with pytest.warns(UserWarning, match="'a dog' is drawn as animal-bird: .*not of the words"):
        assert asked(NAMED, prompt="a dog").classes == ["animal-bird"]


def test_many_words_get_a_short_warning() -> None:
    vocabulary = replace(NAMED, things=tuple(Thing(f"thing{'x' * i}", 0) for i in range(1, 40)))
    with pytest.warns(UserWarning, match="and 35 more: the model") as told:
        asked(vocabulary, [f"thing{'x' * i}" for i in range(1, 40)])
    assert len(told) == 1


def test_a_warning_points_to_the_line_of_the_caller() -> None:
    pipe = tiny_pipeline()
    pipe.vocabulary = ClassVocabulary(("animal", "face", "flag", "food", "tool"), (Thing("dog", 0),))
    for call in (pipe, pipe.stream):
        with pytest.warns(UserWarning, match="is drawn as") as told:
            call("dog", seed=1)
        assert told[0].filename == __file__


@pytest.mark.parametrize("label", ["flag", "Flag", "a flag", "FLAGS"])
def test_a_class_called_by_its_name_is_drawn_without_a_warning(label: str) -> None:
    assert asked(NAMED, label).classes == asked(NAMED, prompt=label).classes == ["flag"]


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("dgo", "no class 'dgo'; did you mean 'dog'"),
        ("animal-brid", "no class 'animal-brid'; did you mean 'animal-bird'"),
        ("zzzz", "no class 'zzzz'; expected one of 3 names such as 'cat-face'"),
        ("", "no class ''"),
        ("x" * 10_000, r"no class 'x{79}\.\.\. \(10002 characters\);"),
        ("9" * 5000, r"no class '9{79}\.\.\. \(5002 characters\);"),
    ],
)
def test_a_label_that_is_neither_name_nor_words(label: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        asked(NAMED, label)


def test_no_class_is_the_label_after_the_last_in_a_model_with_styles_too() -> None:
    request = asked(STYLED, ["face", None, "unconditional"], num_images=2)
    assert request.classes == ["face", "face", None, None, None, None]
    assert request.styles == ["noto", "noto", None, None, None, None]
    assert request.labels.tolist() == [1, 1, 6, 6, 6, 6]
    assert asked(PLAIN, [None]).labels.tolist() == [3]
    assert asked(ClassVocabulary(("a", "unconditional")), "unconditional").labels.tolist() == [1]


def test_no_class_has_no_style() -> None:
    assert asked(STYLED, [None, "face"], style="twemoji").styles == [None, "twemoji"]
    assert asked(STYLED, [None, "face"], style=[None, "twemoji"]).styles == [None, "twemoji"]
    for style in ("twemoji", ["twemoji"]):
        with pytest.raises(InputError, match="style is 'twemoji' for a picture of no class"):
            asked(STYLED, [None], style=style)


def test_a_number_that_is_the_name_of_another_class_is_refused_and_its_text_is_the_name() -> None:
    for label in (2, np.int64(2), torch.tensor(2)):
        with pytest.raises(InputError, match=r"2 could be the class of the id 2, which is called '10', or .* '2'"):
            asked(NUMBERS, [label])
    assert asked(NUMBERS, ["2", "10", "11", 0]).classes == ["2", "10", "11", "0"]
    assert asked(ClassVocabulary(tuple("01234")), [2, "2"]).classes == ["2", "2"]


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0],
        (1, 0),
        range(1, -1, -1),
        np.array([1, 0]),
        torch.tensor([1, 0]),
        [np.int64(1), torch.tensor(0)],
        np.array(["face", "animal"]),
        [np.str_("face"), "0"],
        iter([1, 0]),
    ],
)
def test_labels_may_be_any_list_of_any_whole_numbers_and_names(labels: Any) -> None:
    assert asked(PLAIN, labels).classes == ["face", "animal"]


def test_a_plan_that_sees_nothing_is_asked_for_nothing() -> None:
    """A picture per seed; what would be named has no place to go."""
    plan = Plan((Row(size=(1, 1)),), branches=((),))
    request = asked(PLAIN, plan=plan, num_images=2, seed=3)
    assert (request.entries, request.seeds) == ([{}, {}], [3, 4])
    features = request.features(PLAIN)
    assert (features.images, dict(features.sources)) == (2, {})
    for named in ({"class_labels": [None]}, {"prompt": "face"}, {"style": "noto"}):
        with pytest.raises(InputError, match=f"{next(iter(named))} is .*; leave it out"):
            asked(PLAIN, plan=plan, **named)


def test_entries_are_asked_for_with_the_same_words() -> None:
    """What a recipe does: the arguments of entries give the entries."""
    for vocabulary in (STYLED, PLAIN):
        entries = asked(vocabulary, ["face", None, 2]).entries
        assert vocabulary.resolve(**vocabulary.arguments(entries)) == entries


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (1.0, "a class label is 1.0; expected a name or an id from 0 to 2"),
        (np.array([1.0]), "a class label is 1.0"),
        (torch.tensor([1.5]), "a class label is 1.5"),
        (True, "a class label is True"),
        (np.array([True]), "a class label is True"),
        (b"face", "a class label is b'face'"),
        ({0, 1}, r"class_labels is \{0, 1\}; expected a name or an id, or a list of them"),
        (object, "class_labels is <class 'object'>"),
        (10**30, "out of range"),
        ([10**5000], "class id a number of thousands of digits is out of range"),
        ({"face": 0.5, "flag": 0.5}, "classes cannot be mixed yet, so give one class per picture"),
        ([{"face": 0.5}], "classes cannot be mixed yet, so give one class per picture"),
        ([("face", "flag")], "classes cannot be mixed yet, so give one class per picture"),
        ([[("face", 0.5), ("flag", 0.5)]], "classes cannot be mixed yet, so give one class per picture"),
    ],
)
def test_labels_that_are_none(labels: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        asked(PLAIN, labels)


@pytest.mark.parametrize(
    "seed", [[4, 9], (4, 9), np.array([4, 9]), torch.tensor([4, 9]), [np.int64(4), torch.tensor(9)]]
)
def test_seeds_may_be_any_list_of_whole_numbers(seed: Any) -> None:
    seeds = asked(PLAIN, [0, 1], seed=seed).seeds
    assert seeds == [4, 9]
    assert [type(one) for one in seeds or ()] == [int, int]
    for one in (4, np.uint8(4), torch.tensor(4), np.array(4)):
        assert asked(PLAIN, [0, 1], seed=one).seeds == [4, 5]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"seed": [0, False]}, r"seed is \[0, False\]"),
        ({"seed": 1.0}, "seed is 1.0"),
        ({"seed": "7"}, "seed is '7'"),
        ({"seed": ["7", "8"]}, "seed is "),
        ({"seed": torch.tensor([1.0, 2.0])}, "seed is tensor"),
        ({"seed": {1: 2}}, "seed is "),
        ({"seed": -1}, "a seed of -1 is out of range"),
        ({"seed": 2**63 - 1}, f"a seed of {2**63} is out of range"),
        ({"seed": 10**5000}, "a seed of a number of thousands of digits is out of range"),
        ({"num_images": True}, "num_images is True; it must be a whole number of at least 1"),
        ({"num_images": 2.0}, "num_images is 2.0"),
        ({"num_images": "2"}, "num_images is '2'"),
        ({"num_images": -1}, "num_images is -1"),
        ({"num_images": 10**30}, "a call draws at most 100000 images"),
        ({"num_images": 10**5000}, "a call draws at most 100000 images"),
        ({"seed": None, "generator": [torch.Generator().manual_seed(3)] * 2}, r"for noise .* give seed=\[3, 3\]"),
        ({"seed": None, "generator": 3}, "generator is 3; expected a torch.Generator"),
        ({"prompt": [3]}, r"prompt is \[3\]; give some words"),
        ({"prompt": b"face"}, "prompt is b'face'"),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        asked(PLAIN, None if "prompt" in arguments else [0, 1], **arguments)


def test_candidates_count_while_they_live() -> None:
    """A cull leaves one of them, but until then there are all."""
    row = Row(size=(1, 1), population=1, cull="best")
    assert asked(PLAIN, [0, 1], Plan((row,), candidates=50_000)).seeds == [0, 1]
    with pytest.raises(InputError, match="2 labels or prompts, with up to 50001 candidates for each; a call draws at"):
        asked(PLAIN, [0, 1], Plan((row,), candidates=50_001))


def test_sampling_numbers_are_read_as_pythons() -> None:
    given = {"guidance_scale": np.float32(2), "top_k": torch.tensor(5), "smooth": np.bool_(True), "top_p": None}
    read = sampling_numbers(given)
    assert read == {"guidance_scale": 2.0, "top_k": 5, "smooth": True}
    assert {type(value) for value in read.values()} == {float, int, bool}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", True),
        ("top_k", "5"),
        ("guidance_scale", [1.0, 2.0]),
        ("guidance_scale", 1j),
        ("temperature", 10**400),
        ("temperature", torch.ones(2)),
        ("smooth", 1),
        ("smooth", "no"),
    ],
)
def test_sampling_numbers_that_are_none(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{name} is .*; it must be"):
        sampling_numbers({name: value})
