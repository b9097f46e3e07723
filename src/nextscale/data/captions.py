"""Captions: what images show, in words, and which of these words a model is trained on at a step."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from nextscale.errors import InputError

SHORT = 0.5
"""How often the short caption is taken where there is a long one, as a share."""
PLAIN = "{}"
"""The phrase that is its content alone."""
Weighted = tuple[tuple[str, float], ...]
"""Words, each with the share of the steps that take them; shares sum to 1."""
ASIDE = "--"
"""What follows it is no caption: in collected prompts, settings of a program stand there."""
_END = re.compile(r"[.!?]+[\"')\]\u201d\u2019]*(?=\s|$)|[\u3002\uff01\uff1f]+")


@dataclass(frozen=True)
class Captions:
    """What an image shows: in a few words, and perhaps in several sentences.

    Where there are ``variants``, training draws from them, and ``text`` is kept for measuring: what the image shows is
    said in one of the variants, and this is put into one of the ``phrases`` in the place of ``{}``.
    """

    text: str
    long: str | None = None
    variants: Weighted = ()
    phrases: Weighted = ((PLAIN, 1.0),)


def short(captions: Captions) -> str:
    """The words that an image is measured by: its short caption, without what follows ``--``."""
    return _without_aside(captions.text)


def spoken(captions: Captions, u: Tensor | Sequence[float]) -> str:
    """The words for an image at one step of training: one of the variants in one of the phrases, where there are some;
    else the short caption or, half of the time, the first sentences of the long one, a random number of them. What
    follows ``--`` is dropped. Infinity (arXiv 2412.04431) is trained in the latter way and calls it dynamic length.

    u: two numbers in [0, 1): which variant or caption, and which phrase or how much of it.
    """
    which, share = (float(number) for number in u)
    if captions.variants:
        return _at(captions.phrases, share).replace(PLAIN, _at(captions.variants, which))
    words, *prefixes = wordings(captions)
    return words if which < SHORT or not prefixes else prefixes[int(share * len(prefixes))]


def wordings(captions: Captions) -> list[str]:
    """All that :func:`spoken` may return: every variant in every phrase; or the short caption, then the first one, two,
    ... sentences of the long one.
    """
    if captions.variants:
        return [phrase.replace(PLAIN, words) for phrase, _ in captions.phrases for words, _ in captions.variants]
    if captions.long is None:
        return [short(captions)]
    text = _without_aside(captions.long)
    ends = [end.end() for end in _END.finditer(text)]
    ends += [len(text)] if not ends or ends[-1] < len(text) else []
    return [short(captions), *(text[:end] for end in ends)]


def _at(weighted: Weighted, u: float) -> str:
    """The words that a number in [0, 1) falls on."""
    for words, share in weighted:
        u -= share
        if u < 0:
            return words
    return weighted[-1][0]


def _without_aside(text: str) -> str:
    """``text`` up to ``--``; all of it where it begins so."""
    return text.split(ASIDE)[0].rstrip() or text


def caption_hash(captions: Sequence[Captions]) -> str:
    """A hash of the captions of a set, in their order: equal hashes mean equal captions."""
    known = [[one.text, one.long, *([one.variants, one.phrases] if one.variants else [])] for one in captions]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def of_all(captions: Sequence[Captions | None], names: Sequence[str], where: str) -> tuple[Captions, ...] | None:
    """``captions`` where every image has one, None where none has.

    names: of the images, for people, as ``where`` is.

    Raises:
        InputError: some images have captions and some have none.
    """
    found = tuple(one for one in captions if one is not None)
    if found and len(found) < len(captions):
        first = next(name for name, one in zip(names, captions, strict=True) if one is None)
        raise InputError(
            f"{len(captions) - len(found)} of {len(captions)} images of {where} have no caption, or an empty one, for "
            f"instance {first}; expected a caption for every image: add them, or take those images out"
        )
    return found or None


def require_captions(captions: tuple[Captions, ...] | None, where: str) -> tuple[Captions, ...]:
    """``captions`` of a set, for a model that reads texts.

    Raises:
        InputError: the set has none.
    """
    if captions is None:
        raise InputError(
            f"{where} has no captions, and a text model reads them; expected a metadata.jsonl or metadata.csv "
            "with the columns file_name and text, or a .txt file beside each image"
        )
    return captions
