"""Prompts, and negative prompts, as the states of a frozen text encoder.

An entry is ``{"prompt": "a red fox", "negative_prompt": None}``. The states come from a file that was made before, or
from the encoder, which is loaded when a text first needs it. Shape letters: ``B`` images, ``T`` tokens, ``C`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from nextscale.conditions.base import Conditioner, Entry, Features
from nextscale.conditions.encoder import EncoderReference, TextEncoder, bundled_encoders, digest, encoder_folder
from nextscale.conditions.textfile import TextFeatures, save_texts, text_source
from nextscale.errors import CheckpointError, InputError, quoted, warn_user
from nextscale.files import check_new
from nextscale.settings import build
from nextscale.values import listed, plain

CHUNK = 64
"""Texts that are encoded between two steps of a progress bar."""


class TextConditioner(Conditioner):
    """Reads prompts. low_memory: the encoder leaves memory as soon as it has encoded the texts of a call, and the next
    call with other texts loads it again; otherwise it stays. styles: by their names, the words that the model was
    trained to read behind a prompt and a comma.
    """

    example: ClassVar[str] = 'prompt="a red heart"'

    def __init__(
        self, reference: EncoderReference | None = None, *, low_memory: bool = False, styles: Mapping[str, str] = {}
    ) -> None:
        self.reference, self.low_memory, self.styles = reference or EncoderReference(), low_memory, dict(styles)
        self._device, self._dtype = torch.device("cpu"), torch.float32
        self._encoder: TextEncoder | None = None
        self._file: TextFeatures | None = None
        self._last: dict[str, Tensor] = {}

    @property
    def gives(self) -> Mapping[str, int]:
        return {"text": self.reference.width}

    @property
    def about(self) -> str:
        return f"prompts, through {self.reference.encoder}"

    def resolve(self, **asked: Any) -> list[Entry]:
        """One entry per prompt; a prompt may be the first argument of a call, too. negative_prompt: one for all, or one
        per prompt; None means none, and so does an empty one, as in the official code. An empty prompt is a text like
        any other. style: one for all, or one per prompt; a prompt gets it behind a comma, and so has its entry.
        """
        prompt, negative = asked.pop("prompt", None), asked.pop("negative_prompt", None)
        first = asked.get("class_labels")
        if isinstance(prompt, str) and isinstance(first, str):
            raise InputError(f"two prompts were given, {quoted(first)} and prompt={quoted(prompt)}; expected one")
        if prompt is None and all(isinstance(text, str) for text in listed(first) or [first]):
            prompt = asked.pop("class_labels")
        style = asked.pop("style", None) if self.styles else None
        for name, value in asked.items():
            if value is not None:
                raise InputError(f"{name} is {quoted(value)}, but this model reads text alone; expected prompt=...")
        prompts = listed(prompt)
        prompts = [plain(prompt)] if prompts is None else prompts
        if prompt is None or not prompts:
            raise InputError(f"no prompt was given; expected a text, as in {self.example}")
        negatives = listed(negative)
        negatives = [plain(negative)] * len(prompts) if negatives is None else negatives
        if len(negatives) != len(prompts):
            raise InputError(
                f"{len(negatives)} negative prompts were given for {len(prompts)} prompts; expected one for "
                "all, or one per prompt"
            )
        for text in prompts:
            _check_text("prompt", text)
        prompts = self._in_styles(prompts, style)
        for text in negatives:
            if text is not None:
                _check_text("negative_prompt", text)
        if self.reference.encoder in bundled_encoders():  # looked up in no time, so what is lost is said at once
            said = dict.fromkeys(text for text in (*prompts, *negatives) if text)
            self._warn_of_unknown(said)
            self._states(said)
        return [
            {"prompt": one, "negative_prompt": other or None} for one, other in zip(prompts, negatives, strict=True)
        ]

    def features(self, entries: Sequence[Entry]) -> Features:
        """The sources ``text`` and ``negative``, each of B texts padded to the longest of them. Warns of texts that are
        too long. Raises ``CheckpointError`` where an encoder is needed and cannot be loaded.
        """
        texts = {"text": [entry["prompt"] for entry in entries]}
        texts["negative"] = [entry.get("negative_prompt") for entry in entries]
        states = self._states(dict.fromkeys(text for said in texts.values() for text in said if text is not None))
        width = self.reference.width
        sources = {name: text_source([states.get(text) for text in said], width) for name, said in texts.items()}
        return Features(len(entries), sources)

    def told(self, entries: Sequence[Entry]) -> list[str]:
        """By the texts alone, so that nothing is encoded."""
        return ["text", *(["negative"] if any(entry.get("negative_prompt") for entry in entries) else [])]

    def samples(self, count: int) -> list[Entry]:
        """Prompts of the file that it has."""
        prompts = self._file.prompts[:count] if self._file else []
        return [{"prompt": prompt, "negative_prompt": None} for prompt in prompts]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """An encoder that is in memory on another device or in another number type is dropped, and loaded again when it
        is needed.
        """
        if (device, dtype) != (self._device, self._dtype):
            self._device, self._dtype, self._encoder, self._last = device, dtype, None, {}

    def prepared(self, features: str | Path | None = None, low_memory: bool = False) -> TextConditioner:
        if not isinstance(features, str | PathLike | None):
            raise InputError(f"features is {quoted(features)}; expected a file that nextscale encode made of prompts")
        if not isinstance(low_memory, bool):
            raise InputError(f"low_memory is {quoted(low_memory)}; expected True or False")
        made = copy(self) if features is None else self.with_features(features)
        made.low_memory = low_memory
        return made

    def with_features(self, path: str | Path) -> TextConditioner:
        """The same, reading the states of the texts in a file of ``nextscale encode`` from there. Raises ``InputError``
        for a file that is damaged, or that another encoder made.
        """
        file = TextFeatures(path)
        if not file.reference.agrees(self.reference):
            theirs, ours = str(file.reference), str(self.reference)
            if theirs == ours:  # so the weights differ
                theirs, ours = f"{theirs}, sha256 {file.reference.sha256}", f"sha256 {self.reference.sha256}"
            raise InputError(
                f"the features in {path} were made by {theirs}; expected those of {ours}, which the model reads"
            )
        made = copy(self)
        made._file, made._last = file, {}
        return made

    def save_features(
        self,
        path: str | Path,
        prompts: Iterable[str],
        overwrite: bool = False,
        step: Callable[[int, int], object] = lambda done, total: None,
    ) -> TextFeatures:
        """Encode texts, each once, into a file, and give a reader of it; step: called with (texts done, texts).

        Errors as of :meth:`features` and :func:`nextscale.files.written_aside`.
        """
        path, texts = Path(path), list(dict.fromkeys(prompts))
        check_new(path, overwrite)
        for text in texts:
            _check_text("a prompt", text)
        if not texts:
            raise InputError("there is no prompt to encode; expected at least one")
        encoder = self._loaded()
        tokens = encoder.tokens(texts)
        reference = replace(self.reference, sha256=self.reference.sha256 or digest(encoder_folder(self.reference)))

        def states() -> Iterator[Tensor]:
            for start in range(0, len(texts), CHUNK):
                yield from encoder.states(tokens[start : start + CHUNK])
                step(min(start + CHUNK, len(texts)), len(texts))

        save_texts(path, reference, texts, [len(ids) for ids in tokens], states(), encoder.dtype, overwrite)
        return TextFeatures(path)

    def spread(self, say: Callable[[str], None], **typed: list[str]) -> dict[str, list[Any]]:
        """Every prompt in every style that was named; "all" names each."""
        if "all" in typed.get("style", []):
            typed["style"] = list(self.styles)
        return super().spread(say, **typed)

    def lists(self) -> dict[str, list[str]]:
        return {"styles": list(self.styles)} if self.styles else {}

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self.reference), **({"styles": self.styles} if self.styles else {})}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TextConditioner:
        styles = data.get("styles", {})
        if not isinstance(styles, Mapping) or not all(isinstance(words, str) and words for words in styles.values()):
            raise CheckpointError(f"the styles of prompts are {quoted(styles)}; expected names, and words for each")
        try:
            reference = build(EncoderReference, {name: value for name, value in data.items() if name != "styles"})
        except InputError as error:
            raise CheckpointError(f"the text encoder: {error}") from None
        return cls(reference, styles=styles)

    def _in_styles(self, prompts: Sequence[str], style: Any) -> list[str]:
        """The prompts, each with its style."""
        styles = listed(style)
        styles = [plain(style)] * len(prompts) if styles is None else styles
        if len(styles) != len(prompts):
            raise InputError(
                f"{len(styles)} styles were given for {len(prompts)} prompts; expected one for all, or one per prompt"
            )
        return [
            text if one is None else f"{text}, {self._style_words(one)}"
            for text, one in zip(prompts, styles, strict=True)
        ]

    def _style_words(self, style: Any) -> str:
        """The words for a style, by its name or by these words themselves, in large or small letters."""
        known = {words.casefold(): words for words in self.styles.values()}
        known |= {name.casefold(): words for name, words in self.styles.items()}
        if not isinstance(style, str) or style.casefold() not in known:
            raise InputError(f"style is {quoted(style)}; expected one of {', '.join(self.styles)}")
        return known[style.casefold()]

    def _loaded(self) -> TextEncoder:
        """The encoder, which stays unless memory is low."""
        encoder = self._encoder or TextEncoder(self.reference, self._device, self._dtype)
        self._encoder = None if self.low_memory else encoder
        return encoder

    def _warn_of_unknown(self, texts: Iterable[str]) -> None:
        """Words that the encoder does not know look alike to it, so a text of these alone draws anything."""
        encoder = self._loaded()
        for text in texts:
            if words := ", ".join(map(quoted, encoder.unknown(text))):
                warn_user(
                    f"{quoted(text)} has what {self.reference.encoder} does not know ({words}), which means nothing to "
                    "the model; say it in English words"
                )

    def _states(self, texts: Iterable[str]) -> dict[str, Tensor]:
        """The states (T, C) of each of these texts: from the call before, the file, or the encoder."""
        known, absent = dict[str, Tensor](), list[str]()
        for text in texts:
            if text in self._last:
                known[text] = self._last[text]
            elif self._file and text in self._file:
                known[text] = self._file.states(text)
            else:
                absent.append(text)
        if absent:
            try:
                encoder = self._loaded()
            except CheckpointError as error:
                aside = f"{quoted(absent[0])} is not in {self._file.path}, and " if self._file else ""
                raise CheckpointError(f"{aside}{error}") from error
            known |= zip(absent, encoder.states(encoder.tokens(absent)), strict=True)
        self._last = known
        return known


def _check_text(name: str, given: Any) -> None:
    """Raises ``InputError`` for what is no text, or cannot be written as UTF-8."""
    if not isinstance(given, str):
        raise InputError(f"{name} is {quoted(given)}; expected a text")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise InputError(f"{name} is {quoted(given)}, which is no text in Unicode; expected one") from None
