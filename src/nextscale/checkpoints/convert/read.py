"""Reading foreign weight files: tensors only, nothing is ever executed, and what is wrong is said in one sentence."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from nextscale.errors import CheckpointError

DEEPEST = 4
"""Trainers nest state dicts (``trainer.var_wo_ddp``); nobody nests deeper than this."""


def read_states(path: Path) -> dict[str, dict[str, Tensor]]:
    """All state dicts of a ``.safetensors`` or PyTorch file, by where they stand in it ("" for the file itself).

    Raises ``CheckpointError`` if the file is missing, truncated, not a weight file, or holds more than tensors and
    plain data.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is {'a folder' if path.is_dir() else 'missing'}; expected a weight file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; expected a weight file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    states = dict(_state_dicts(content, ""))
    if not states:
        raise CheckpointError(f"{path} holds no tensors by name ({_glimpse(content)}); expected a state dict")
    return states


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error})") from None


def _read_torch(path: Path) -> Any:
    """The content of a ``.pth`` file; the unpickler knows tensors and plain data and refuses to build anything else."""
    with path.open("rb") as file:
        start = file.read(4)
    zipped = start == b"PK\x03\x04"
    if not zipped and start[:1] != b"\x80":  # neither an archive nor a pickle: a web page, say
        raise CheckpointError(
            f"{path} begins with {start!r} and is not a PyTorch weight file; expected .pth or .safetensors"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the unpickler remarks on newer pickle protocols before it refuses them
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign or "Unsupported" in str(error):
            named = f" ({foreign[1]})" if foreign else ""
            raise CheckpointError(
                f"{path} holds Python objects{named}, which could run code when read; expected tensors only, and "
                "nothing was run"
            ) from None
        raise CheckpointError(f"{path} is not a PyTorch weight file; its pickle cannot be read") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError):
        expected = "expected a whole .pth or .safetensors file"
        size = path.stat().st_size
        raise CheckpointError(f"{path} ({size} bytes) is truncated or not a PyTorch weight file; {expected}") from None


def _state_dicts(content: Any, where: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Mappings of names to nothing but tensors, wherever they are nested."""
    if not isinstance(content, Mapping) or not content or depth > DEEPEST:
        return
    if all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()):
        yield where, dict(content)
        return
    for name, value in content.items():
        yield from _state_dicts(value, f"{where}.{name}" if where else str(name), depth + 1)


def _glimpse(content: Any) -> str:
    if isinstance(content, Mapping):
        names = ", ".join(map(str, list(content)[:4]))
        return f"found a mapping with {names}" if names else "found an empty mapping"
    return f"found a {type(content).__name__}"
