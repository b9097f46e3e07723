"""Words of a text as a person means them: in lower case, singular, without accents; which of them says what it is
about; and how far two of them are apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Words that say nothing about what is in a picture.
_PREPOSITIONS = frozenset({"at", "for", "in", "of", "on", "to", "with"})
_EMPTY_WORDS = _PREPOSITIONS | {"a", "an", "and", "one", "some", "the", "picture", "photo", "image", "drawing", "emoji"}
_IRREGULAR = {
    "buses": "bus",
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "wolves": "wolf",
    "leaves": "leaf",
    "knives": "knife",
}


def words_of(text: str) -> list[str]:
    """Words in lower case, singular and without accents: ``"Piñatas & cats"`` -> ``["pinata", "cat"]``."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return [_singular(word) for word in re.findall(r"[^\W_]+|[#*]", plain)]


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 5 and word.endswith(("sses", "xes", "ches", "shes", "toes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def slips(word: str, other: str) -> int:
    """Letters to add, leave out, exchange or swap with their neighbour until one word is the other."""
    before, last = list[int](), list(range(len(other) + 1))
    for i, a in enumerate(word):
        row = [i + 1]
        for j, b in enumerate(other):
            row.append(min(last[j + 1] + 1, row[j] + 1, last[j] + (a != b)))
            if i and j and a == other[j - 1] and word[i - 1] == b:
                row[-1] = min(row[-1], before[j - 1] + 1)
        before, last = last, row
    return last[-1]


def telling(spoken: Sequence[str]) -> list[str]:
    """The different words that say something, in their order; all of them if none does."""
    found = [word for word in dict.fromkeys(spoken) if word not in _EMPTY_WORDS]
    return found or list(dict.fromkeys(spoken))


def noun(spoken: Sequence[str]) -> str:
    """The word English makes the thing itself: the last before a preposition, else the last of all."""
    saying = telling(spoken)
    cut = next((i for i, word in enumerate(spoken) if word in _PREPOSITIONS), len(spoken))
    before = [word for word in spoken[:cut] if word in saying]
    return before[-1] if before else saying[-1]
