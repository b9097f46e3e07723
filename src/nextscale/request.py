"""What a call asks for, resolved: names, words, styles and seeds become one label and one stream of noise per image."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nextscale.conditions.base import Features
from nextscale.conditions.classes import ClassVocabulary, class_features
from nextscale.errors import InputError, quoted
from nextscale.plan import Plan
from nextscale.sampling import IndependentNoise, Noise, OfficialNoise
from nextscale.values import is_real, is_whole, listed, plain

Labels = Sequence[int | str | None] | int | str
MOST_IMAGES = 100_000
"""Images of one call; all of them are kept in memory until it ends."""
SAMPLING = ("guidance_scale", "temperature", "top_k", "top_p", "smooth")
CALLER = 6
"""Calls between a warning here and the user: both functions here, ``resolve``, the pipeline's own, and its method."""


@dataclass(frozen=True)
class Request:
    """A call's images, one entry per image in every list.

    classes, styles: by name, None for no class; ``styles`` is empty where a model has none; labels: (B,) int64, the
    model's; seeds: None with official noise.
    """

    classes: list[str | None]
    styles: list[str | None]
    labels: Tensor
    seeds: list[int] | None
    noise: Noise
    plan: Plan

    def features(self, part: slice = slice(None)) -> Features:
        """What the model is to draw of some of the images."""
        labels = self.labels[part]
        return class_features(labels, dropped=torch.tensor([name is None for name in self.classes[part]]))

    def noise_of(self, part: slice) -> Noise:
        """The noise of some of the images; official noise is one stream, whoever takes from it."""
        return self.noise if self.seeds is None else IndependentNoise(self.seeds[part])


def resolve(
    vocabulary: ClassVocabulary,
    plan: Plan,
    class_labels: Labels | None,
    prompt: Sequence[str] | str | None,
    style: Sequence[str | None] | str | None,
    num_images: int,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | None,
) -> Request:
    """Check a call's arguments; ``Pipeline.__call__`` says what they mean. Warns of styles that lack their class, and
    of words, which are drawn as their class.

    Raises:
        InputError: what was named is not there, contradicts itself, or is of the wrong kind or number.
    """
    num_images = checked_count("num_images", num_images)
    named = _class_ids(vocabulary, class_labels, prompt)
    if num_images * len(named) > MOST_IMAGES:
        raise InputError(
            f"num_images is {quoted(num_images)} for {len(named)} labels; a call draws at most {MOST_IMAGES} images, "
            "so call several times"
        )
    drawn_in = _style_ids(vocabulary, style, named)
    class_ids, style_ids = ([i for i in ids for _ in range(num_images)] for ids in (named, drawn_in))
    seeds, noise = _noise(seed, generator, len(class_ids))
    return Request(
        classes=[None if i is None else vocabulary.names[i] for i in class_ids],
        styles=[None if i is None else vocabulary.styles[i] for i in style_ids] if vocabulary.styles else [],
        labels=vocabulary.labels_of(class_ids, style_ids),
        seeds=seeds,
        noise=noise,
        plan=plan,
    )


def checked_count(name: str, given: Any) -> int:
    """A number of images. Raises ``InputError`` for what is none, or less than one."""
    count = plain(given)
    if not is_whole(count) or count < 1:
        raise InputError(f"{name} is {quoted(count)}; it must be a whole number of at least 1")
    return count


