"""A text encoder by reference: found on this machine or fetched, checked, and the encoder half of a T5 run.

As Infinity publishes it: the last hidden states of every token, the end token among them, of texts that are cut at a
number of tokens. Shape letters: ``T`` tokens of a text, ``C`` width of their states.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nextscale.documents import read_json
from nextscale.errors import CheckpointError, InputError, missing, one_line, quoted, warn_user
from nextscale.files import BLOCK
from nextscale.settings import check_bounds

WHOLE, INDEX, WORDS = "model.safetensors", "model.safetensors.index.json", "tokenizer.json"
TURN = 32
"""How many texts of one length a GPU encodes at once. A CPU encodes them one by one, so that the states of a text are
the same bits whatever else is encoded."""


@dataclass(frozen=True)
class EncoderReference:
    """Which text encoder a model reads; its weights are never part of a checkpoint.

    encoder: a repository on the hub or a folder; revision: branch, tag or commit on the hub; sha256: of its weights, as
    :func:`digest` has it, None where nobody has put it down; width: C; length: tokens that a text is cut at.
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

    Raises ``CheckpointError`` where it is neither here nor fetched, is no T5, or has another digest than the reference.
    """

    def __init__(self, reference: EncoderReference, device: torch.device, dtype: torch.dtype) -> None:
        words = _tokenizers()
        folder = encoder_folder(reference)
        network = _without_values(folder, reference)
        if reference.sha256 and (found := digest(folder)) != reference.sha256:
            raise CheckpointError(
                f"the weights of the text encoder {reference.encoder} in {folder} have sha256 {found[:16]}..., but the "
                f"model was made with {reference.sha256[:16]}...; expected that revision of it"
            )
        self.reference, self.device, self.dtype = reference, device, dtype
        self.turn = 1 if device.type == "cpu" else TURN
        self.network = _with_values(network, folder, device, dtype)
        try:
            self._words = words.from_file(str(folder / WORDS))
        except Exception as error:  # the tokenizers library raises plain Exceptions
            raise CheckpointError(f"{folder / WORDS} cannot be read ({one_line(error)})") from None
        self._words.no_truncation()
        self._words.no_padding()

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

    @torch.no_grad()
    def states(self, tokens: Sequence[Sequence[int]]) -> list[Tensor]:
        """The states (T, C) of every text, on the CPU. Only texts of one length are ever encoded together, so that
        nothing is padded, and none sees another.
        """
        turns: dict[int, list[int]] = {}
        for i, ids in enumerate(tokens):
            turns.setdefault(len(ids), []).append(i)
        found: dict[int, Tensor] = {}
        for rows in turns.values():
            for some in (rows[start : start + self.turn] for start in range(0, len(rows), self.turn)):
                together = torch.tensor([list(tokens[i]) for i in some], device=self.device)
                found |= zip(some, self.network(input_ids=together).last_hidden_state.cpu(), strict=True)
        return [found[i] for i in range(len(tokens))]


def encoder_folder(reference: EncoderReference) -> Path:
    """The folder of an encoder: the one that is named, or one in the hub's own cache, fetched where it is not there.

    Raises ``CheckpointError``, which says how to get the encoder, where it cannot be fetched.
    """
    name = reference.encoder
    if os.path.isdir(name):
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointError(f"the text encoder {name} is neither a folder here nor org/name on the hub")
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=reference.revision)
    if isinstance(cached, str) and _is_whole(Path(cached).parent):
        return Path(cached).parent
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
    """The safetensors files that hold the encoder half. Raises ``CheckpointError`` where there are none."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder} has neither {WHOLE} nor {INDEX}; expected an encoder as transformers saves it, without pickles"
        )
    table = read_json(folder / INDEX, CheckpointError)
    named = table.get("weight_map") if isinstance(table, dict) else None
    files = {file for name, file in named.items() if _of_encoder(name)} if isinstance(named, dict) else set()
    if not files or not all(isinstance(file, str) and re.fullmatch(r"[\w.-]+\.safetensors", file) for file in files):
        raise CheckpointError(f"{folder / INDEX} names the files {quoted(sorted(map(str, files)))}; it is damaged")
    return [folder / file for file in sorted(files)]


def _instead(reference: EncoderReference) -> str:
    at = f" --revision {reference.revision}" if reference.revision else ""
    return (
        f'with a connection (and HF_HUB_OFFLINE not set) hf download {reference.encoder}{at} --include "*.json" '
        '--include "*.safetensors" puts it here; prompts that nextscale encode has put into a file need no encoder: '
        "--features FILE, or load(..., features=FILE)"
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


def _tokenizers() -> Any:
    """The class of tokenizers, once all that an encoder needs is known to be installed."""
    for package in ("transformers", "tokenizers"):
        try:
            found = import_module(package)
        except ImportError:
            raise CheckpointError(missing(package, "a text encoder", "text")) from None
    return found.Tokenizer


def _of_encoder(name: str) -> bool:
    return name == "shared.weight" or name.startswith("encoder.")


def _without_values(folder: Path, reference: EncoderReference) -> nn.Module:
    """The encoder half, on the meta device. Raises ``CheckpointError`` for another network, or one of another width."""
    from transformers import T5Config, T5EncoderModel

    about = read_json(folder / "config.json", CheckpointError)
    kind, width = (about.get(key) if isinstance(about, dict) else None for key in ("model_type", "d_model"))
    if kind != "t5":
        raise CheckpointError(f"{folder} is of the type {quoted(kind)}; expected a text encoder of the type 't5'")
    if width != reference.width:
        raise CheckpointError(
            f"the text encoder {reference.encoder} gives states of width {quoted(width)}; expected {reference.width}, "
            "which the model reads"
        )
    try:
        with torch.device("meta"):
            return T5EncoderModel(T5Config.from_dict(about))
    except Exception as error:  # whatever transformers says of settings that do not fit together
        raise CheckpointError(f"{folder / 'config.json'} describes no T5 ({one_line(error)})") from None


def _with_values(network: nn.Module, folder: Path, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Load its weights, and no others, tensor by tensor."""
    state: dict[str, Tensor] = {}
    try:
        for path in weight_files(folder):
            with safe_open(path, "pt") as file:
                for name in filter(_of_encoder, file.keys()):
                    # As in transformers: what leaves a feed-forward layer can be too large for float16.
                    number = torch.float32 if dtype is torch.float16 and ".wo." in name else dtype
                    state[name] = file.get_tensor(name).to(device, number)
        shared = state.get("shared.weight", state.get("encoder.embed_tokens.weight"))
        state |= {} if shared is None else {"shared.weight": shared, "encoder.embed_tokens.weight": shared}
        network.load_state_dict(state, assign=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"the text encoder in {folder} cannot be loaded ({one_line(error)})") from None
    return network.eval().requires_grad_(False)
