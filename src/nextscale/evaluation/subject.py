"""What is evaluated, with what, on which images: the words that all reports share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nextscale.checkpoints.class_names import called_as
from nextscale.conditions.base import Conditioner, Features
from nextscale.conditions.classes import ClassVocabulary, class_features, numbered
from nextscale.data.captions import require_captions, short
from nextscale.data.found import composed
from nextscale.data.images import ImageData
from nextscale.errors import InputError
from nextscale.features.classifier import Classifier
from nextscale.measures.tokenizer import Step, silent
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
    """What is evaluated: a tokenizer, and perhaps the generator that draws with it, the conditioner that tells it what
    pictures show, and the sampling settings that were saved with it.
    """

    name: str
    revision: str
    tokenizer: Tokenizer
    model: NextScaleModel | None = None
    conditioner: Conditioner | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def vocabulary(self) -> ClassVocabulary | None:
        """The classes and styles that a generator of classes knows."""
        return self.conditioner if isinstance(self.conditioner, ClassVocabulary) else None

    @property
    def reads_captions(self) -> bool:
        """Whether a caption tells the generator what a picture shows."""
        return self.conditioner is not None and "text" in self.conditioner.gives

    def shown(self, data: ImageData) -> Callable[[Tensor], Features]:
        """What the images of ``data`` show, as features of the images ``rows`` (B,): their classes, or their short
        captions. Texts are encoded when they are asked for.

        Raises ``InputError`` for classes that the generator does not know, images without captions, or a generator that
        reads neither.
        """
        assert self.conditioner is not None
        if self.vocabulary is not None:
            return class_features(labels_of(self.vocabulary, data)).select
        if not self.reads_captions:
            raise InputError(
                f"{self.name} reads {self.conditioner.about}; expected a model that reads classes or texts, which is "
                "how pictures are known"
            )
        reader, captions = self.conditioner, require_captions(data.captions, "the set")
        texts = [short(one) for one in captions]
        return lambda rows: reader.features(reader.resolve(prompt=[texts[row] for row in rows.tolist()]))


@dataclass(frozen=True)
class Judge:
    """A classifier (float32, in evaluation mode) that tells what is in pictures, and whose features measure them."""

    name: str
    revision: str
    network: Classifier


@dataclass(frozen=True)
class Sample:
    """The images a number was measured on; data_hash is the whole split's, of which ``images`` may be a sample."""

    split: str
    images: int
    data_hash: str

    @classmethod
    def of(cls, data: ImageData, images: int | None = None) -> Sample:
        """All of ``data``, or so many of its images."""
        return cls(data.split, len(data) if images is None else images, data.hash)


def square_resolution(tokenizer: Tokenizer) -> int:
    """Side of the images in pixels. Raises ``InputError`` if they are not square; no reader of data has others."""
    h, w = tokenizer.pixels()
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


def class_ids(classes: Sequence[str], known: Sequence[str], who: str = "the model", what: str = "class") -> Tensor:
    """The model's id, (classes,) int64, of each of the data's ``classes``; ``known`` are the model's names in order.

    Classes are matched by name; data may lack some of them. A model without names (they are "0", "1", ...) takes named
    classes in their order if there are as many. Raises ``InputError`` naming the classes that ``who`` does not know;
    what: what messages call one of the names.
    """
    classes, known = ([composed(name) for name in names] for names in (classes, known))
    unknown = [name for name in classes if name not in known]
    if numbered(known) and len(unknown) == len(classes) == len(known):
        return torch.arange(len(known))
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        missing = [name for name in known if name not in classes]
        lacks = f", and the data lack {', '.join(map(repr, missing[:3]))}" if missing else ""
        hint = "; nextscale convert --class-names names a model's classes" if numbered(known) else ""
        raise InputError(
            f"{who} does not know the data's {what} {', '.join(map(repr, unknown[:3]))}{more}{lacks}; "
            f"expected some of its {len(known)} {what}{'es' if what == 'class' else 's'}{hint}"
        )
    return torch.tensor([list(known).index(name) for name in classes])


def sample_rows(count: int, size: int) -> Tensor:
    """``size`` of ``count`` rows (all if there are fewer), the same ones every time, in ascending order."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:size].sort().values