def sampling_numbers(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling arguments that were given, as Python's numbers. Raises ``InputError`` for one of another kind."""
    found = {name: plain(value) for name, value in sampling.items() if value is not None}
    for name, value in found.items():
        if name == "smooth" and not isinstance(value, bool):
            raise InputError(f"smooth is {quoted(value)}; it must be True or False")
        if name != "smooth" and not is_real(value):
            raise InputError(f"{name} is {quoted(value)}; it must be a number")
    return found


def _class_ids(
    vocabulary: ClassVocabulary, class_labels: Labels | None, prompt: Sequence[str] | str | None
) -> list[int | None]:
    if (class_labels is None) == (prompt is None):
        raise InputError(
            "give either class_labels or prompt: one of the two, not both and not neither; class_labels=[None] (or "
            "'unconditional') draws a picture of no class"
        )
    if prompt is not None:
        asked = [prompt] if isinstance(prompt, str) else listed(prompt)
        if not asked or not all(isinstance(words, str) for words in asked):
            raise InputError(f"prompt is {quoted(prompt)}; give some words, or a list of them")
    else:
        one = plain(class_labels)
        asked = [one] if isinstance(one, int | float | str | bytes | Mapping) else listed(one)
        if asked is None:
            raise InputError(f"class_labels is {quoted(one)}; expected a name or an id, or a list of them")
        if not asked:
            raise InputError("class_labels is empty; name at least one class")
    find = vocabulary.look_up if prompt is None else vocabulary.find
    words = [one for one in asked if isinstance(one, str) and not (prompt is None and vocabulary.has(one))]
    matches = {text: find(text) for text in dict.fromkeys(words)}
    _say_what_is_drawn({text: match.class_name for text, match in matches.items() if not match.named})
    named = iter(vocabulary.ids([one for one in asked if not isinstance(one, str) or one not in matches]))
    return [matches[one].class_id if isinstance(one, str) and one in matches else next(named) for one in asked]


def _say_what_is_drawn(classes: Mapping[str, str]) -> None:
    """One warning for all words of a call that were taken for a class."""
    if classes:
        told = [f"{quoted(words)} is drawn as {name}" for words, name in list(classes.items())[:4]]
        more = f", and {len(classes) - 4} more" if len(classes) > 4 else ""
        warnings.warn(
            f"{', '.join(told)}{more}: the model knows classes, and draws one of the class, not of the words",
            stacklevel=CALLER,
        )


def _style_ids(
    vocabulary: ClassVocabulary, style: Sequence[str | None] | str | None, class_ids: Sequence[int | None]
) -> list[int | None]:
    """One style per class: the one that was named, or the first that the class was seen in; None where there is no
    class, which has no style.
    """
    if style is None:
        seen_in = [() if class_id is None else vocabulary.styles_of(class_id) for class_id in class_ids]
        return [vocabulary.styles.index(styles[0]) if styles else None for styles in seen_in]
    named = [style] * len(class_ids) if isinstance(style, str) else listed(style)
    if named is None:
        raise InputError(f"style is {quoted(style)}; give the name of a style, or one name per label")
    if isinstance(style, str) and not all(class_id is None for class_id in class_ids):
        named = [None if class_id is None else style for class_id in class_ids]
    if len(named) != len(class_ids):
        vocabulary.style_ids(named)
        raise InputError(
            f"{len(named)} styles were given for {len(class_ids)} labels; give one style, or one per label"
        )
    for one, class_id in zip(named, class_ids, strict=True):
        if class_id is None and one is not None:
            raise InputError(f"style is {quoted(one)} for a picture of no class; it has no style, so leave it out")
    classes = [class_id for class_id in class_ids if class_id is not None]
    ids = vocabulary.style_ids([one for one, class_id in zip(named, class_ids, strict=True) if class_id is not None])
    for style_id, class_id in dict.fromkeys(zip(ids, classes, strict=True)):
        _warn_if_missing(vocabulary, vocabulary.styles[style_id], class_id)
    given = iter(ids)
    return [None if class_id is None else next(given) for class_id in class_ids]


def _warn_if_missing(vocabulary: ClassVocabulary, style: str, class_id: int) -> None:
    name = vocabulary.names[class_id]
    if (style, name) in vocabulary.missing:
        seen = [other for other in vocabulary.styles_of(class_id) if (other, name) not in vocabulary.missing]
        instead = f"; styles with images of it: {', '.join(seen)}" if seen else ""
        warnings.warn(
            f"the model was trained on no image of {name} in the style {style}, so what it draws there means "
            f"nothing{instead}",
            stacklevel=CALLER,
        )


def _noise(
    seed: int | Sequence[int] | None, generator: torch.Generator | None, count: int
) -> tuple[list[int] | None, Noise]:
    if generator is None:
        seeds = _seeds(seed, count)
        return seeds, IndependentNoise(seeds)
    if not isinstance(generator, torch.Generator):
        several = listed(generator)
        if several and all(isinstance(one, torch.Generator) for one in several):
            raise InputError(
                "generator is a list; one torch.Generator draws the noise of a whole call; for noise of its own per "
                f"image give seed={quoted([one.initial_seed() for one in several])}"
            )
        raise InputError(f"generator is {quoted(generator)}; expected a torch.Generator, or a number as seed=...")
    if seed is not None:
        raise InputError("seed and generator were both given; a generation has one source of noise")
    return None, OfficialNoise(generator)


def _seeds(seed: Any, count: int) -> list[int]:
    seed = secrets.randbelow(2**31) if seed is None else plain(seed)
    if is_whole(seed):
        return [seed + i for i in range(count)]
    seeds = listed(seed)
    if seeds is None or not all(map(is_whole, seeds)):
        raise InputError(f"seed is {quoted(seed)}; it must be a whole number, or a list of them")
    if len(seeds) != count:
        raise InputError(f"{len(seeds)} seeds were given for {count} images; give one seed, or one per image")
    return seeds
