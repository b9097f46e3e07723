"""The toy's conditioner: a bag of words. It is no class: a prompt of any words it knows is a mixture of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nextscale.conditions.base import Conditioner, Entry, Features, Source
from nextscale.errors import CheckpointError, InputError, quoted


class Words(Conditioner):
    """words: those it knows, in the order of their numbers."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)

    @property
    def gives(self) -> Mapping[str, int]:
        return {"words": len(self.words)}

    def resolve(self, **asked: Any) -> list[Entry]:
        prompt = asked.pop("prompt", None)
        for name, value in asked.items():
            if value is not None:
                raise InputError(f"{name} is {quoted(value)}, but this model reads words alone; expected prompt=...")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        for one in prompts:
            if strange := set(one.split()) - set(self.words):
                raise InputError(f"there is no word {quoted(min(strange))}; expected some of {', '.join(self.words)}")
        if not prompts:
            raise InputError("no prompt was given; expected some words")
        return [{"prompt": one} for one in prompts]

    def features(self, entries: Sequence[Entry]) -> Features:
        counts = torch.tensor([[float(e["prompt"].split().count(word)) for word in self.words] for e in entries])
        return Features(len(entries), {"words": Source("words", {"counts": counts})})

    def to_dict(self) -> dict[str, Any]:
        return {"words": list(self.words)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Words:
        if set(data) != {"words"} or not all(isinstance(word, str) for word in data["words"]):
            raise CheckpointError(f"a bag of words is {quoted(dict(data))}; expected a list of words")
        return cls(data["words"])
