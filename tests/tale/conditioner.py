"""The tale's conditioner: letters as text states, and a second text that guidance leads away from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from nextscale.conditions.base import Conditioner, Entry, Features, Source
from nextscale.errors import CheckpointError, InputError, quoted
from nextscale.values import listed

LONGEST = 8


class Letters(Conditioner):
    """letters: those it knows; every other one is refused. Its settings have a file of their own."""

    file: ClassVar[str] = "letters.json"

    def __init__(self, letters: str) -> None:
        self.letters = letters

    @property
    def gives(self) -> Mapping[str, int]:
        return {"text": len(self.letters)}

    def resolve(self, **asked: Any) -> list[Entry]:
        prompt, negative = asked.pop("prompt", None), asked.pop("negative_prompt", None)
        for name, value in asked.items():
            if value is not None:
                raise InputError(f"{name} is {quoted(value)}, but this model reads letters alone; expected prompt=...")
        prompts = [prompt] if isinstance(prompt, str) else listed(prompt) or []
        if not prompts:
            raise InputError("no prompt was given; expected letters")
        negatives = listed(negative) if isinstance(negative, list | tuple) else [negative] * len(prompts)
        if negatives is None or len(negatives) != len(prompts):
            raise InputError(f"negative_prompt is {quoted(negative)}; expected one text, or one per prompt")
        for text in (*prompts, *(one for one in negatives if one is not None)):
            if strange := set(text) - set(self.letters):
                raise InputError(f"there is no letter {quoted(min(strange))}; expected some of {self.letters}")
        return [{"prompt": one, "negative_prompt": other} for one, other in zip(prompts, negatives, strict=True)]

    def features(self, entries: Sequence[Entry]) -> Features:
        texts = {"text": [entry["prompt"] for entry in entries]}
        texts["negative"] = [entry.get("negative_prompt") for entry in entries]
        return Features(len(entries), {name: self._source(said) for name, said in texts.items()})

    def samples(self, count: int) -> list[Entry]:
        return [{"prompt": letter} for letter in self.letters[:count]]

    def _source(self, texts: Sequence[str | None]) -> Source:
        states = torch.zeros(len(texts), LONGEST, len(self.letters))
        mask = torch.zeros(len(texts), LONGEST, dtype=torch.bool)
        for i, text in enumerate(texts):
            for j, letter in enumerate((text or "")[:LONGEST]):
                states[i, j, self.letters.index(letter)] = 1
                mask[i, j] = True
        return Source("text", {"states": states, "mask": mask}, torch.tensor([not text for text in texts]))

    def to_dict(self) -> dict[str, Any]:
        return {"letters": self.letters}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Letters:
        if set(data) != {"letters"} or not isinstance(data["letters"], str):
            raise CheckpointError(f"letters are {quoted(dict(data))}; expected a text")
        return cls(data["letters"])
