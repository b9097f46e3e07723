"""Labels and families of images are those of the data, in the model's words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.folder import load_data
from nextscale.errors import InputError
from nextscale.evaluation.subject import families_of, labels_of


def test_families_come_from_the_set_and_elsewhere_are_images(emoji: Path, pictures: Path) -> None:
    drawn, photos = load_data(emoji, 16, "heldout"), load_data(pictures, 16, "heldout")
    assert set(families_of(emoji, drawn)) == {
        "flags, heldout",
        *(f"{n} {i}" for n in ("animal", "face") for i in range(3, 7)),
    }
    assert families_of(pictures, photos) == photos.names


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
