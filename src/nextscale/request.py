"""What a call asks for, resolved: names, words, styles and seeds become one label and one stream of noise per image."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from operator import index

import numpy as np
import torch
from torch import Tensor

from nextscale.conditions.classes import ClassVocabulary
from nextscale.errors import InputError
from nextscale.plan import Plan
from nextscale.sampling import IndependentNoise, Noise, OfficialNoise

Labels = Sequence[int | str] | int | str


@dataclass(frozen=True)
class Request:
    """A call's images, one entry per image in every list.

    classes, styles: by name, ``styles`` empty where a model has none; labels: (B,) int64, the model's; seeds: None
    with official noise.
    """

    classes: list[str]
    styles: list[str]
    labels: Tensor
    seeds: list[int] | None
    noise: Noise
    plan: Plan

    def noise_of(self, part: slice) -> Noise:
        """The noise of some of the images; official noise is one stream, whoever takes from it."""
        return self.noise if self.seeds is None else IndependentNoise(self.seeds[part])


def resolve(
    vocabulary: ClassVocabulary,
    plan: Plan,
    class_labels: Labels | None,
    prompt: Sequence[str] | str | None,
    style: Sequence[str] | str | None,
    num_images: int,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | None,
) -> Request:
    """Check a call's arguments; ``Pipeline.__call__`` says what they mean. Warns of styles that lack their class.

    Raises:
        InputError: what was named is not there, contradicts itself, or is of the wrong kind or number.
    """
    if not isinstance(num_images, int) or num_images < 1:
        raise InputError(f"num_images is {num_images!r}; it must be a whole number of at least 1")
    named = _class_ids(vocabulary, class_labels, prompt)
    drawn_in = _style_ids(vocabulary, style, named)
    class_ids, style_ids = ([i for i in ids for _ in range(num_images)] for ids in (named, drawn_in))
    seeds, noise = _noise(seed, generator, len(class_ids))
    return Request(
        classes=[vocabulary.names[i] for i in class_ids],
        styles=[vocabulary.styles[i] for i in style_ids] if vocabulary.styles else [],
        labels=vocabulary.labels(torch.tensor(class_ids), torch.tensor(style_ids)),
        seeds=seeds,
        noise=noise,
        plan=plan,
    )


def _class_ids(
    vocabulary: ClassVocabulary, class_labels: Labels | None, prompt: Sequence[str] | str | None
) -> list[int]:
    if (class_labels is None) == (prompt is None):
        raise InputError("give either class_labels or prompt: one of the two, not both and not neither")
    if prompt is not None:
        prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, Sequence) else []
        if not prompts:
            raise InputError(f"prompt is {prompt!r}; give some words, or a list of them")
        return [vocabulary.find(words).class_id for words in prompts]
    labels = [class_labels] if isinstance(class_labels, int | str) else list(class_labels or ())
    if not labels:
        raise InputError("class_labels is empty; name at least one class")
    return vocabulary.ids(labels)


def _style_ids(vocabulary: ClassVocabulary, style: Sequence[str] | str | None, class_ids: Sequence[int]) -> list[int]:
    """One style per class: the one that was named, or the first that the class was seen in."""
    if style is None:
        seen_in = [vocabulary.styles_of(class_id) for class_id in class_ids]
        return [vocabulary.styles.index(styles[0]) if styles else 0 for styles in seen_in]
    if not isinstance(style, Sequence):
        raise InputError(f"style is {style!r}; give the name of a style, or one name per label")
    named = [style] * len(class_ids) if isinstance(style, str) else style
    ids = vocabulary.style_ids(named)
    if len(ids) != len(class_ids):
        raise InputError(f"{len(ids)} styles were given for {len(class_ids)} labels; give one style, or one per label")
    for pair in dict.fromkeys(zip(named, class_ids, strict=True)):
        _warn_if_missing(vocabulary, *pair)
    return ids


def _warn_if_missing(vocabulary: ClassVocabulary, style: str, class_id: int) -> None:
    name = vocabulary.names[class_id]
    if (style, name) in vocabulary.missing:
        seen = [other for other in vocabulary.styles_of(class_id) if (other, name) not in vocabulary.missing]
        instead = f"; styles with images of it: {', '.join(seen)}" if seen else ""
        warnings.warn(
            f"the model was trained on no image of {name} in the style {style}, so what it draws there means "
            f"nothing{instead}",
            stacklevel=5,  # the caller of the pipeline
        )


def _noise(
    seed: int | Sequence[int] | None, generator: torch.Generator | None, count: int
) -> tuple[list[int] | None, Noise]:
    if generator is None:
        seeds = _seeds(seed, count)
        return seeds, IndependentNoise(seeds)
    if seed is not None:
        raise InputError("seed and generator were both given; a generation has one source of noise")
    return None, OfficialNoise(generator)


def _seeds(seed: int | Sequence[int] | None, count: int) -> list[int]:
    if seed is None:
        seed = secrets.randbelow(2**31)
    try:
        if not isinstance(seed, Sequence | np.ndarray):
            return [index(seed) + i for i in range(count)]
        seeds = [index(one) for one in seed]
    except TypeError:
        raise InputError(f"seed is {seed!r}; it must be a whole number, or a list of them") from None
    if len(seeds) != count:
        raise InputError(f"{len(seeds)} seeds were given for {count} images; give one seed, or one per image")
    return seeds
