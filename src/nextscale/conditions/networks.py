"""Networks of transformers that encode texts: the encoder half of a T5, and a BERT such as MiniLM."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nextscale.documents import read_json
from nextscale.errors import CheckpointError, missing, one_line, quoted

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BERT_LENGTH = 256
"""The most tokens of a text: MiniLM's authors cut texts there."""


def check_installed() -> None:
    """Raises ``CheckpointError`` where transformers is not installed."""
    try:
        import_module("transformers")
    except ImportError:
        raise CheckpointError(missing("transformers", "a text encoder", "text")) from None


def weight_files(folder: Path, kind: str) -> list[Path]:
    """The safetensors files that hold the encoder. Raises ``CheckpointError`` where there are none."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder} has neither {WHOLE} nor {INDEX}; expected an encoder as transformers saves it, without pickles"
        )
    table = read_json(folder / INDEX, CheckpointError)
    named = table.get("weight_map") if isinstance(table, dict) else None
    files = {file for name, file in named.items() if _of_encoder(name, kind)} if isinstance(named, dict) else set()
    if not files or not all(isinstance(file, str) and re.fullmatch(r"[\w.-]+\.safetensors", file) for file in files):
        raise CheckpointError(f"{folder / INDEX} names the files {quoted(sorted(map(str, files)))}; it is damaged")
    return [folder / file for file in sorted(files)]


def without_values(folder: Path, kind: str, about: dict[str, Any], length: int) -> nn.Module:
    """The encoder that ``about``, the content of its ``config.json``, describes, on the meta device. Raises
    ``CheckpointError`` where it describes none, or one that reads texts of fewer tokens than ``length``.
    """
    check_installed()
    from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

    try:
        with torch.device("meta"):
            if kind == "t5":
                return T5EncoderModel(T5Config.from_dict(about))
            network = BertModel(BertConfig.from_dict(about), add_pooling_layer=False)
    except Exception as error:  # whatever transformers says of settings that do not fit together
        raise CheckpointError(f"{folder / 'config.json'} describes no {kind.upper()} ({one_line(error)})") from None
    most = min(BERT_LENGTH, network.config.max_position_embeddings)
    if length > most:
        raise CheckpointError(
            f"texts are cut at {length:,} tokens (length); expected {most} or fewer, which the text encoder in "
            f"{folder} reads"
        )
    return network


def with_values(network: nn.Module, folder: Path, kind: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Load its weights, and no others, tensor by tensor."""
    state: dict[str, Tensor] = {}
    try:
        for path in weight_files(folder, kind):
            with safe_open(path, "pt") as file:
                for name in (name for name in file.keys() if _of_encoder(name, kind)):  # noqa: SIM118
                    # As in transformers: what leaves a feed-forward layer can be too large for float16.
                    number = torch.float32 if dtype is torch.float16 and ".wo." in name else dtype
                    state[name] = file.get_tensor(name).to(device, number)
        if kind == "t5":
            shared = state.get("shared.weight", state.get("encoder.embed_tokens.weight"))
            state |= {} if shared is None else {"shared.weight": shared, "encoder.embed_tokens.weight": shared}
        network.load_state_dict(state, assign=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise CheckpointError(f"the text encoder in {folder} cannot be loaded ({one_line(error)})") from None
    return network.eval().requires_grad_(False)


def encode(network: nn.Module, kind: str, tokens: Tensor) -> Tensor:
    """Tokens (B, T) of texts of one length to the last hidden states (B, T, C)."""
    # A BERT's own numbers of places and segments are no weights, so nothing loads them.
    places = torch.arange(tokens.shape[1], device=tokens.device)[None]
    given = {"token_type_ids": torch.zeros_like(tokens), "position_ids": places} if kind == "bert" else {}
    return network(input_ids=tokens, **given).last_hidden_state


def _of_encoder(name: str, kind: str) -> bool:
    if kind == "bert":
        return name.startswith(("embeddings.", "encoder.")) and name != "embeddings.position_ids"
    return name == "shared.weight" or name.startswith("encoder.")
