"""Words find the class a person means, ids and names are checked, and a vocabulary survives being saved."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.conditions.classes import ClassVocabulary, Thing
from nextscale.errors import CheckpointError, InputError

NAMES = (
    "face-smiling",
    "cat-face",
    "animal-mammal",
    "food-fruit",
    "plant-flower",
    "dishware",
    "person-role",
    "transport",
)
RECORDS: list[dict[str, Any]] = [
    {"name": "grinning face", "class": "face-smiling", "keywords": ["happy", "smile"], "tones": []},
    {"name": "grinning cat", "class": "cat-face", "keywords": ["animal", "cat", "smile"], "tones": []},
    {"name": "cat", "class": "animal-mammal", "keywords": ["animal", "pet"], "tones": []},
    {"name": "mouse", "class": "animal-mammal", "keywords": ["animal"], "tones": []},
    {"name": "red apple", "class": "food-fruit", "keywords": ["fruit", "red"], "tones": []},
    {"name": "rose", "class": "plant-flower", "keywords": ["flower", "red"], "tones": []},
    {"name": "teacup", "class": "dishware", "keywords": ["cup", "drink"], "tones": []},
    {"name": "knife", "class": "dishware", "keywords": [], "tones": []},
    {"name": "health worker", "class": "person-role", "keywords": ["doctor"], "tones": [], "gender": None},
    {"name": "woman health worker", "class": "person-role", "keywords": ["doctor"], "tones": [], "gender": "female"},
    {"name": "woman health worker: dark", "class": "person-role", "keywords": ["doctor"], "tones": [5]},
    {"name": "grinning cat", "class": "cat-face", "keywords": ["another style"], "tones": []},
    {"name": "railway car", "class": "transport", "keywords": ["fast"], "tones": []},
    {"name": "sprinter", "class": "person-role", "keywords": ["fast"], "tones": []},
    {"name": "piñata", "class": "food-fruit", "keywords": [], "tones": []},
]


@pytest.fixture
def vocabulary() -> ClassVocabulary:
    return ClassVocabulary.from_records(NAMES, RECORDS)


@pytest.mark.parametrize(
    ("words", "class_name", "because"),
    [
        ("cat-face", "cat-face", "the class"),
        ("Cat Face", "cat-face", "the class"),
        ("grinning cat", "cat-face", "the name 'grinning cat'"),
        ("Grinning Cats", "cat-face", "the name 'grinning cat'"),
        ("cat", "animal-mammal", "the name 'cat'"),
        ("mice", "animal-mammal", "the name 'mouse'"),
        ("roses", "plant-flower", "the name 'rose'"),
        ("knives", "dishware", "the name 'knife'"),
        ("pinata", "food-fruit", "the name 'piñata'"),
        ("a smiling cat", "animal-mammal", "'cat' in the name 'cat'"),
        ("mammals", "animal-mammal", "in the class 'animal-mammal'"),
        ("female doctor", "person-role", "the keywords of 'woman health worker'"),
        ("a fast car", "transport", "'car' in the name 'railway car', 'fast' in its keywords"),
        ("an apple for the doctor", "food-fruit", "'apple' in the name 'red apple'"),
        ("apple, zzz", "food-fruit", "'apple'"),
    ],
)
def test_words_find_a_class(vocabulary: ClassVocabulary, words: str, class_name: str, because: str) -> None:
    match = vocabulary.find(words)
    assert match.class_name == class_name
    assert match.class_id == vocabulary.names.index(class_name)
    assert because in match.reason


def test_a_tie_goes_to_the_first_and_the_rest_are_alternatives(vocabulary: ClassVocabulary) -> None:
    match = vocabulary.find("red")
    assert match.class_name == "food-fruit"  # in the name, where the rose has it among its keywords
    assert match.alternatives == ("plant-flower",)
    match = vocabulary.find("smile")
    assert match.class_name == "face-smiling"
    assert match.alternatives == ("cat-face",)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("teecup", "no class is known for 'teecup'; did you mean 'teacup'?"),
        ("zzzzz", "no class is known for 'zzzzz'; try another word, or one of the 8 class names"),
        ("  ", "holds no word; expected a class name or plain words"),
    ],
)
def test_words_that_find_nothing(vocabulary: ClassVocabulary, words: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        vocabulary.find(words)
    assert sentence in str(caught.value)


def test_labels_are_names_or_ids(vocabulary: ClassVocabulary) -> None:
    assert vocabulary.ids(["cat-face", 0, "7", "animal-mammal"]) == [1, 0, 7, 2]
    assert vocabulary.ids([]) == []


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("animal-mamal", "there is no class 'animal-mamal'; did you mean 'animal-mammal'?"),
        ("?", "there is no class '?'; expected one of 8 names such as 'face-smiling'"),
        (8, "class id 8 is out of range; expected 0 to 7"),
        (-1, "class id -1 is out of range; expected 0 to 7"),
        ("-1", "class id -1 is out of range; expected 0 to 7"),
        (True, "a class label is True; expected a name or an id from 0 to 7"),
        (1.0, "a class label is 1.0; expected a name or an id from 0 to 7"),
    ],
)
def test_labels_that_are_none(vocabulary: ClassVocabulary, label: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        vocabulary.ids([0, label])
    assert str(caught.value) == sentence


def test_variants_and_repeated_names_are_left_out(vocabulary: ClassVocabulary) -> None:
    assert len(vocabulary.things) == len(RECORDS) - 2


@pytest.mark.parametrize("styles", [(), ("noto",), ("noto", "twemoji")])
def test_a_saved_vocabulary_is_the_same(styles: tuple[str, ...]) -> None:
    vocabulary = ClassVocabulary.from_records(NAMES, RECORDS, styles)
    vocabulary = replace(vocabulary, missing=frozenset((style, NAMES[1]) for style in styles[1:]))
    assert vocabulary.styles == styles
    saved = json.loads(json.dumps(vocabulary.to_dict()))
    assert ClassVocabulary.from_dict(saved) == vocabulary


def test_a_vocabulary_from_before_there_were_styles_is_read() -> None:
    saved = {"names": ["a"], "things": [["x", 0, "y|z"]]}
    assert ClassVocabulary.from_dict(saved) == ClassVocabulary(("a",), (Thing("x", 0, ("y", "z")),), ())


def test_the_styles_of_a_class_are_those_it_was_seen_in() -> None:
    missing = frozenset({("noto", "b"), ("noto", "c"), ("twemoji", "c")})
    vocabulary = ClassVocabulary(("a", "b", "c"), (), ("noto", "twemoji"), missing)
    assert [vocabulary.styles_of(i) for i in range(3)] == [["noto", "twemoji"], ["twemoji"], ["noto", "twemoji"]]
    assert ClassVocabulary(("a",)).styles_of(0) == []


def test_class_and_style_together_are_the_label() -> None:
    """Every pair has a label of its own, 0 to len - 1; in the first style the label is the class."""
    vocabulary = ClassVocabulary(("a", "b", "c"), styles=("noto", "twemoji"))
    class_ids, style_ids = torch.arange(3).repeat(2), torch.arange(2).repeat_interleave(3)
    labels = vocabulary.labels(class_ids, style_ids)
    assert labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert len(vocabulary) == 6
    assert torch.equal(labels % 3, class_ids)
    assert torch.equal(labels // 3, style_ids)


@pytest.mark.parametrize("styles", [(), ("noto",)])
def test_without_styles_or_with_one_the_label_is_the_class(styles: tuple[str, ...]) -> None:
    vocabulary = ClassVocabulary(("a", "b", "c"), styles=styles)
    assert len(vocabulary) == 3
    assert vocabulary.labels(torch.tensor([2, 0]), torch.tensor([0, 0])).tolist() == [2, 0]
    assert vocabulary.labels(torch.empty(0).long(), torch.empty(0).long()).tolist() == []


def test_a_label_past_the_last_is_an_error_and_not_the_null_class() -> None:
    vocabulary = ClassVocabulary(("a", "b"), styles=("noto",))
    with pytest.raises(AssertionError, match="a label of 2 among 2"):
        vocabulary.labels(torch.tensor([0]), torch.tensor([1]))


def test_styles_multiply_labels_and_not_classes() -> None:
    vocabulary = ClassVocabulary(("a", "b"), styles=("noto", "twemoji"))
    assert vocabulary.ids(["b", 1]) == [1, 1]
    with pytest.raises(InputError, match="class id 2 is out of range; expected 0 to 1"):
        vocabulary.ids([2])
    assert vocabulary.style_ids(["twemoji", "noto", "twemoji"]) == [1, 0, 1]


@pytest.mark.parametrize(
    ("styles", "asked", "sentence"),
    [
        (("noto", "twemoji"), "twemojis", "no style 'twemojis'; did you mean 'twemoji'? expected one of noto, twemoji"),
        (("noto", "twemoji"), "apple", "there is no style 'apple'; expected one of noto, twemoji"),
        (("noto", "twemoji"), 1, "there is no style 1; expected one of noto, twemoji"),
        ((), "noto", "the style 'noto' was asked for, but this model has no styles; leave it out"),
    ],
)
def test_styles_that_are_none(styles: tuple[str, ...], asked: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        ClassVocabulary(("a",), styles=styles).style_ids([asked])
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        {"names": ["a"], "extra": 1},
        {"names": ["a", "a"]},
        {"names": []},
        {"names": 3},
        {"names": ["a"], "styles": ["noto", "noto"]},
        {"names": ["a"], "styles": 3},
        {"names": ["a"], "styles": ["noto"], "missing": [["noto", "b"]]},
        {"names": ["a"], "styles": ["noto"], "missing": ["noto"]},
        {"names": ["a"], "things": [["x", 1, ""]]},
        {"names": ["a"], "things": [["x", 0]]},
        {"names": ["a"], "things": [["x", 0, 5]]},
    ],
)
def test_damaged_vocabularies(data: Any) -> None:
    with pytest.raises(CheckpointError, match="vocabulary"):
        ClassVocabulary.from_dict(data)


def answer(vocabulary: ClassVocabulary, text: str) -> str:
    try:
        return vocabulary.find(text).reason
    except InputError as error:
        return str(error)


WHOLE = ClassVocabulary.from_records(NAMES, RECORDS)


@given(st.text(max_size=40))
def test_any_text_gets_a_reason_or_a_sentence_of_one_line(text: str) -> None:
    assert len(answer(WHOLE, text).splitlines()) == 1


def test_every_thing_is_found_by_its_own_name() -> None:
    names = ("a", "b")
    things = (Thing("houses", 0), Thing("house", 1), Thing("bus", 0), Thing("bus stop", 1))
    vocabulary = ClassVocabulary(names, things)
    assert [vocabulary.find(thing.name).class_id for thing in things] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "class_name", "named"),
    [
        ("cat-face", "cat-face", True),
        ("Cat-Face", "cat-face", True),
        ("3", "food-fruit", True),
        ("a grinning cat", "cat-face", False),
        ("mammals", "animal-mammal", False),
        ("unconditional", "unconditional", True),
        ("Unconditional ", "unconditional", True),
    ],
)
def test_what_is_typed_is_a_name_a_number_no_class_or_words(
    vocabulary: ClassVocabulary, text: str, class_name: str, named: bool
) -> None:
    match = vocabulary.look_up(text)
    assert (match.class_name, match.named) == (class_name, named)
    assert match.class_id == (None if class_name == "unconditional" else NAMES.index(class_name))


def test_a_word_that_is_no_class_finds_what_the_word_finds(vocabulary: ClassVocabulary) -> None:
    assert vocabulary.look_up("mouse").class_id == vocabulary.find("mouse").class_id == 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("animal-mamal", "there is no class 'animal-mamal'; did you mean 'animal-mammal'?"),
        ("mosue", "there is no class 'mosue'; did you mean 'mouse'?"),
        ("rsoe", "there is no class 'rsoe'; did you mean 'rose'?"),
        ("Cat-Fcae", "there is no class 'Cat-Fcae'; did you mean 'cat-face'?"),
        ("99", "class id 99 is out of range; expected 0 to 7"),
    ],
)
def test_a_slip_of_the_finger_is_refused_with_what_was_meant(
    vocabulary: ClassVocabulary, text: str, sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        vocabulary.look_up(text)
    assert str(caught.value) == sentence


def test_a_swap_of_letters_is_nearer_than_another_letter() -> None:
    vocabulary = ClassVocabulary(("a", "b"), (Thing("log", 0), Thing("go", 0), Thing("dog", 1), Thing("dig", 0)))
    with pytest.raises(InputError, match="did you mean 'dog'"):
        vocabulary.find("dgo")


def test_names_are_compared_in_one_unicode_form() -> None:
    composed, apart = "caf\u00e9", "cafe\u0301"
    for here, there in ((composed, apart), (apart, composed)):
        vocabulary = ClassVocabulary((here, "tea"), styles=(here, "plain"))
        assert vocabulary.ids([there]) == [0]
        assert vocabulary.look_up(there).named
        assert vocabulary.find(there).class_name == here
        assert vocabulary.style_ids([there]) == [0]
    both = ClassVocabulary((composed, apart))
    assert both.ids([composed, apart]) == [0, 1]  # as an old set may have them


def test_a_number_that_is_also_a_name_is_a_name_and_said() -> None:
    vocabulary = ClassVocabulary(("0", "1", "10", "11", "2"))
    assert vocabulary.ids(["2", "10", "0", 0, "3"]) == [4, 2, 0, 0, 3]
    with pytest.raises(InputError, match="class label 2 could be the class of the id 2, which is called '10'"):
        vocabulary.ids([2])
    match = vocabulary.look_up("2")
    assert (match.class_id, match.named) == (4, False)
    assert match.reason == "the class of this name; the id 2 is '10'"
    assert vocabulary.look_up("10").named  # there is no id 10


def test_unconditional_is_no_class_among_words_as_among_labels(vocabulary: ClassVocabulary) -> None:
    for match in (vocabulary.find(" Unconditional"), vocabulary.look_up("unconditional")):
        assert (match.class_name, match.class_id, match.named) == ("unconditional", None, True)


def test_no_class_is_none_and_its_label_the_one_after_the_last() -> None:
    vocabulary = ClassVocabulary(("a", "b"), styles=("noto", "twemoji"))
    assert vocabulary.ids([None, "unconditional", "b"]) == [None, None, 1]
    entries = vocabulary.resolve(class_labels=[None, 1, 0], style=[None, "twemoji", "noto"])
    assert entries == [vocabulary.entry(None, None), vocabulary.entry(1, 1), vocabulary.entry(0, 0)]
    assert vocabulary.features(entries).sources["class"].tensors["ids"].tolist() == [4, 3, 0]
    assert ClassVocabulary(("unconditional", "b")).ids(["unconditional", None]) == [0, None]
