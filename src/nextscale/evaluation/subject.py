"""What is evaluated, with what, on which images: the words that all reports share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.class_names import called_as
from nextscale.conditions.classes import ClassVocabulary
from nextscale.data.emoji_reader import holds_emoji, read_metadata
from nextscale.data.images import ImageData
from nextscale.errors import InputError
from nextscale.evaluation.generator import class_ids
from nextscale.evaluation.tokenizer import Step, silent
from nextscale.features.classifier import Classifier
from nextscale.models.base import NextScaleModel
from nextscale.tokenizers.base import Tokenizer

Progress = Callable[[str, str], AbstractContextManager[Step]]
"""``progress(title, unit)`` is entered for every stage and gives the ``step(done, total)`` of that stage."""


@contextmanager
def no_progress(title: str, unit: str) -> Iterator[Step]:
    """The progress nobody looks at."""
    yield silent


@dataclass(frozen=True)
class Subject:
    """What is evaluated: a tokenizer, and perhaps the generator that draws with it, the classes and styles it knows,
    and the sampling settings that were saved with it.
    """

    name: str
    revision: str
    tokenizer: Tokenizer
    model: NextScaleModel | None = None
    vocabulary: ClassVocabulary | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judge:
    """A classifier (float32, in evaluation mode) that tells what is in pictures, and whose features measure them."""

    name: str
    revision: str
    network: Classifier


@dataclass(frozen=True)
class Source:
    """The images a number was measured on; data_hash is the whole split's, of which ``images`` may be a sample."""

    split: str
    images: int
    data_hash: str

    @classmethod
    def of(cls, data: ImageData, images: int | None = None) -> Source:
        """All of ``data``, or so many of its images."""
        return cls(data.split, len(data) if images is None else images, data.hash)


def square_resolution(tokenizer: Tokenizer) -> int:
    """Side of the images in pixels. Raises ``InputError`` if they are not square; no reader of data has others."""
    h, w = (side * tokenizer.stride for side in tokenizer.schedule.grid)
    if h != w:
        raise InputError(f"the model draws {h}x{w} pixels; expected square images to evaluate on")
    return h


def labels_of(vocabulary: ClassVocabulary, data: ImageData) -> Tensor:
    """The model's label, (N,) int64, of every image: class, and style where the model knows styles.

    Data without styles are those of the style that the model has seen their classes in, if it is one. Raises
    ``InputError`` naming the classes or styles of the data that the model does not know.
    """
    known = class_ids(data.classes, called_as(vocabulary, data.classes).names)
    ids = known[data.labels]
    if not vocabulary.styles:
        return vocabulary.labels(ids, torch.zeros_like(ids))
    if not data.styles:
        seen = [vocabulary.styles_of(class_id) for class_id in known.tolist()]
        if any(len(styles) > 1 for styles in seen):
            raise InputError(
                f"the model draws in the styles {', '.join(vocabulary.styles)}, but the data have no styles; "
                "expected an emoji set, as nextscale data emoji builds it"
            )
        only = torch.tensor([vocabulary.styles.index(styles[0]) for styles in seen])
        return vocabulary.labels(ids, only[data.labels])
    styles = class_ids(data.styles, vocabulary.styles, what="style")[data.style_labels]
    return vocabulary.labels(ids, styles)


def families_of(folder: Path | str, data: ImageData) -> list[str]:
    """The family of every image, the drawings of one thing; outside emoji sets each image is one of its own."""
    records = read_metadata(folder) if holds_emoji(folder) else []
    families = {record["name"]: str(record["family"]) for record in records}
    return [families.get(name, name) for name in data.names]
