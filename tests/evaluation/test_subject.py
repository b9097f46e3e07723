"""Labels of images are those of the data, in the model's words; samples are repeatable."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.evaluation.subject import class_ids, labels_of, sample_rows


def test_labels_need_the_styles_that_the_model_draws_in(emoji: Path, pictures: Path) -> None:
    known, drawn = ("animal", "face", "flag", "food", "tool"), load_data(emoji, 16, "heldout")
    with pytest.raises(InputError, match="draws in the styles noto, twemoji, but the data have no styles"):
        labels_of(ClassVocabulary(known, styles=("noto", "twemoji")), load_data(pictures, 16, "heldout"))
    with pytest.raises(InputError, match="does not know the data's style 'openmoji'; expected some of its 2 styles"):
        labels_of(ClassVocabulary(known, styles=("noto", "twemoji")), drawn)
    every = labels_of(ClassVocabulary(known, styles=("openmoji", "noto", "twemoji")), drawn)
    styles = [("openmoji", "noto", "twemoji").index(drawn.styles[i]) for i in drawn.style_labels.tolist()]
    assert every.tolist() == [5 * style + label for style, label in zip(styles, drawn.labels.tolist(), strict=True)]
    assert torch.equal(labels_of(ClassVocabulary(known), drawn), drawn.labels)


def test_images_without_styles_are_of_the_one_that_their_classes_were_seen_in(pictures: Path) -> None:
    photos = load_data(pictures, 16, "heldout")
    names = ("else", *photos.classes)
    missing = frozenset(("noto", name) for name in photos.classes)
    vocabulary = ClassVocabulary(names, (), ("noto", "twemoji"), missing)
    assert torch.equal(labels_of(vocabulary, photos), len(names) + 1 + photos.labels)


@given(st.permutations(["animal", "face", "flag"]))
def test_classes_are_matched_by_name_whatever_their_order(known: list[str]) -> None:
    ids = class_ids(["animal", "face"], known)
    assert [known[i] for i in ids] == ["animal", "face"]


def test_a_model_without_names_takes_the_classes_in_order() -> None:
    assert class_ids(["n01", "n02", "n03"], ["0", "1", "2"]).tolist() == [0, 1, 2]


def test_names_that_are_numbers_are_names() -> None:
    known = [str(i) for i in range(11)]
    assert class_ids(sorted(known), known).tolist() == [0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("classes", "known", "named"),
    [
        (["animal", "bird"], ["animal", "fish"], r"'bird', and the data lack 'fish'; expected some of its 2"),
        (list("abcde"), ["a"], r"'b', 'c', 'd' and 1 more; expected some of its 1 "),
        (["n01", "n02"], ["0", "1", "2"], r"'n01', 'n02', and the data lack '0', '1', '2'"),
    ],
)
def test_unknown_classes_are_named(classes: list[str], known: list[str], named: str) -> None:
    with pytest.raises(InputError, match=named):
        class_ids(classes, known)


@given(st.integers(1, 100), st.integers(1, 100))
def test_a_sample_is_repeatable_and_names_no_row_twice(count: int, size: int) -> None:
    rows = sample_rows(count, size).tolist()
    assert rows == sorted(set(rows)) == sample_rows(count, size).tolist()
    assert len(rows) == min(count, size)
    assert 0 <= rows[0] <= rows[-1] < count
