"""The names of emoji in plain words, as "a man with dark skin" for "man: dark skin tone".

The rules are heuristics, with tables of the words that they get wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby

# What is said instead of a name, or of the part before its colon.
_INSTEAD = {
    "star-struck": "a star-struck face",
    "rolling on the floor laughing": "a face rolling on the floor laughing",
    "face with open eyes and hand over mouth": "a face with open eyes and a hand over the mouth",
    "hand with fingers splayed": "a hand with splayed fingers",
    "raised back of hand": "the raised back of a hand",
    "dizzy": "a dizzy star",
    "breast-feeding": "a woman breast-feeding",
    "horse racing": "a person racing a horse",
    "woman and man holding hands": "a woman and a man holding hands",
    "speaker low volume": "a speaker at low volume",
    "speaker medium volume": "a speaker at medium volume",
    "speaker high volume": "a speaker at high volume",
    "hourglass done": "an hourglass that is done",
    "hourglass not done": "an hourglass that is not done",
    "mobile phone off": "a switched-off mobile phone",
    "globe showing Americas": "a globe showing the Americas",
    "locked": "a locked padlock",
    "unlocked": "an unlocked padlock",
    "locked with pen": "a locked padlock with a pen",
    "locked with key": "a locked padlock with a key",
    "meat on bone": "meat on the bone",
    "construction": "a construction barrier",
    "milky way": "the milky way",
    "kaaba": "the kaaba",
    "Statue of Liberty": "the Statue of Liberty",
    "om": "the om symbol",
    "yin yang": "the yin yang symbol",
}
# Names that no article fits, one a line.
_WITHOUT = """
Aries
Taurus
Gemini
Cancer
Leo
Virgo
Libra
Scorpio
Sagittarius
Capricorn
Aquarius
Pisces
Ophiuchus
Santa Claus
Mrs. Claus
Mx Claus
mount fuji
Tokyo tower
ZZZ
foggy
camping
cooking
prohibited
radioactive
wireless
multiply
plus
minus
divide
copyright
registered
thumbs up
thumbs down
palms up together
children crossing
dashing away
dna
bubble tea
ice
ice cream
shaved ice
light rail
ping pong
nail polish
vibration mode
passport control
baggage claim
pouring liquid
american football
rugby football
"""
# Words at the end of a noun that is not counted.
_UNCOUNTED = """
bacon badminton bowling bread broccoli butter candy construction coral custard dango falafel fire fog fondue food garlic
hockey infinity information lacrosse lightning luggage mate meat milk money oden popcorn rain rice sake salt shrimp snow
soap spaghetti steam sushi sweat tennis thread voltage water wood yarn yen
"""
_BARE, _MASS = frozenset(_WITHOUT.strip().split("\n")), frozenset(_UNCOUNTED.split())
_ONE = ("person", "man", "woman", "face", "globe", "skull")
_PEOPLE = ("people", "men", "women")
_SINGULAR_S = ("ss", "us", "-lis", "rhinoceros")
_SPELLED = re.compile(r"(?:[AEFHILMNORSX]|[AEFHILMNORSX][A-Z]+|x-ray)\b")  # "an X-ray", "an SOS button"
_SPOKEN = ("FREE", "NEW", "COOL", "SOON", "UP!", "O.", "UFO")
_VOWEL = re.compile(r"(?!uni(?!dent|m)|eu|ewe|one\b|one-|ufo)[aeiou]|hour|herb\b", re.IGNORECASE)
_IN = r"in(?= (?:tuxedo|speech bubble|hole|steamy room|suit|motorized wheelchair|manual wheelchair))"
_DOING = rf"with|without|behind|wearing|getting|rowing|bouncing|feeding|taking|tipping|raising|{_IN}"
_COMPLEMENT = re.compile(rf"\b({_DOING}) (?!(?:a|an|the|index) )(.*)")
_THE = re.compile(r"\b(on|over|under|from|in) (?=(?:ground|wind|mouth|eyes|nose|lotus position)\b)")
_CUT = re.compile(r" (?:with|without|of|in|on|over|under|behind|at|from|showing|facing|increasing|fluttering) ")
_SUBJECT = re.compile(r"(person|man|woman|people|men|women) (?=in |mountain |[a-z-]+ing\b)(.*)")
_THE_LAND = re.compile(
    r"(?!South Georgia).*(?:Islands|Territory|Territories|Republic|Netherlands|Emirates|Kingdom|States|Nations|Union)|"
    r"Bahamas|Gambia|Philippines|Maldives|Comoros|Isle of Man"
)
_SIGNS = {"#": "a hash sign", "*": "an asterisk"}
_MANY = {
    **{"man": "men", "woman": "women", "person": "people", "adult": "adults"},
    **{"child": "children", "boy": "boys", "girl": "girls"},
}


@lru_cache(maxsize=8192)
def plain_words(name: str) -> tuple[str, str]:
    """The article of a name and the name in plain words: ``("a", "man with dark skin")``; no article is "".

    Each emoji of emojibase has words of its own.
    """
    words = _sentence(name.replace("’", "'").replace("“", '"').replace("”", '"'))
    article, _, rest = words.partition(" ")
    return (article, rest) if article in ("a", "an", "the") else ("", words)


def _sentence(name: str) -> str:
    """The name in plain words, with its article."""
    head, _, rest = name.partition(": ")
    parts = [part for part in rest.split(", ") if part]
    if head == "flag":
        return "the flag of " + ("the " if _THE_LAND.fullmatch(rest) else "") + rest.replace(" & ", " and ")
    if head == "keycap":
        return f"a keycap with {_SIGNS.get(rest, f'the number {rest}')}"
    if head == "family" and parts:
        return f"a family of {_counted(parts)}"
    tones = [part.removesuffix(" skin tone") for part in parts if part.endswith(" skin tone")]
    if head in ("kiss", "couple with heart") and parts:
        two = _two([part for part in parts if part in _MANY] or ["person", "person"], tones)
        return f"a kiss between {two}" if head == "kiss" else f"a couple with a heart, {two}"
    if head == "woman and man holding hands" and tones:
        return f"{_two(['woman', 'man'], tones)} holding hands"
    skin = f"{' and '.join(tones)} skin" if tones else ""
    others = [part for part in parts if not part.endswith(" skin tone")]
    looks = [part.replace("beard", "a beard") for part in others if part.endswith(("hair", "beard"))]
    said = " and ".join(filter(None, [skin, *looks]))
    if "bald" in others:
        head = f"bald {head}"
    turned = "".join(f", {part}" for part in others if part.startswith("facing"))
    return _with(_articled(head), said) + turned


def _with(words: str, said: str) -> str:
    """``words`` with features: beside those that they name, or behind the person who does something."""
    if not said:
        return words
    article, _, noun = words.partition(" ") if words.split(" ")[0] in ("a", "an", "the") else ("", "", words)
    before = f"{article} " if article else ""
    doing = _SUBJECT.fullmatch(noun)
    if doing is not None:
        return f"{before}{doing[1]} with {said} {doing[2]}"
    thing, having, more = words.partition(" with ")
    return f"{thing} with {said} and {more}" if having else f"{words} with {said}"


def _two(people: Sequence[str], tones: Sequence[str]) -> str:
    """Two people, with a tone for each, one for both, or none."""
    first, second = people
    if len(tones) == 2:
        return " and ".join(f"a {one} with {tone} skin" for one, tone in zip(people, tones, strict=True))
    both = f"two {_MANY[first]}" if first == second else f"a {first} and a {second}"
    return both + "".join(f" with {tone} skin" for tone in tones)


def _counted(people: Sequence[str]) -> str:
    """Members of a family: "a man, a woman and two girls"."""
    groups = [(one, len(list(same))) for one, same in groupby(people)]
    said = [f"two {_MANY[one]}" if count == 2 else f"{_a(one)} {one}" for one, count in groups]
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def _articled(head: str) -> str:
    """A noun, with the article that it and its complement take."""
    if head in _INSTEAD:
        return _INSTEAD[head]
    head = _THE.sub(r"\1 the ", head.replace("index pointing", "index finger pointing"))
    said = _COMPLEMENT.sub(lambda found: f"{found[1]} {_noun(found[2])}", head)
    article = _noun(head).removesuffix(head)
    return article + said


def _noun(words: str) -> str:
    """Words behind their article, if they take one."""
    alone = _CUT.split(words)[0]
    last, first = alone.split(" ")[-1], alone.split(" ")[0]
    if first in _ONE:
        return f"a {words}"
    if words in _BARE or first in ("no", "input", *_PEOPLE) or words.endswith(("o'clock", "-thirty")):
        return words
    plural = last.endswith("s") and not last.endswith(_SINGULAR_S)
    return words if plural or last in _MASS or alone in _BARE else f"{_a(words)} {words}"


def _a(words: str) -> str:
    """The article "a" or "an", by the sound of the first word."""
    first = words.split(" ")[0]
    spelled = _SPELLED.match(first) is not None and first not in _SPOKEN
    capital = first.isupper() and first not in _SPOKEN
    return "an" if spelled or (not capital and _VOWEL.match(first)) else "a"
