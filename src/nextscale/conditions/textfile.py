"""The states of texts in a file, packed one after the other, and read when they are asked for.

A safetensors file of three tensors: ``lengths`` (N,) int32, the tokens of every text; ``states`` (all tokens, C) in the
number type that the encoder computed in; ``prompts``, a JSON list of the texts in UTF-8. Its metadata name the encoder.
Shape letters: ``N`` texts of a file, ``B`` images, ``T`` tokens of a text, ``C`` width.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nextscale.conditions.base import Source
from nextscale.conditions.encoder import EncoderReference
from nextscale.documents import parse_json
from nextscale.errors import InputError, one_line, quoted
from nextscale.files import kind_of, written_aside
from nextscale.settings import build

FORMAT = "nextscale-text-1"
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
WANTED = "expected a file of prompts that nextscale encode wrote"


def text_source(states: Sequence[Tensor | None], width: int) -> Source:
    """The source of B texts from the states (T, C) of each, padded to the longest; None where an image has no text."""
    lengths = torch.tensor([0 if one is None else len(one) for one in states])
    padded = torch.zeros(len(states), max(1, int(lengths.max())), width)
    for row, one in zip(padded, states, strict=True):
        if one is not None:
            row[: len(one)] = one
    return Source("text", {"states": padded, "mask": torch.arange(padded.shape[1]) < lengths[:, None]}, lengths == 0)


class TextFeatures:
    """The texts of a file; the states of one are read when they are asked for.

    prompts: the texts; reference: the encoder that made their states; tokens: of all texts together. Raises
    ``InputError`` for a file that is damaged, or another than ``nextscale encode`` writes of prompts.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            seen = f"is {kind_of(self.path)}" if os.path.lexists(self.path) else "is missing"
            raise InputError(f"{self.path} {seen}; {WANTED}")
        about, lengths, text, (shape, number) = self._parts()
        try:
            self.reference = build(EncoderReference, parse_json(about, "encoder"))
            self.prompts: list[str] = json.loads(text.decode())
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path} is damaged ({one_line(error)}); {WANTED}") from None
        ends = [0, *accumulate(lengths)]
        fits = len(shape) == 2 and (shape[0], shape[1]) == (ends[-1], self.reference.width) and number in TYPES
        named = isinstance(self.prompts, list) and all(isinstance(prompt, str) for prompt in self.prompts)
        if not fits or not named or not lengths or min(lengths) < 1 or len(self.prompts) != len(lengths):
            raise InputError(f"{self.path} is damaged: its states, lengths and prompts do not fit together; {WANTED}")
        self.tokens, self._number = ends[-1], TYPES[number]
        self._spans = dict(zip(self.prompts, pairwise(ends), strict=True))
        size = (ends[-1], self.reference.width * self._number.itemsize)
        self._states = np.memmap(self.path, np.uint8, "r", self._start(), size)

    def __contains__(self, prompt: str) -> bool:
        return prompt in self._spans

    def states(self, prompt: str) -> Tensor:
        """The states (T, C) of a text of the file, in its number type. Raises ``InputError`` where they are not
        finite.
        """
        states = torch.from_numpy(self._states[slice(*self._spans[prompt])].copy()).view(self._number)
        if not states.isfinite().all():
            raise InputError(f"the states of {quoted(prompt)} in {self.path} are no numbers; {WANTED}")
        return states

    def _parts(self) -> tuple[str, list[int], bytes, tuple[list[int], str]]:
        """The JSON that describes the encoder, the lengths, the bytes of the prompts, and shape and number type of the
        states.
        """
        try:
            with safe_open(self.path, "np") as file:
                about = file.metadata() or {}
                if about.get("format") != FORMAT or set(file.keys()) != {"lengths", "states", "prompts"}:
                    raise InputError(f"{self.path} holds other things than texts; {WANTED}")
                states = file.get_slice("states")
                lengths, prompts = (file.get_tensor(name) for name in ("lengths", "prompts"))
                counts = lengths.tolist() if lengths.ndim == 1 and lengths.dtype == np.int32 else []
                return about["encoder"], counts, prompts.tobytes(), (states.get_shape(), states.get_dtype())
        except (SafetensorError, OSError, KeyError, AttributeError, TypeError) as error:
            raise InputError(f"{self.path} cannot be read ({one_line(error)}); {WANTED}") from None

    def _start(self) -> int:
        """Where in the file the states begin."""
        with self.path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return 8 + size + int(json.loads(file.read(size))["states"]["data_offsets"][0])


def save_texts(
    path: Path,
    reference: EncoderReference,
    prompts: Sequence[str],
    lengths: Sequence[int],
    states: Iterable[Tensor],
    dtype: torch.dtype,
    overwrite: bool = False,
) -> None:
    """Write what :class:`TextFeatures` reads. states: (T, C) of one text after the other, never in memory together.

    Errors as of :func:`nextscale.files.written_aside`.
    """
    number = next(name for name, kind in TYPES.items() if kind is dtype)
    text = json.dumps(list(prompts), ensure_ascii=False).encode()
    tokens, counts = sum(lengths), np.asarray(lengths, "<i4").tobytes()
    ends = [0, *accumulate((len(counts), tokens * reference.width * dtype.itemsize, len(text)))]
    tensors = (
        ("lengths", "I32", [len(lengths)]),
        ("states", number, [tokens, reference.width]),
        ("prompts", "U8", [len(text)]),
    )
    header: dict[str, Any] = {"__metadata__": {"format": FORMAT, "encoder": json.dumps(asdict(reference))}}
    for i, (name, kind, shape) in enumerate(tensors):
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": ends[i : i + 2]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    try:
        with written_aside(path, overwrite) as aside, aside.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head + counts)
            for one in states:
                file.write(one.to(dtype).contiguous().view(torch.uint8).numpy().data)
            file.write(text)
    except OSError as error:  # what a full disk says names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
