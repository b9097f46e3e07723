"""The captions of emoji: which words a text model is trained on, and by which it is measured.

What an emoji shows is said in several ways (``contents``): its name as emojibase has it, the name in plain words, the
name with keywords, or keywords alone. Each of them stands alone or in a phrase that says the style. Names and keywords
are those of emojibase (MIT).

Two phrases are never trained on. A model is measured by them, so that no number can come from a sentence learnt by
heart. They are as natural as the others, and every word of them is in some trained phrase, so what they ask for is
another order, not another vocabulary. What people write first ("a frog, noto", "a frog in the style of noto") is
trained on: that a model must know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from nextscale.data.captions import PLAIN, Captions, Weighted
from nextscale.data.emoji_words import plain_words
from nextscale.data.sides import hash_of

SPOKEN: Mapping[str, str] = {
    "noto": "noto",
    "fluent-emoji-flat": "fluent flat",
    "fluent-emoji": "fluent",
    "twemoji": "twemoji",
    "openmoji": "openmoji",
}
"""What each style is called in captions."""
TRAINED = (
    "{}, {style}",
    "{} in the style of {style}",
    "{}, {style} style",
    "{style}: {}",
    "{} ({style})",
    "{} by {style}",
    "an emoji of {}, {style}",
    "a drawing of {}, {style}",
)
"""Phrases of the style that are trained on."""
KEPT = ("{} in {style} style", "the {style} emoji of {}")
"""Phrases of the style that are kept out of training, by which models are measured."""
WITHOUT_STYLE = 0.3
"""The share of training captions that do not say the style."""
NAME, PLAIN_WORDS, WITH_KEYWORDS, KEYWORDS = 0.25, 0.40, 0.20, 0.15
"""The shares of the ways to say what an emoji shows. One that an emoji has too few keywords for falls to the others."""
_ARTICLES = (0.55, 0.30, 0.15)  # "a red heart", "red heart", "the red heart"
_FEWEST, _MOST = 3, 5  # keywords that stand alone


def captions_of(record: Mapping[str, Any]) -> Captions:
    """The captions of a record of ``read_metadata``: ``text`` is its name in one of the phrases that are kept out of
    training (a hash says which), ``variants`` and ``phrases`` are what training draws from.
    """
    text = kept(
        record["name"],
        record["style"],
        hash_of(f"nextscale emoji phrase: {record['style']}/{record['name']}") % len(KEPT),
    )
    return Captions(
        text, variants=contents(record["name"], tuple(map(str, record["keywords"]))), phrases=phrases(record["style"])
    )


def kept(words: str, style: str, which: int) -> str:
    """``words`` in one of the phrases that are kept out of training, in the words for a style of the set."""
    return KEPT[which].format(words, style=SPOKEN.get(style, style))


@lru_cache(maxsize=len(SPOKEN))
def phrases(style: str) -> Weighted:
    """What contents are put into for training: nothing, or one of the phrases of a style, each as often."""
    share = (1 - WITHOUT_STYLE) / len(TRAINED)
    return ((PLAIN, WITHOUT_STYLE), *((one.format(PLAIN, style=SPOKEN.get(style, style)), share) for one in TRAINED))


def styles_said(captions: Sequence[Captions], styles: Sequence[str]) -> dict[str, str]:
    """The styles of a set that its captions say behind a comma, and what they are called there."""
    known = {phrase for some in {one.phrases for one in captions} for phrase, _ in some}
    said = {style: SPOKEN.get(style, style) for style in styles}
    return {style: words for style, words in said.items() if TRAINED[0].format(PLAIN, style=words) in known}


@lru_cache(maxsize=8192)
def contents(name: str, keywords: tuple[str, ...]) -> Weighted:
    """The ways to say what an emoji shows, each once, with weights that sum to 1."""
    named, alone = _with_keywords(name, keywords), _keywords_alone(name, keywords)
    ways = [(name, NAME), *_plain(name), *((words, WITH_KEYWORDS / len(named)) for words in named)]
    rest = (1 - KEYWORDS if alone else 1) / sum(share for _, share in ways)
    ways = [*((words, share * rest) for words, share in ways), *((words, KEYWORDS / len(alone)) for words in alone)]
    weights = dict.fromkeys((words for words, _ in ways), 0.0)  # where plain words are the name, their shares add up
    for words, share in ways:
        weights[words] += share
    return tuple(weights.items())


def _plain(name: str) -> Weighted:
    """A name in plain words, with its article, without one, and with "the"; and how often each."""
    article, words = plain_words(name)
    ways = [f"{article} {words}", words, f"the {words}"] if article else [words] * len(_ARTICLES)
    return tuple(zip(ways, (PLAIN_WORDS * share for share in _ARTICLES), strict=True))


def _with_keywords(name: str, keywords: Sequence[str]) -> list[str]:
    """The name with one or two keywords that it does not hold."""
    more = [word for word in _shuffled(name, keywords) if word.lower() not in name.lower()]
    return [", ".join((name, *some)) for some in (more[:1], more[1:2], more[2:4], more[4:6]) if some]


def _keywords_alone(name: str, keywords: Sequence[str]) -> list[str]:
    """Three to five keywords and, where the name says one, the tone of skin: keywords are those of the base emoji."""
    found, tone = _shuffled(name, keywords), [part for part in name.split(": ")[-1].split(", ") if "skin tone" in part]
    if len(found) < _FEWEST:
        return []
    turned = [found[count:] + found[:count] for count in range(0, len(found), _FEWEST)]
    sizes = range(_FEWEST, _MOST + 1)
    return list(dict.fromkeys(", ".join((*some[:size], *tone)) for some, size in zip(turned, sizes, strict=False)))


def _shuffled(name: str, keywords: Sequence[str]) -> list[str]:
    """Keywords, which emojibase sorts, in the order of a hash."""
    return sorted(keywords, key=lambda word: hash_of(f"nextscale emoji keyword: {name}: {word}"))
