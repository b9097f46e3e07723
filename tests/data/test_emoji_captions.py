"""Captions of emoji: plain English, each way to say a thing as often as planned, two phrases kept for measuring."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import pytest
import torch

from nextscale.data.captions import Captions, short, spoken, wordings
from nextscale.data.emoji import STYLES
from nextscale.data.emoji_captions import KEPT, SPOKEN, TRAINED, captions_of, contents, phrases, styles_said
from nextscale.data.emoji_words import plain_words

TONES = ("", "dark", "light, medium-dark")


@pytest.fixture(scope="module")
def emoji() -> list[tuple[str, tuple[str, ...]]]:
    """Names and keywords of all base emoji, as the bundled model has them."""
    things = json.loads((resources.files("nextscale") / "bundled/emoji/classes.json").read_text())["things"]
    return [(name, tuple(filter(None, keywords.split("|")))) for name, _, keywords in things]


def record(name: str, style: str = "noto", keywords: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"id": f"{style}/{name}", "name": name, "style": style, "keywords": list(keywords)}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("red heart", "a red heart"),
        ("orange heart", "an orange heart"),
        ("unicorn", "a unicorn"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("hourglass not done", "an hourglass that is not done"),
        ("SOS button", "an SOS button"),
        ("NEW button", "a NEW button"),
        ("UP! button", "an UP! button"),
        ("eyes", "eyes"),
        ("scissors", "scissors"),
        ("octopus", "an octopus"),
        ("bread", "bread"),
        ("no bicycles", "no bicycles"),
        ("three o’clock", "three o'clock"),
        ("smiling face with tear", "a smiling face with a tear"),
        ("face with hand over mouth", "a face with a hand over the mouth"),
        ("grinning face with big eyes", "a grinning face with big eyes"),
        ("sun behind rain cloud", "a sun behind a rain cloud"),
        ("Japanese “here” button", 'a Japanese "here" button'),
        ("flag: Norway", "the flag of Norway"),
        ("flag: United States", "the flag of the United States"),
        ("flag: Antigua & Barbuda", "the flag of Antigua and Barbuda"),
        ("keycap: 3", "a keycap with the number 3"),
        ("man: dark skin tone", "a man with dark skin"),
        ("waving hand: dark skin tone", "a waving hand with dark skin"),
        ("woman scientist: medium skin tone", "a woman scientist with medium skin"),
        ("woman: curly hair", "a woman with curly hair"),
        ("man: light skin tone, bald", "a bald man with light skin"),
        ("person: dark skin tone, beard", "a person with dark skin and a beard"),
        ("person in tuxedo: dark skin tone", "a person with dark skin in a tuxedo"),
        ("ear with hearing aid: dark skin tone", "an ear with dark skin and a hearing aid"),
        ("woman running: dark skin tone, facing right", "a woman with dark skin running, facing right"),
        ("people holding hands: light skin tone, dark skin tone", "people with light and dark skin holding hands"),
        ("woman and man holding hands: medium skin tone", "a woman and a man with medium skin holding hands"),
        ("kiss: man, man", "a kiss between two men"),
        ("kiss: dark skin tone", "a kiss between two people with dark skin"),
        (
            "kiss: woman, man, light skin tone, dark skin tone",
            "a kiss between a woman with light skin and a man with dark skin",
        ),
        ("couple with heart", "a couple with a heart"),
        ("family: man, woman, girl, boy", "a family of a man, a woman, a girl and a boy"),
        ("family: adult, child, child", "a family of an adult and two children"),
    ],
)
def test_names_in_plain_words(name: str, plain: str) -> None:
    assert " ".join(filter(None, plain_words(name))) == plain


def test_plain_words_tell_all_emoji_apart_and_hold_nothing_of_the_notation(
    emoji: list[tuple[str, tuple[str, ...]]],
) -> None:
    people = [name for name, _ in emoji if re.match(r"(wo)?man\b|person\b|.* hand\b|kiss|couple", name)]
    tones = [", ".join(f"{tone} skin tone" for tone in of.split(", ")) for of in TONES[1:]]
    names = [name for name, _ in emoji]
    names += [f"{name}{', ' if ':' in name else ': '}{tone}" for name in people for tone in tones]
    plain = [" ".join(filter(None, plain_words(name))) for name in names]
    assert len(names) > 2400
    assert len({*plain}) == len(names)
    for words in plain:
        assert not re.search(r": |’|&| {2}|\btone|\b(an?|the) (an?|the)\b|^\s|\s$", words), words
        assert not re.search(r"\ba (?!one-)[aio]|\ban (?!honest|hour|herb|x-ray|[A-Z]+\b)[^aeiouAEIOU]", words), words


def test_each_way_to_say_it_has_its_share(emoji: list[tuple[str, tuple[str, ...]]]) -> None:
    for name, keywords in emoji:
        ways = dict(contents(name, keywords))
        assert sum(ways.values()) == pytest.approx(1)
        assert min(ways.values()) > 0
        words = [{*keywords} >= {*way.split(", ")} and way != name for way in ways]
        alone = {way: share for (way, share), only in zip(ways.items(), words, strict=True) if only and ", " in way}
        assert sum(alone.values()) == pytest.approx(0.15 if len(keywords) > 2 else 0), name
        assert all(3 <= len(way.split(", ")) <= 5 for way in alone), name
    for style in STYLES:
        shares = dict(phrases(style))
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["{}"] == 0.3
        assert len(shares) == 9


def test_a_step_draws_with_these_shares() -> None:
    captions = captions_of(record("waving hand: dark skin tone", "twemoji", ("bye", "hand", "hello", "wave", "waving")))
    said = [spoken(captions, u) for u in torch.rand((4000, 2), generator=torch.Generator().manual_seed(0))]
    assert set(said) <= set(wordings(captions))
    alone = [words for words in said if re.search(r"(bye|hand|hello|wave|waving), .*, dark skin tone", words)]
    alone = [words for words in alone if "waving hand" not in words]
    assert len(alone) / len(said) == pytest.approx(0.15, abs=0.02)
    assert sum("twemoji" not in words for words in said) / len(said) == pytest.approx(0.3, abs=0.03)
    assert {"a waving hand with dark skin", "the waving hand with dark skin, twemoji"} <= set(said)


def test_two_phrases_are_kept_for_measuring(emoji: list[tuple[str, tuple[str, ...]]]) -> None:
    words = [{*re.findall(r"\w+", phrase)} for phrase in (*KEPT, " ".join(TRAINED))]
    assert words[0] | words[1] <= words[2] | {"style"}  # another order, not other words
    measured, trained = set(), set()
    for style in STYLES:
        for name, keywords in emoji[::7]:
            captions = captions_of(record(name, style, keywords))
            assert short(captions) in [phrase.format(name, style=SPOKEN[style]) for phrase in KEPT]
            measured.add(short(captions))
            trained |= {*wordings(captions)}
    assert len(measured) == len(emoji[::7]) * len(STYLES)
    assert not measured & trained
    assert len({SPOKEN[style] for style in STYLES}) == len(STYLES)


def test_captions_take_little_memory(emoji: list[tuple[str, tuple[str, ...]]]) -> None:
    """Styles share what is said of an emoji, and emoji the phrases of a style."""
    one, other = (captions_of(record("red heart", style, ("love", "red", "heart"))) for style in STYLES[:2])
    assert one.variants is other.variants
    assert one.phrases is captions_of(record("frog")).phrases
    assert max(len(contents(*of)) for of in emoji) <= 12


def test_a_set_says_the_styles_that_its_captions_have() -> None:
    """By the words in captions, which the bundled text model has in its settings, too; another set says none."""
    captions = [captions_of(record("red heart", style)) for style in STYLES]
    assert styles_said(captions, [*STYLES, "mine"]) == {style: SPOKEN[style] for style in STYLES}
    assert styles_said(captions[:1], STYLES) == {STYLES[0]: SPOKEN[STYLES[0]]}
    assert styles_said([Captions("a red heart, noto")], STYLES) == {}
    bundled = json.loads((resources.files("nextscale") / "bundled/emoji-text/config.json").read_text())
    assert bundled["conditioner"]["config"]["styles"] == SPOKEN
